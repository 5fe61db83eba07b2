"""The cache service."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.message import DecodeError
from headwater.cache.v1 import cache_pb2, cache_pb2_grpc
from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2

from ..answer_cache import CacheKey, LookedUp, Offer, StoredAnswer
from ..events import done_message, done_value, retrieved_message, retrieved_value
from ..messages import progress_message, scope_message, token_message
from ..values import WriteToken
from . import translated

# The smallest and the largest float32: any chunk, and no chunk, would have entered.
_ANY = -3.4028234663852886e38
_NONE = 3.4028234663852886e38


class Cache:
    """Is the answer cache's client."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = cache_pb2_grpc.CacheServiceStub(channel)

    async def lookup(
        self,
        key: CacheKey,
        after: WriteToken | None,
        partitions: Sequence[int],
        *,
        wait_ms: int,
        lease_id: bytes,
        timeout_seconds: float,
    ) -> LookedUp:
        request = cache_pb2.LookupRequest(
            key=_key_message(key),
            after=token_message(after),
            wait_ms=wait_ms,
            partitions=partitions,
            lease_id=lease_id,
        )
        with translated():
            response = await self._stub.Lookup(request, timeout=timeout_seconds)
        if response.HasField("answer"):
            return LookedUp(answer=_stored_value(response.answer.payload), waited=response.waited)
        reason = response.miss_reason
        return LookedUp(
            lease_id=response.lease_id,
            # A miss for lack of an answer gives the lease to its caller, unless another caller has it.
            busy=reason == cache_pb2.MISS_REASON_ABSENT and not response.lease_id,
            down=reason == cache_pb2.MISS_REASON_STORE_UNAVAILABLE,
        )

    async def store(self, key: CacheKey, lease_id: bytes, offer: Offer, timeout_seconds: float) -> None:
        request = cache_pb2.StoreRequest(
            key=_key_message(key),
            lease_id=lease_id,
            answer=cache_pb2.CachedAnswer(payload=_stored_payload(offer.answer)),
            candidates=[
                cache_pb2.Candidate(document_id=document_id, score=score)
                for document_id, score in offer.candidates.items()
            ],
            dense_cutoff=_ANY if offer.dense_cutoff is None else offer.dense_cutoff,
            lexical_cutoff=_NONE,  # no lexical candidates are asked for
            progress=[progress_message(one) for one in offer.progress],
            log_id=offer.log_id,
            question_vector=common_pb2.Vectors(
                data=offer.question_vector, dimensions=len(offer.question_vector) // 4, count=1
            ),
        )
        with translated():
            await self._stub.Store(request, timeout=timeout_seconds)

    async def release(self, key: CacheKey, lease_id: bytes, timeout_seconds: float) -> None:
        request = cache_pb2.ReleaseRequest(key=_key_message(key), lease_id=lease_id)
        with translated():
            await self._stub.Release(request, timeout=timeout_seconds)

    async def detail(self) -> str:
        with translated():
            statistics = await self._stub.GetStatistics(cache_pb2.GetStatisticsRequest())
        return f"{statistics.entries} entries, {statistics.hits} hits, {statistics.misses} misses"


def _key_message(key: CacheKey) -> cache_pb2.CacheKey:
    return cache_pb2.CacheKey(
        scope=scope_message(key.scope),
        generation=key.generation,
        question=key.question,
        model=key.model,
        prompt_version=key.prompt_version,
        parameters=key.parameters,
    )


def _stored_payload(answer: StoredAnswer) -> bytes:
    message = gateway_pb2.StoredAnswer(retrieved=retrieved_message(answer.retrieved), done=done_message(answer.done))
    return message.SerializeToString()


def _stored_value(payload: bytes) -> StoredAnswer | None:
    """None for what cannot be read: the cache's checksum holds, so another version of the gateway wrote it."""
    try:
        message = gateway_pb2.StoredAnswer.FromString(payload)
    except DecodeError:
        return None
    return StoredAnswer(retrieved_value(message.retrieved), done_value(message.done))
