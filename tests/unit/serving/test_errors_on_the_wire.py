"""What a call raises arrives as what was meant, in all four shapes, and what was not meant says nothing."""

from __future__ import annotations

import json
import logging
from typing import Any

import grpc
import pytest

from serving import telemetry
from serving.errors import (
    ErrorCode,
    FailedPrecondition,
    HeadwaterError,
    InvalidArgument,
    ResourceExhausted,
)
from serving.limits import MAX_MESSAGE_BYTES
from serving.status import GRPC_STATUS, HTTP_STATUS, from_rpc_error


async def _caught(echo: Any, shape: str, **options: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await echo.call(shape, **options)
    return caught.value


async def test_an_error_arrives_with_its_details(echoing: Any, shape: str) -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        raise ResourceExhausted("queue is full; come back", reason="QUEUE_FULL", field="texts", retry_after_ms=1250)

    async with echoing(refuse) as echo:
        error = from_rpc_error(await _caught(echo, shape))
    assert isinstance(error, ResourceExhausted)
    assert error.message == "queue is full; come back"
    assert (error.code, error.reason, error.field) == (ErrorCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "texts")
    assert error.retry_after_ms == 1250


@pytest.mark.parametrize("code", list(ErrorCode))
async def test_every_code_makes_the_round_trip(echoing: Any, code: ErrorCode) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise HeadwaterError("words", code=code, reason="WHY")

    async with echoing(fail) as echo:
        raised = await _caught(echo, "UnaryUnary")
    assert raised.code() is GRPC_STATUS[code]
    error = from_rpc_error(raised)
    assert (error.code, error.reason, error.message) == (code, "WHY", "words")


async def test_an_error_in_the_middle_of_a_stream_arrives_after_what_was_sent(echoing: Any) -> None:
    async def second_fails(request: bytes, context: Any) -> bytes:
        if request == b"2":
            raise FailedPrecondition("not now")
        return request

    async with echoing(second_fails) as echo:
        call = echo.channel.stream_stream("/headwater.test.v1.EchoService/StreamStream")()
        await call.write(b"1")
        assert await call.read() == b"1"
        await call.write(b"2")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert isinstance(from_rpc_error(caught.value), FailedPrecondition)


async def test_what_was_not_meant_is_internal_and_quotes_nothing(echoing: Any, shape: str) -> None:
    async def bug(request: bytes, context: Any) -> bytes:
        raise ValueError(f"could not parse {request!r}")

    async with echoing(bug) as echo:
        raised = await _caught(
            echo, shape, request=b"a secret sentence", metadata=((telemetry.REQUEST_ID_KEY, "request-7"),)
        )
    error = from_rpc_error(raised)
    assert error.code is ErrorCode.INTERNAL
    assert "request-7" in error.message
    assert "secret" not in str(raised)


async def test_the_log_of_what_was_not_meant_has_frames_and_no_text(
    echoing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug(request: bytes, context: Any) -> bytes:
        sentence = request.decode()
        raise ValueError(f"could not parse {sentence}")

    with caplog.at_level(logging.INFO):
        async with echoing(bug) as echo:
            await _caught(echo, "UnaryUnary", request=b"a secret sentence")
    logged = json.dumps([record.msg for record in caplog.records], default=str)
    assert "builtins.ValueError" in logged
    assert "in bug" in logged
    assert "a secret sentence" not in logged


async def test_a_method_that_the_servicer_lacks_is_unimplemented(echoing: Any) -> None:
    def lacking(request: bytes, context: Any) -> Any:
        # As the generated base classes do it.
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        raise NotImplementedError("Method not implemented!")

    async with echoing(lacking) as echo:
        error = from_rpc_error(await _caught(echo, "UnaryUnary"))
    assert error.code is ErrorCode.UNIMPLEMENTED
    assert error.reason == "UNIMPLEMENTED"


async def test_a_not_implemented_error_of_our_own_is_internal(echoing: Any) -> None:
    async def bug(request: bytes, context: Any) -> bytes:
        raise NotImplementedError

    async with echoing(bug) as echo:
        assert (await _caught(echo, "UnaryUnary")).code() is grpc.StatusCode.INTERNAL


async def test_a_message_above_the_limit_is_an_invalid_argument_that_names_it(echoing: Any) -> None:
    async def accept(request: bytes, context: Any) -> bytes:
        return b""

    async with echoing(accept) as echo:
        error = from_rpc_error(await _caught(echo, "UnaryUnary", request=b"x" * (MAX_MESSAGE_BYTES + 1)))
        assert await echo.call("UnaryUnary") == b""
    assert isinstance(error, InvalidArgument)
    assert str(MAX_MESSAGE_BYTES) in error.message


async def test_a_dead_server_is_unavailable_without_naming_its_address(echoing: Any) -> None:
    async def accept(request: bytes, context: Any) -> bytes:
        return b""

    async with echoing(accept) as echo:
        port = str(echo.server.grpc_port)
        await echo.server._grpc.stop(0)
        error = from_rpc_error(await _caught(echo, "UnaryUnary"))
    assert error.code is ErrorCode.UNAVAILABLE
    assert port not in error.message


def test_every_code_has_an_http_status() -> None:
    assert set(HTTP_STATUS) == set(ErrorCode)
