"""Waiting for things, and for failures."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from serving.errors import HeadwaterError
from serving.status import from_rpc_error


async def failure(call: Awaitable[Any]) -> HeadwaterError:
    """The error that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def until(condition: Callable[[], Any]) -> None:
    """Return once the condition holds."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")
