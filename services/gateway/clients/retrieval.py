"""One shard of the retrieval service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc
from headwater.common.v1 import common_pb2
from headwater.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc

from ..documents import Counts
from ..embedder import Matrix
from ..messages import progress_value, scope_message, token_message, vectors_message
from ..retriever import ShardHits
from ..values import Collection, Document, DocumentState, Scope, WriteToken
from . import translated


class RetrievalShard:
    """Is the retriever's shard and the documents'."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)

    async def search(
        self,
        collection: Collection,
        partitions: Sequence[int],
        vectors: Matrix,
        k: int,
        after: WriteToken | None,
        timeout_seconds: float,
    ) -> ShardHits:
        request = retrieval_pb2.SearchRequest(
            scope=scope_message(collection.scope),
            vectors=vectors_message(vectors),
            k=k,
            mode=common_pb2.SEARCH_MODE_DENSE,
            after=token_message(after),
            partitions=partitions,
            generation=collection.generation,
            embedding_fingerprint=collection.fingerprint,
        )
        with translated():
            response = await self._stub.Search(request, timeout=timeout_seconds)
        return ShardHits(
            results=[result.dense for result in response.results],
            progress=[progress_value(one) for one in response.progress if one.partition in partitions],
            log_id=response.log_id,
        )

    async def get_documents(
        self, scope: Scope, document_ids: Sequence[str], after: WriteToken | None, timeout_seconds: float
    ) -> Sequence[Document]:
        request = retrieval_pb2.GetDocumentsRequest(
            scope=scope_message(scope), document_ids=document_ids, after=token_message(after)
        )
        with translated():
            response = await self._stub.GetDocuments(request, timeout=timeout_seconds)
        return response.documents

    async def list_documents(
        self,
        scope: Scope,
        after_document_id: str,
        page_size: int,
        state: DocumentState,
        after: WriteToken | None,
        timeout_seconds: float,
    ) -> Sequence[Document]:
        request = retrieval_pb2.ListDocumentsRequest(
            scope=scope_message(scope),
            page_size=page_size,
            after_document_id=after_document_id,
            state=cast(common_pb2.DocumentState.ValueType, state.value),
            after=token_message(after),
        )
        with translated():
            response = await self._stub.ListDocuments(request, timeout=timeout_seconds)
        return response.documents

    async def count(self, scope: Scope, timeout_seconds: float) -> Counts:
        request = retrieval_pb2.GetStatusRequest(scope=scope_message(scope))
        with translated():
            status = await self._stub.GetStatus(request, timeout=timeout_seconds)
        return Counts(status.documents, status.chunks, status.rejected)

    async def detail(self) -> str:
        with translated():
            status = await self._stub.GetStatus(retrieval_pb2.GetStatusRequest())
        return (
            f"shard {status.shard} of {status.shards}, {len(status.progress)} of {status.partitions} partitions, "
            f"{status.documents} documents, {status.chunks} chunks"
        )
