"""The same promises through gRPC, and those that the service adds."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
from headwater.common.v1 import common_pb2
from headwater.embedding.v1 import embedding_pb2

from serving.errors import ErrorCode
from serving.limits import MAX_TEXT_BYTES
from serving.status import from_rpc_error

LONG = "The harbour was closed. " * 200
TEXTS = ("word", "naïve café 東京 🙂", LONG, "what was closed?")


async def test_vectors_are_of_length_one_and_in_the_order_of_the_texts(service: Any) -> None:
    response = await service.embed(*TEXTS)
    matrix = service.matrix(response)
    assert matrix.shape == (len(TEXTS), service.engine.model.dimensions)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    backwards = service.matrix(await service.embed(*reversed(TEXTS)))
    assert (matrix * backwards[::-1]).sum(axis=1).min() > 0.9995


async def test_the_answer_tells_tokens_cuts_fingerprint_and_timings(service: Any) -> None:
    response = await service.embed(*TEXTS)
    model = await service.stub.GetModel(embedding_pb2.GetModelRequest())
    assert len(response.token_counts) == len(TEXTS)
    assert response.token_counts[2] == model.max_tokens
    assert list(response.truncated) == [2]
    assert response.fingerprint == model.fingerprint
    assert {timing.stage for timing in response.timings} == {"queue", "tokenize", "infer"}
    assert all(timing.milliseconds >= 0 for timing in response.timings)


async def test_the_model_is_described(service: Any) -> None:
    model = await service.stub.GetModel(embedding_pb2.GetModelRequest())
    own = service.engine.model
    assert (model.name, model.dimensions, model.max_tokens, model.engine, model.fingerprint) == (
        own.name,
        own.dimensions,
        own.max_tokens,
        own.engine,
        own.fingerprint,
    )


async def test_many_callers_at_once_each_get_their_own(service: Any) -> None:
    texts = [f"caller number {number} asks about " + "harbours " * (number % 7) for number in range(24)]
    alone = np.concatenate([service.matrix(await service.embed(text)) for text in texts])
    answers = await asyncio.gather(*(service.embed(text) for text in texts))
    together = np.concatenate([service.matrix(answer) for answer in answers])
    assert (alone * together).sum(axis=1).min() > 0.9995


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"texts": []}, "texts"),
        ({"texts": ["x"] * 257}, "texts"),
        ({"texts": ["fine", ""]}, "texts[1]"),
        ({"texts": ["x" * (MAX_TEXT_BYTES + 1)]}, "texts[0]"),
        ({"texts": ["fine"], "kind": embedding_pb2.TEXT_KIND_UNSPECIFIED}, "kind"),
    ],
)
async def test_a_request_that_cannot_succeed_names_its_field(
    service: Any, request_: dict[str, Any], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.embed(*request_["texts"], kind=request_.get("kind", embedding_pb2.TEXT_KIND_QUERY))
    error = from_rpc_error(caught.value)
    assert (error.code, error.field) == (ErrorCode.INVALID_ARGUMENT, field)


async def test_another_models_fingerprint_is_a_failed_precondition(service: Any) -> None:
    await service.embed("text", expected_fingerprint=service.engine.model.fingerprint)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.embed("text", expected_fingerprint="another@1/f32/mean/sha256:0")
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (ErrorCode.FAILED_PRECONDITION, "FINGERPRINT_MISMATCH")


@pytest.mark.parametrize("priority", [common_pb2.PRIORITY_INTERACTIVE, common_pb2.PRIORITY_BATCH])
async def test_the_lane_does_not_change_the_vector(service: Any, priority: int) -> None:
    usual = service.matrix(await service.embed("the lower road"))
    other = service.matrix(await service.embed("the lower road", priority=priority))
    assert (usual * other).sum() > 0.9995


async def test_a_question_asked_again_is_the_same(service: Any) -> None:
    first = await service.embed("what was closed?", kind=embedding_pb2.TEXT_KIND_QUERY)
    again = await service.embed("what was closed?", kind=embedding_pb2.TEXT_KIND_QUERY)
    assert again.vectors == first.vectors
    assert again.token_counts == first.token_counts
