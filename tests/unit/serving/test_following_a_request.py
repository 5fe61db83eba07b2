"""One request id and one trace through every hop, on the answer, in the log and in the metrics."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from prometheus_client import REGISTRY

from serving import telemetry
from serving.errors import NotFound

KEY = telemetry.REQUEST_ID_KEY


async def _its_id(request: bytes, context: Any) -> bytes:
    return telemetry.request_id().encode()


async def _fails(request: bytes, context: Any) -> bytes:
    raise NotFound("nothing here")


async def test_a_callers_id_is_adopted(echoing: Any, shape: str) -> None:
    async with echoing(_its_id) as echo:
        assert await echo.call(shape, metadata=((KEY, "mine-1"),)) == b"mine-1"


@pytest.mark.parametrize("unfit", ["", "x" * 65, "with spaces", 'quo"te'])
async def test_an_id_that_is_not_fit_to_be_logged_is_replaced(echoing: Any, unfit: str) -> None:
    async with echoing(_its_id) as echo:
        made = (await echo.call("UnaryUnary", metadata=((KEY, unfit),))).decode()
    assert made
    assert made != unfit


async def test_every_request_gets_its_own_id(echoing: Any) -> None:
    async with echoing(_its_id) as echo:
        made = await asyncio.gather(*(echo.call("UnaryUnary") for _ in range(20)))
    assert len(set(made)) == 20


async def test_the_id_goes_on_to_the_next_hop(echoing: Any, shape: str) -> None:
    async with echoing(_its_id) as second:

        async def forward(request: bytes, context: Any) -> bytes:
            return await second.call(shape)

        async with echoing(forward) as first:
            assert await first.call("UnaryUnary", metadata=((KEY, "mine-2"),)) == b"mine-2"


@pytest.mark.parametrize("behave", [_its_id, _fails])
async def test_the_id_is_on_the_answer_whether_it_succeeds_or_fails(echoing: Any, behave: Any) -> None:
    async with echoing(behave) as echo:
        call = echo.channel.unary_unary(f"/{echo.service}/UnaryUnary")(b"", metadata=((KEY, "mine-3"),))
        await asyncio.gather(call, return_exceptions=True)
        assert dict(await call.trailing_metadata())[KEY] == "mine-3"


async def test_the_trace_goes_on_to_the_next_hop(echoing: Any, shape: str) -> None:
    async def its_trace(request: bytes, context: Any) -> bytes:
        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id).encode()

    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0x123, is_remote=False))
    async with echoing(its_trace) as echo:
        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            assert await echo.call(shape) == trace.format_trace_id(0xABC).encode()
        finally:
            otel_context.detach(token)


async def test_calls_are_counted_by_status(echoing: Any, shape: str) -> None:
    def count(metric: str, **more: str) -> float:
        labels = {"grpc_service": "headwater.test.v1.EchoService", "grpc_method": shape, **more}
        return REGISTRY.get_sample_value(metric, labels) or 0.0

    def counts() -> list[float]:
        return [
            count("grpc_server_started_total"),
            count("grpc_server_handled_total", grpc_code="OK"),
            count("grpc_server_handled_total", grpc_code="NOT_FOUND"),
            count("grpc_server_handling_seconds_count", grpc_code="OK"),
        ]

    before = counts()
    async with echoing(_its_id) as echo:
        await echo.call(shape)
    async with echoing(_fails) as echo:
        with pytest.raises(grpc.aio.AioRpcError):
            await echo.call(shape)
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [2, 1, 1, 1]


async def test_a_call_is_one_line_of_the_log_with_its_id(echoing: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="serving.interceptors"):
        async with echoing(_fails) as echo:
            with pytest.raises(grpc.aio.AioRpcError):
                await echo.call("UnaryUnary", metadata=((KEY, "mine-4"),))
    calls = [record.msg for record in caplog.records if record.name == "serving.interceptors"]
    assert [(call["event"], call["code"], call["request_id"]) for call in calls] == [("call", "NOT_FOUND", "mine-4")]
