"""The services that ingestion asks: embedding for vectors, retrieval for what is indexed already."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import grpc
from headwater.common.v1 import common_pb2
from headwater.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from headwater.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc

from serving.channels import open_channel
from serving.errors import ErrorCode, Unavailable
from serving.limits import MAX_PAGE_SIZE
from serving.status import from_rpc_error

from .documents import Vectors
from .newest import Word
from .processor import Embedded
from .registry import Model

_MODEL_SECONDS: Final = 5.0
_WORD_SECONDS: Final = 1.0


class EmbeddingClient:
    """The embedding service. Raises HeadwaterError, whatever goes wrong."""

    def __init__(self, address: str, *, embed_seconds: float) -> None:
        self._channel = open_channel(address)
        self._service = embedding_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._embed_seconds = embed_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close(None)

    async def model(self) -> Model:
        """The model that is served."""
        try:
            served = await self._service.GetModel(embedding_pb2.GetModelRequest(), timeout=_MODEL_SECONDS)
        except grpc.aio.AioRpcError as error:
            meant = from_rpc_error(error)
            if meant.code is not ErrorCode.UNAVAILABLE:
                raise meant from error
            raise Unavailable(
                "the embedding service cannot be reached, and a collection keeps the model it is made with; try again",
                reason="EMBEDDING_UNAVAILABLE",
            ) from error
        return Model(served.fingerprint, served.max_tokens)

    async def embed(self, texts: Sequence[str], fingerprint: str) -> Embedded:
        """Vectors of passages, one a text, by the model of that fingerprint."""
        request = embedding_pb2.EmbedRequest(
            texts=texts,
            kind=embedding_pb2.TEXT_KIND_DOCUMENT,
            priority=common_pb2.PRIORITY_BATCH,
            expected_fingerprint=fingerprint,
        )
        try:
            response = await self._service.Embed(request, timeout=self._embed_seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        vectors = response.vectors
        return Embedded(Vectors(vectors.data, vectors.dimensions, vectors.count), len(response.truncated))


class Shards:
    """The retrieval shards."""

    def __init__(self, addresses: Sequence[str], *, log_id: bytes, partitions: int) -> None:
        self._addresses = addresses
        self._log_id = log_id
        self._partitions = partitions
        self._services: list[retrieval_pb2_grpc.RetrievalServiceAsyncStub] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for address in self._addresses:
            channel = open_channel(address)
            self._stack.push_async_callback(channel.close, None)
            self._services.append(retrieval_pb2_grpc.RetrievalServiceStub(channel))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def ask(self, partition: int, tenant: str, collection_id: str, document_ids: Sequence[str]) -> Word:
        """Content hashes of what is indexed, and how far the shard was. Raises HeadwaterError."""
        hashes: dict[str, bytes] = {}
        reached: list[int] = []
        for start in range(0, len(document_ids), MAX_PAGE_SIZE):
            response = await self._get(partition, tenant, collection_id, document_ids[start : start + MAX_PAGE_SIZE])
            ours = response.log_id == self._log_id
            offsets = [one.index_offset for one in response.progress if ours and one.partition == partition]
            reached.append(max(offsets, default=0))
            hashes |= {
                status.document_id: status.content_hash
                for status in response.documents
                if status.state == common_pb2.DOCUMENT_STATE_INDEXED
            }
        return Word(hashes, min(reached, default=0))

    async def _get(
        self, partition: int, tenant: str, collection_id: str, document_ids: Sequence[str]
    ) -> retrieval_pb2.GetDocumentsResponse:
        service = self._services[partition * len(self._services) // self._partitions]
        request = retrieval_pb2.GetDocumentsRequest(
            scope=common_pb2.Scope(tenant=tenant, collection_id=collection_id),
            document_ids=document_ids,
            any_access_group=True,
        )
        try:
            return await service.GetDocuments(request, timeout=_WORD_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
