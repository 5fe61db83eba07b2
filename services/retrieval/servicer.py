"""Proto in, one call, proto out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from headwater.common.v1 import common_pb2
from headwater.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc

from serving import limits
from serving.errors import InvalidArgument, Unimplemented

from .answerer import Answerer, Hit, SearchAnswer
from .batcher import Query
from .decoder import MAX_COMPONENT, to_matrix
from .publication import Requirement
from .rows import GENERATION, CollectionKey, Document, MetadataValue, Progress, State
from .settings import RetrievalSettings

Context = Any
DEFAULT_PAGE_SIZE = 100
_HITS_BUILT_AT_ONCE = 64
_STATES: Mapping[State, common_pb2.DocumentState.ValueType] = {
    State.INDEXED: common_pb2.DOCUMENT_STATE_INDEXED,
    State.REJECTED: common_pb2.DOCUMENT_STATE_REJECTED,
    State.DELETED: common_pb2.DOCUMENT_STATE_DELETED,
}


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServiceServicer):
    """headwater.retrieval.v1.RetrievalService."""

    def __init__(self, answerer: Answerer, settings: RetrievalSettings) -> None:
        self._answerer = answerer
        self._settings = settings

    async def Search(self, request: retrieval_pb2.SearchRequest, context: Context) -> retrieval_pb2.SearchResponse:
        answer = await self._answerer.search(_query(request), _requirement(request.after))
        if sum(map(len, answer.results)) <= _HITS_BUILT_AT_ONCE:
            return _search_response(answer)
        # a large answer takes a while to build, and others are waiting for the event loop
        return await asyncio.to_thread(_search_response, answer)

    async def GetDocuments(
        self, request: retrieval_pb2.GetDocumentsRequest, context: Context
    ) -> retrieval_pb2.GetDocumentsResponse:
        key = _key(request.scope)
        if not 1 <= len(request.document_ids) <= limits.MAX_PAGE_SIZE:
            raise InvalidArgument(f"ask for 1 to {limits.MAX_PAGE_SIZE} documents", field="document_ids")
        groups = None if request.any_access_group else frozenset(request.scope.access_groups)
        answer = await self._answerer.get_documents(key, request.document_ids, groups, _requirement(request.after))
        found = {document.document_id: document for document in answer.documents}
        return retrieval_pb2.GetDocumentsResponse(
            documents=[_status(document_id, found.get(document_id)) for document_id in request.document_ids],
            progress=_progress(answer.progress),
            log_id=answer.log_id,
        )

    async def ListDocuments(
        self, request: retrieval_pb2.ListDocumentsRequest, context: Context
    ) -> retrieval_pb2.ListDocumentsResponse:
        key = _key(request.scope)
        if request.page_size > limits.MAX_PAGE_SIZE:
            raise InvalidArgument(f"a page holds at most {limits.MAX_PAGE_SIZE} documents", field="page_size")
        answer = await self._answerer.list_documents(
            key,
            states=_asked_states(request.state),
            access_groups=frozenset(request.scope.access_groups),
            after_document_id=request.after_document_id,
            size=request.page_size or DEFAULT_PAGE_SIZE,
            requirement=_requirement(request.after),
        )
        return retrieval_pb2.ListDocumentsResponse(
            documents=[_status(document.document_id, document) for document in answer.documents],
            progress=_progress(answer.progress),
        )

    async def GetStatus(
        self, request: retrieval_pb2.GetStatusRequest, context: Context
    ) -> retrieval_pb2.GetStatusResponse:
        status = await self._answerer.status(_key(request.scope) if request.HasField("scope") else None)
        return retrieval_pb2.GetStatusResponse(
            shard=self._settings.shard,
            shards=self._settings.shards,
            partitions=status.partitions,
            progress=_progress(status.progress),
            documents=status.counts.documents,
            rejected=status.counts.rejected,
            chunks=status.counts.chunks,
            log_id=status.log_id,
            ready=status.ready,
            problem=status.problem,
        )


def _key(scope: common_pb2.Scope) -> CollectionKey:
    if not scope.tenant:
        raise InvalidArgument("the tenant is missing", field="scope.tenant")
    if not scope.collection_id:
        raise InvalidArgument("the collection's id is missing", field="scope.collection_id")
    return CollectionKey(scope.tenant, scope.collection_id)


def _query(request: retrieval_pb2.SearchRequest) -> Query:
    key = _key(request.scope)
    if request.mode not in (common_pb2.SEARCH_MODE_UNSPECIFIED, common_pb2.SEARCH_MODE_DENSE):
        raise Unimplemented("only dense search is there as yet", field="mode")
    if request.HasField("filter"):
        raise Unimplemented("filters are not there as yet", field="filter")
    if request.generation not in (0, GENERATION):
        raise Unimplemented(f"generation {GENERATION} is the only one as yet", field="generation")
    if not 1 <= request.k <= limits.MAX_K:
        raise InvalidArgument(f"k is {request.k}; ask for 1 to {limits.MAX_K} hits", field="k")
    if not 1 <= request.vectors.count <= limits.MAX_QUERIES:
        raise InvalidArgument(
            f"there are {request.vectors.count} queries; send 1 to {limits.MAX_QUERIES}", field="vectors.count"
        )
    if not request.vectors.dimensions:
        raise InvalidArgument("the vectors have no dimensions", field="vectors.dimensions")
    if not request.partitions:
        raise InvalidArgument("name the partitions that are asked", field="partitions")
    vectors = to_matrix(request.vectors)
    if vectors is None:
        raise InvalidArgument(
            f"the vectors' data must be 4 * dimensions * count bytes of little-endian float32,"
            f" and no number beyond {MAX_COMPONENT:g}",
            field="vectors.data",
        )
    return Query(
        key,
        vectors,
        request.k,
        frozenset(request.partitions),
        frozenset(request.scope.access_groups),
        request.embedding_fingerprint,
    )


def _requirement(token: common_pb2.WriteToken) -> Requirement:
    if token.documents_offsets and not token.log_id:
        raise InvalidArgument("the write token names no log", field="after.log_id")
    return Requirement(token.log_id, dict(token.documents_offsets))


def _asked_states(state: common_pb2.DocumentState.ValueType) -> list[State]:
    if state == common_pb2.DOCUMENT_STATE_UNSPECIFIED:
        return [State.INDEXED, State.REJECTED]
    return [known for known, number in _STATES.items() if number == state]


def _search_response(answer: SearchAnswer) -> retrieval_pb2.SearchResponse:
    response = retrieval_pb2.SearchResponse(
        results=[retrieval_pb2.QueryHits(dense=[_hit(hit) for hit in hits]) for hits in answer.results],
        progress=_progress(answer.progress),
        log_id=answer.log_id,
        timings=[
            common_pb2.StageTiming(stage="wait", milliseconds=1000 * answer.wait_seconds),
            common_pb2.StageTiming(stage="search", milliseconds=1000 * answer.search_seconds),
            common_pb2.StageTiming(stage="fetch", milliseconds=1000 * answer.fetch_seconds),
        ],
    )
    if response.ByteSize() > limits.MAX_MESSAGE_BYTES:
        raise InvalidArgument(
            f"the answer would be larger than {limits.MAX_MESSAGE_BYTES} bytes; ask for fewer hits or queries",
            field="k",
        )
    return response


def _hit(hit: Hit) -> common_pb2.Hit:
    row = hit.row
    return common_pb2.Hit(
        document_id=row.document_id,
        chunk=row.chunk,
        score=hit.score,
        text=row.text,
        title=row.title,
        start=row.start,
        end=row.end,
        metadata=_metadata(row.metadata),
        version=row.version,
        partition=row.partition,
    )


def _progress(progress: Mapping[int, Progress]) -> list[common_pb2.PartitionProgress]:
    return [
        common_pb2.PartitionProgress(
            partition=partition, documents_offset=reached.documents_offset, index_offset=reached.index_offset
        )
        for partition, reached in sorted(progress.items())
    ]


def _status(document_id: str, document: Document | None) -> common_pb2.DocumentStatus:
    if document is None:
        return common_pb2.DocumentStatus(document_id=document_id, state=common_pb2.DOCUMENT_STATE_UNKNOWN)
    return common_pb2.DocumentStatus(
        document_id=document_id,
        state=_STATES[document.state],
        reason=document.reason,
        title=document.title,
        metadata=_metadata(document.metadata),
        access_groups=document.access_groups,
        chunks=document.chunks,
        characters=document.characters,
        version=document.version,
        partition=document.partition,
        write_id=document.write_id,
        content_hash=document.content_hash,
    )


def _metadata(metadata: Mapping[str, MetadataValue]) -> dict[str, common_pb2.MetadataValue]:
    return {name: _metadata_value(value) for name, value in metadata.items()}


def _metadata_value(value: MetadataValue) -> common_pb2.MetadataValue:
    match value:
        case bool():
            return common_pb2.MetadataValue(bool_value=value)
        case str():
            return common_pb2.MetadataValue(string_value=value)
        case list():
            return common_pb2.MetadataValue(string_list=common_pb2.StringList(values=value))
        case _:
            return common_pb2.MetadataValue(number_value=value)
