"""The cache's calls: proto in, one call, proto out."""

from __future__ import annotations

from typing import Any

from headwater.cache.v1 import cache_pb2, cache_pb2_grpc
from headwater.common.v1 import common_pb2

from .admissions import Admissions
from .answers import AnswerCache, Hit, Offer, Token
from .entries import Candidate
from .keys import Question

Context = Any


class CacheServicer(cache_pb2_grpc.CacheServiceServicer):
    """Answers by exact match."""

    def __init__(self, answers: AnswerCache, admissions: Admissions) -> None:
        self._answers = answers
        self._admissions = admissions

    async def Lookup(self, request: cache_pb2.LookupRequest, context: Context) -> cache_pb2.LookupResponse:
        outcome = await self._answers.lookup(
            _question(request.key),
            partitions=request.partitions,
            token=_token(request.after),
            wait_seconds=request.wait_ms / 1000,
            lease_id=request.lease_id,
        )
        if isinstance(outcome, Hit):
            return cache_pb2.LookupResponse(
                answer=cache_pb2.CachedAnswer(payload=outcome.payload), age_ms=outcome.age_ms, waited=outcome.waited
            )
        reason = cache_pb2.MissReason.Value(f"MISS_REASON_{outcome.reason}")
        return cache_pb2.LookupResponse(lease_id=outcome.lease_id, miss_reason=reason)

    async def Store(self, request: cache_pb2.StoreRequest, context: Context) -> cache_pb2.StoreResponse:
        offer = Offer(
            payload=request.answer.payload,
            log_id=request.log_id,
            index_offsets={progress.partition: progress.index_offset for progress in request.progress},
            candidates=tuple(Candidate(candidate.document_id, candidate.score) for candidate in request.candidates),
            dense_cutoff=request.dense_cutoff,
            lexical_cutoff=request.lexical_cutoff,
            question_vector=request.question_vector.data,
        )
        reason = await self._answers.store(_question(request.key), request.lease_id, offer)
        return cache_pb2.StoreResponse(stored=not reason, reason=reason)

    async def Release(self, request: cache_pb2.ReleaseRequest, context: Context) -> cache_pb2.ReleaseResponse:
        await self._answers.release(_question(request.key), request.lease_id)
        return cache_pb2.ReleaseResponse()

    async def Invalidate(self, request: cache_pb2.InvalidateRequest, context: Context) -> cache_pb2.InvalidateResponse:
        dropped = await self._answers.invalidate(request.scope.tenant, request.scope.collection_id)
        return cache_pb2.InvalidateResponse(dropped=dropped)

    async def GetStatistics(
        self, request: cache_pb2.GetStatisticsRequest, context: Context
    ) -> cache_pb2.GetStatisticsResponse:
        statistics = self._answers.statistics
        history = self._admissions.history
        documents_offsets = history.documents_offsets()
        return cache_pb2.GetStatisticsResponse(
            hits=statistics.hits,
            misses=statistics.misses,
            stores=statistics.stores,
            invalidations=self._admissions.invalidations,
            entries=len(self._admissions),
            progress=[
                common_pb2.PartitionProgress(
                    partition=partition, index_offset=offset, documents_offset=documents_offsets[partition]
                )
                for partition, offset in history.positions().items()
            ],
        )


def _question(key: cache_pb2.CacheKey) -> Question:
    return Question(
        tenant=key.scope.tenant,
        access_groups=tuple(key.scope.access_groups),
        collection_id=key.scope.collection_id,
        generation=key.generation,
        text=key.question,
        filter=key.filter.SerializeToString(deterministic=True),
        model=key.model,
        prompt_version=key.prompt_version,
        parameters=key.parameters,
    )


def _token(after: common_pb2.WriteToken) -> Token | None:
    """None when nothing of the documents log is asked for."""
    return Token(after.log_id, dict(after.documents_offsets)) if after.log_id or after.documents_offsets else None
