"""One deadline for a whole call: set at the server's door, read by what waits, forwarded to what it calls."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import grpc
import pytest

from serving import deadlines
from serving.errors import DeadlineExceeded
from serving.limits import MAX_DEADLINE_SECONDS


def test_outside_a_call_there_is_no_deadline() -> None:
    assert deadlines.remaining() == math.inf
    assert deadlines.budget(3.5) == 3.5


def test_a_budget_is_what_is_left_when_that_is_less() -> None:
    with deadlines.with_deadline(2.0):
        assert deadlines.budget(1.0) == 1.0
        assert 0 < deadlines.budget(10.0) <= 2.0


def test_a_budget_of_nothing_is_refused() -> None:
    with deadlines.with_deadline(0.0), pytest.raises(DeadlineExceeded):
        deadlines.budget(1.0)


def test_an_inner_deadline_cannot_outlast_an_outer_one() -> None:
    with deadlines.with_deadline(1.0):
        with deadlines.with_deadline(50.0):
            assert deadlines.remaining() <= 1.0
        with deadlines.with_deadline(0.1):
            assert deadlines.remaining() <= 0.1
        assert deadlines.remaining() > 0.1
    assert deadlines.remaining() == math.inf


async def test_what_runs_past_its_deadline_is_cancelled() -> None:
    with deadlines.with_deadline(0.01), pytest.raises(DeadlineExceeded):
        async with deadlines.enforced():
            await asyncio.Event().wait()


async def test_a_timeout_of_its_own_is_not_taken_for_the_deadline() -> None:
    with deadlines.with_deadline(60), pytest.raises(TimeoutError):
        async with deadlines.enforced():
            raise TimeoutError


async def _left(request: bytes, context: Any) -> bytes:
    return str(deadlines.remaining()).encode()


@pytest.mark.parametrize("asked", [None, MAX_DEADLINE_SECONDS * 10.0])
async def test_no_deadline_or_a_longer_one_is_cut_to_the_longest(echoing: Any, shape: str, asked: float | None) -> None:
    async with echoing(_left) as echo, grpc.aio.insecure_channel(echo.server.address) as bare:
        echo.channel = bare
        left = float(await echo.call(shape, timeout=asked))
    assert MAX_DEADLINE_SECONDS - 5 < left <= MAX_DEADLINE_SECONDS


async def test_the_callers_deadline_arrives(echoing: Any, shape: str) -> None:
    async with echoing(_left) as echo:
        left = float(await echo.call(shape, timeout=30))
    assert 25 < left < 31


async def test_a_call_ends_no_later_than_the_one_it_is_made_for(echoing: Any, shape: str) -> None:
    async with echoing(_left) as echo:
        with deadlines.with_deadline(20):
            assert float(await echo.call(shape)) < 21
            assert float(await echo.call(shape, timeout=300)) < 21
            assert float(await echo.call(shape, timeout=10)) < 11


async def test_a_caller_that_hangs_up_stops_the_work(echoing: Any, shape: str) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def hang(request: bytes, context: Any) -> bytes:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return b""

    async with echoing(hang) as echo:
        call = asyncio.create_task(echo.call(shape))
        await began.wait()
        call.cancel()
        await stopped.wait()
        await asyncio.gather(call, return_exceptions=True)


async def test_a_deadline_that_passes_stops_the_work(echoing: Any, shape: str) -> None:
    stopped = asyncio.Event()

    async def hang(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return b""

    async with echoing(hang) as echo:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await echo.call(shape, timeout=0.05)
        await stopped.wait()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
