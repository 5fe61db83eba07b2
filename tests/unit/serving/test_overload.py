"""More calls than a server works on at once are refused, and told when to come back."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.errors import ResourceExhausted
from serving.status import from_rpc_error


async def test_calls_beyond_the_bound_are_refused_with_a_hint_and_health_still_answers(
    echoing: Any, shape: str
) -> None:
    began, go = asyncio.Semaphore(0), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        began.release()
        await go.wait()
        return b"done"

    async with echoing(wait, max_concurrent_calls=2) as echo:
        first = [asyncio.create_task(echo.call(shape)) for _ in range(2)]
        for _ in first:
            await began.acquire()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await echo.call(shape)
        refused = from_rpc_error(caught.value)
        health = health_pb2_grpc.HealthStub(echo.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        go.set()
        assert await asyncio.gather(*first) == [b"done", b"done"]
        assert await echo.call(shape) == b"done"
    assert isinstance(refused, ResourceExhausted)
    assert refused.reason == "TOO_MANY_CALLS"
    assert refused.retry_after_ms > 0
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_calls_that_ended_in_any_way_make_room(echoing: Any, shape: str) -> None:
    ended = asyncio.Semaphore(0)

    async def behave(request: bytes, context: Any) -> bytes:
        try:
            if request == b"fail":
                raise ValueError
            if request == b"hang":
                await asyncio.Event().wait()
        finally:
            ended.release()
        return request

    async with echoing(behave, max_concurrent_calls=1) as echo:
        for request in (b"fail", b"hang", b"fail", b"hang"):
            with pytest.raises(grpc.aio.AioRpcError):
                await echo.call(shape, request=request, timeout=0.05 if request == b"hang" else 5)
            await ended.acquire()  # a caller learns of its deadline before the server does
        assert await echo.call(shape, request=b"fine") == b"fine"
