"""How long the current call may still take; the server's interceptor sets it, everything that waits reads it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from serving.errors import DeadlineExceeded

_ends_at: ContextVar[float] = ContextVar("ends_at", default=math.inf)  # on the monotonic clock


def remaining() -> float:
    """Seconds left of the current call: negative once it is over, infinite outside a call."""
    return _ends_at.get() - time.monotonic()


def budget(limit_seconds: float) -> float:
    """The seconds that a step may take: its own limit or what is left of the call, whichever is less.

    Raises DeadlineExceeded when nothing is left.
    """
    seconds = min(limit_seconds, remaining())
    if seconds <= 0:
        raise DeadlineExceeded("the call's deadline has passed; allow more time")
    return seconds


def start_call(seconds: float) -> None:
    """Give the current task its deadline. For the interceptor: a call has a task of its own, so nothing resets it."""
    _ends_at.set(time.monotonic() + seconds)


@contextmanager
def with_deadline(seconds: float) -> Iterator[None]:
    """Give what runs inside a deadline, for code outside a call; an earlier one that is already set stays."""
    token = _ends_at.set(min(_ends_at.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _ends_at.reset(token)


@asynccontextmanager
async def enforced() -> AsyncIterator[None]:
    """Cancel what runs inside when the deadline passes, and raise DeadlineExceeded in its place."""
    seconds = remaining()
    if math.isinf(seconds):
        yield
        return
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded("the call's deadline has passed; allow more time") from error
