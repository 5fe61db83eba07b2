"""The service's contract through gRPC, over every engine."""

import asyncio
from typing import Any

import grpc
import pytest
from headwater.common.v1 import common_pb2
from headwater.generation.v1 import generation_pb2, generation_pb2_grpc

from services.generation.engines import Generator, open_engine
from services.generation.scheduler import Scheduler
from services.generation.servicer import GenerationServicer
from services.generation.settings import FakeSettings, GenerationSettings, SchedulingSettings
from serving.channels import open_channel
from serving.server import Registration, Server, ServerSettings
from serving.status import from_rpc_error

# One loop for the module, so that its tests share one loaded model.
pytestmark = pytest.mark.asyncio(loop_scope="module")

Stub = Any  # the asynchronous stub has a type in the type stubs only
TEXT = "The library opens at nine on weekdays and at ten on Saturdays, and it is closed on Sundays."


def _request(text: str = TEXT, max_tokens: int = 12, **fields: object) -> generation_pb2.GenerateRequest:
    request = generation_pb2.GenerateRequest(
        scope=common_pb2.Scope(tenant="t"),
        messages=[generation_pb2.Message(role=generation_pb2.ROLE_USER, text=text)],
        sampling=generation_pb2.Sampling(max_tokens=max_tokens),
        evidence=[generation_pb2.Evidence(text=text, passage=1, score=0.9)],
    )
    request.MergeFrom(generation_pb2.GenerateRequest(**fields))  # type: ignore[arg-type]
    return request


async def test_deltas_then_done_with_usage_and_timings(stub: Stub, engine: Generator) -> None:
    events = [event async for event in stub.Generate(_request())]
    assert {event.WhichOneof("event") for event in events[:-1]} == {"delta"}
    done = events[-1].done
    assert "".join(event.delta.text for event in events).strip()
    assert done.finish_reason in (generation_pb2.FINISH_REASON_STOP, generation_pb2.FINISH_REASON_LENGTH)
    assert done.usage.prompt_tokens > 0
    assert 0 < done.usage.completion_tokens <= 12
    assert [timing.stage for timing in done.timings] == ["queue", "first_token", "generate"]
    assert done.model == engine.model.name


async def test_the_model_is_listed(stub: Stub, engine: Generator) -> None:
    (model,) = (await stub.ListModels(generation_pb2.ListModelsRequest())).models
    assert (model.name, model.engine) == (engine.model.name, engine.model.engine)
    assert model.context_tokens > 0
    expected = "PROMPT_STYLE_PASSAGES" if engine.model.engine == "openai" else "PROMPT_STYLE_EVIDENCE"
    assert generation_pb2.PromptStyle.Name(model.prompt_style) == expected


async def test_counts_say_when_they_are_estimates(stub: Stub, engine: Generator) -> None:
    counted = await stub.CountTokens(generation_pb2.CountTokensRequest(texts=["one two", "one two three four"]))
    assert counted.counts[0] < counted.counts[1]
    assert counted.estimated == (engine.model.engine == "openai")


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (_request(sampling=generation_pb2.Sampling(max_tokens=5000)), "INVALID_ARGUMENT", "sampling.max_tokens"),
        (_request(sampling=generation_pb2.Sampling(temperature=3)), "INVALID_ARGUMENT", "sampling.temperature"),
        (_request(sampling=generation_pb2.Sampling(top_p=1.5)), "INVALID_ARGUMENT", "sampling.top_p"),
        (_request(sampling=generation_pb2.Sampling(stop=["x"] * 9)), "INVALID_ARGUMENT", "sampling.stop"),
        (_request(messages=[generation_pb2.Message(text="who?")]), "INVALID_ARGUMENT", "messages[1].role"),
        (_request(model="another"), "NOT_FOUND", "model"),
        (generation_pb2.GenerateRequest(), "INVALID_ARGUMENT", "scope.tenant"),
        (
            generation_pb2.GenerateRequest(scope=common_pb2.Scope(tenant="t")),
            "INVALID_ARGUMENT",
            "messages",
        ),
    ],
)
async def test_a_bad_request_names_its_field(
    fake_stub: Stub, request_: generation_pb2.GenerateRequest, code: str, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in fake_stub.Generate(request_):
            pass
    error = from_rpc_error(raised.value)
    assert (error.code, error.field) == (code, field)


async def test_too_many_texts_to_count_are_refused(fake_stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await fake_stub.CountTokens(generation_pb2.CountTokensRequest(texts=["x"] * 257))
    assert from_rpc_error(raised.value).field == "texts"


async def test_hanging_up_stops_the_engine_and_a_deadline_too() -> None:
    settings = GenerationSettings(engine="fake", fake=FakeSettings(token_delay_ms=5))
    async with open_engine(settings) as engine:
        servicer = GenerationServicer(Scheduler(engine, SchedulingSettings()))
        registration = Registration(
            generation_pb2_grpc.add_GenerationServiceServicer_to_server,
            servicer,
            "headwater.generation.v1.GenerationService",
        )
        ports = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0.0)
        async with Server("generation", ports, registration) as server, open_channel(server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            call = stub.Generate(_request("word " * 1000, max_tokens=1000))
            await call.read()
            call.cancel()
            await _until_cancelled(engine, 1)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async for _ in stub.Generate(_request("word " * 1000, max_tokens=1000), timeout=0.1):
                    pass
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await _until_cancelled(engine, 2)


async def _until_cancelled(engine: Generator, count: int) -> None:
    """Hanging up reaches the server when it does; the test's own limit bounds the wait."""
    while engine.cancelled < count:  # type: ignore[attr-defined]  # noqa: ASYNC110  # the fake engine only counts
        await asyncio.sleep(0.005)
