"""Tasks that live no longer than the stream they work for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def begun(work: Coroutine[Any, Any, T]) -> AsyncGenerator[asyncio.Task[T], None]:
    """The work, begun already; cancelled when it is left before its end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def drained(queue: asyncio.Queue[T], producer: Coroutine[Any, Any, None]) -> AsyncGenerator[T, None]:
    """What the producer puts into the queue, until it has ended; then its error is raised. Closing this cancels it."""
    producing = asyncio.create_task(producer)
    try:
        while not (producing.done() and queue.empty()):
            getting = asyncio.ensure_future(queue.get())
            try:
                await asyncio.wait({getting, producing}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    continue
                yield getting.result()
            finally:
                getting.cancel()
        await producing
    finally:
        producing.cancel()
        await asyncio.gather(producing, return_exceptions=True)
