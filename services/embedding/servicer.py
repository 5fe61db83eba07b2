"""The embedding service's contract: proto in, one call, proto out."""

from __future__ import annotations

import grpc
from headwater.common.v1 import common_pb2
from headwater.embedding.v1 import embedding_pb2, embedding_pb2_grpc

from services.embedding.embedder import TextEmbedder
from services.embedding.engines import TextKind
from serving.errors import InvalidArgument
from serving.server import Registration

_KINDS = {
    embedding_pb2.TEXT_KIND_QUERY: TextKind.QUERY,
    embedding_pb2.TEXT_KIND_DOCUMENT: TextKind.DOCUMENT,
}
_SERVICE = embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Adapts TextEmbedder to gRPC."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self._embedder = embedder

    async def Embed(
        self, request: embedding_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> embedding_pb2.EmbedResponse:
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise InvalidArgument("kind: say whether the texts are queries or documents", field="kind")
        unspecified = request.priority == common_pb2.PRIORITY_UNSPECIFIED
        interactive = request.priority == common_pb2.PRIORITY_INTERACTIVE or (unspecified and kind is TextKind.QUERY)
        embedded = await self._embedder.embed(
            request.texts, kind, interactive=interactive, expected_fingerprint=request.expected_fingerprint
        )
        count, dimensions = embedded.vectors.shape
        timings = embedded.timings
        return embedding_pb2.EmbedResponse(
            vectors=common_pb2.Vectors(
                data=embedded.vectors.astype("<f4", copy=False).tobytes(), dimensions=dimensions, count=count
            ),
            token_counts=embedded.token_counts,
            truncated=embedded.truncated,
            fingerprint=self._embedder.model.fingerprint,
            timings=[
                common_pb2.StageTiming(stage=stage, milliseconds=milliseconds)
                for stage, milliseconds in (
                    ("queue", timings.queue),
                    ("tokenize", timings.tokenize),
                    ("infer", timings.infer),
                )
            ],
        )

    async def GetModel(
        self, request: embedding_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> embedding_pb2.GetModelResponse:
        model = self._embedder.model
        return embedding_pb2.GetModelResponse(
            fingerprint=model.fingerprint,
            name=model.name,
            dimensions=model.dimensions,
            max_tokens=model.max_tokens,
            engine=model.engine,
        )


def registration(embedder: TextEmbedder) -> Registration:
    """How the servicer is added to a server."""
    return Registration(
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, EmbeddingServicer(embedder), _SERVICE
    )
