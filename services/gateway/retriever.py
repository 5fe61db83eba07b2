"""The shards, all at once: which own which partitions, what they found, and who did not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Generic, Protocol, TypeVar

from serving import deadlines
from serving.errors import DeadlineExceeded, ErrorCode, HeadwaterError, ResourceExhausted, Unavailable
from serving.limits import MAX_DEADLINE_SECONDS
from serving.telemetry import get_logger

from . import metrics
from .embedder import Matrix
from .settings import GatewaySettings
from .values import Collection, Coverage, Hit, Progress, WriteToken

_log = get_logger(__name__)
# The shard is not there, too busy, or broken: the others' answers are still worth having. Anything else is about the
# request, and would be the same on every shard.
_LOST = {
    ErrorCode.UNAVAILABLE,
    ErrorCode.DEADLINE_EXCEEDED,
    ErrorCode.RESOURCE_EXHAUSTED,
    ErrorCode.INTERNAL,
}


@dataclass(frozen=True, slots=True)
class ShardHits:
    """What one shard found."""

    results: Sequence[Sequence[Hit]]
    """One a query, best first."""
    progress: Sequence[Progress]
    """Of the partitions it answered for."""
    log_id: bytes


class Shard(Protocol):
    """One shard of the index, in as many replicas as its address names."""

    async def search(
        self,
        collection: Collection,
        partitions: Sequence[int],
        vectors: Matrix,
        k: int,
        after: WriteToken | None,
        timeout_seconds: float,
    ) -> ShardHits:
        """The k best chunks a query ([queries, dimensions]) in these partitions, once they have applied `after`."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """The shards' hits, merged."""

    results: tuple[tuple[Hit, ...], ...]
    """One a query, best first; equal scores by document and chunk."""
    coverage: Coverage
    progress: tuple[Progress, ...]


S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gathered(Generic[T]):
    """What the shards that answered said, and what the others would have answered for."""

    answers: tuple[T, ...]
    coverage: Coverage


class Fanout(Generic[S]):
    """Shard s of N owns the partitions p with p * N // P = s."""

    def __init__(self, shards: Sequence[S], partitions: int, settings: GatewaySettings) -> None:
        self.shards = shards
        self._partitions = partitions
        self._settings = settings

    def owner(self, partition: int) -> int:
        """The number of the shard that owns a partition."""
        return partition * len(self.shards) // self._partitions

    def owned(self, partitions: Sequence[int]) -> dict[int, list[int]]:
        """These partitions by the number of the shard that owns them."""
        owned: dict[int, list[int]] = {}
        for partition in partitions:
            owned.setdefault(self.owner(partition), []).append(partition)
        return owned

    async def gather(
        self,
        partitions: Sequence[int],
        after: WriteToken | None,
        ask: Callable[[S, Sequence[int], WriteToken | None, float], Awaitable[T]],
    ) -> Gathered[T]:
        """`ask(shard, partitions, token, seconds)` of every shard that owns some of the partitions, all at once.

        A shard that fails is left out. Raises DeadlineExceeded when one could not apply the token in time, Unavailable
        (or what they all said) when none answered, and at once what is wrong with the request itself.
        """
        owned = self.owned(partitions)
        outcomes = await asyncio.gather(
            *(self._one(shard, mine, after, ask) for shard, mine in owned.items()), return_exceptions=True
        )
        answers: list[T] = []
        lost: list[HeadwaterError] = []
        missing: list[int] = []
        for (shard, mine), outcome in zip(owned.items(), outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                answers.append(outcome)
            elif isinstance(outcome, HeadwaterError) and outcome.code in _LOST and not _is_behind(outcome, after, mine):
                _log.warning("a shard did not answer", shard=shard, code=outcome.code.value)
                metrics.SHARD_FAILURES.labels(str(shard)).inc()
                lost.append(outcome)
                missing.extend(mine)
            else:
                raise outcome
        if not answers:
            raise _all_lost(lost)
        return Gathered(tuple(answers), Coverage(len(partitions), tuple(sorted(missing))))

    async def _one(
        self,
        shard: int,
        partitions: Sequence[int],
        after: WriteToken | None,
        ask: Callable[[S, Sequence[int], WriteToken | None, float], Awaitable[T]],
    ) -> T:
        token = after.only(partitions) if after else None
        # A token is waited for as long as the caller allows. Nothing else may hold an answer up beyond the budget, nor
        # use up the time that is needed to tell what the other shards found.
        limit = min(self._settings.retrieval_timeout_ms / 1000, deadlines.remaining() / 2)
        return await ask(
            self.shards[shard], partitions, token, deadlines.budget(MAX_DEADLINE_SECONDS if token else limit)
        )


class Retriever:
    """Finds chunks on all shards."""

    def __init__(self, fanout: Fanout[Shard], log_id: bytes) -> None:
        self._fanout = fanout
        self._log_id = log_id

    async def search(
        self, collection: Collection, vectors: Matrix, k: int, after: WriteToken | None, *, strict: bool
    ) -> Found:
        """The k best chunks a query. With `strict`, Unavailable instead of an answer from some of the partitions."""

        async def ask(shard: Shard, partitions: Sequence[int], token: WriteToken | None, seconds: float) -> ShardHits:
            hits = await shard.search(collection, partitions, vectors, k, token, seconds)
            if hits.log_id != self._log_id:
                raise Unavailable("the shard follows another log than this gateway", reason="LOG_REPLACED")
            return hits

        gathered = await self._fanout.gather(collection.partitions, after, ask)
        progress = sorted((one for hits in gathered.answers for one in hits.progress), key=lambda one: one.partition)
        answered = {one.partition for one in progress}
        coverage = Coverage(gathered.coverage.total, tuple(p for p in collection.partitions if p not in answered))
        if strict:
            require_all(coverage)
        results = (merge_hits([hits.results[query] for hits in gathered.answers], k) for query in range(len(vectors)))
        return Found(tuple(results), coverage, tuple(progress))


def merge_hits(lists: Sequence[Sequence[Hit]], k: int) -> tuple[Hit, ...]:
    """The k best of several lists that are each best first; equal scores by document and chunk."""
    return tuple(islice(merge(*(sorted(hits, key=_rank) for hits in lists), key=_rank), k))


def require_all(coverage: Coverage) -> None:
    """Raise Unavailable when a partition is missing."""
    if coverage.missing:
        raise Unavailable(
            f"{len(coverage.missing)} of the collection's {coverage.total} partitions did not answer, and `strict` "
            "asks for all; try again, or ask without it",
            reason="PARTIAL_COVERAGE",
        )


def _rank(hit: Hit) -> tuple[float, str, int]:
    return -hit.score, hit.document_id, hit.chunk


def _is_behind(error: HeadwaterError, after: WriteToken | None, partitions: Sequence[int]) -> bool:
    """Whether the shard ran out of time over the token: then no answer may be given without it."""
    return error.code is ErrorCode.DEADLINE_EXCEEDED and after is not None and after.only(partitions) is not None


def _all_lost(lost: Sequence[HeadwaterError]) -> HeadwaterError:
    codes = {error.code for error in lost}
    if codes == {ErrorCode.DEADLINE_EXCEEDED}:
        return DeadlineExceeded("no shard of the index answered in time; try again, or allow more time")
    if codes == {ErrorCode.RESOURCE_EXHAUSTED}:
        return ResourceExhausted(
            "the shards of the index are too busy; come back later",
            retry_after_ms=max(error.retry_after_ms for error in lost),
        )
    return Unavailable("no shard of the index can be reached; try again", reason="RETRIEVAL_UNAVAILABLE")
