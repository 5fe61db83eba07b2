"""The embedding service."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from headwater.common.v1 import common_pb2
from headwater.embedding.v1 import embedding_pb2, embedding_pb2_grpc

from ..embedder import Matrix, TextKind
from ..messages import matrix_value
from . import translated


class Embedding:
    """Is the embedder's client and the search's."""

    def __init__(self, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        self._stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        self._timeout = timeout_seconds

    async def embed(self, texts: Sequence[str], kind: TextKind, fingerprint: str) -> Matrix:
        request = embedding_pb2.EmbedRequest(
            texts=texts,
            kind=embedding_pb2.TextKind.Value(f"TEXT_KIND_{kind}"),
            priority=common_pb2.PRIORITY_INTERACTIVE,
            expected_fingerprint=fingerprint,
        )
        with translated():
            response = await self._stub.Embed(request, timeout=self._timeout)
        return matrix_value(response.vectors)

    async def dimensions(self, fingerprint: str) -> int | None:
        model = await self._model()
        return model.dimensions if model.fingerprint == fingerprint else None

    async def detail(self) -> str:
        model = await self._model()
        return f"{model.name} on {model.engine}, {model.dimensions} dimensions"

    async def _model(self) -> embedding_pb2.GetModelResponse:
        with translated():
            return await self._stub.GetModel(embedding_pb2.GetModelRequest(), timeout=self._timeout)
