"""Searches that arrive while one runs are run together next: a flat index is read once for all of them."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import faiss
import numpy as np

from serving import deadlines, telemetry
from serving.errors import DeadlineExceeded, FailedPrecondition, HeadwaterError, InvalidArgument, ResourceExhausted

from . import metrics
from .publication import Publication, View
from .rows import CollectionKey, Matrix
from .searcher import Collection, Searcher
from .segment import Candidates, none_found
from .settings import RetrievalSettings


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One caller's search."""

    key: CollectionKey
    vectors: Matrix
    """(queries, dimensions)."""
    k: int
    partitions: frozenset[int]
    """Rows of other partitions are not looked at."""
    access_groups: frozenset[str]
    embedding_fingerprint: str = ""
    """What the vectors are of; empty when it is not to be checked."""


@dataclass(slots=True, eq=False)
class _Job:
    """Times on the monotonic clock."""

    query: Query
    queued_at: float
    ends_at: float
    found: asyncio.Future[tuple[View, Candidates]]
    began: float = 0.0


def search_together(searcher: Searcher, queries: Sequence[Query]) -> list[Candidates | HeadwaterError]:
    """For each query what was found or was wrong with it; those that may see the same rows are searched as one."""
    outcomes: dict[int, Candidates | HeadwaterError] = {}
    alike: dict[tuple[CollectionKey, bytes], list[int]] = {}
    for number, query in enumerate(queries):
        collection = searcher.collections.get(query.key)
        if collection is None:
            outcomes[number] = none_found(len(query.vectors))
        elif problem := _mismatch(collection, query):
            outcomes[number] = problem
        else:
            visible = collection.labels.visible(query.partitions, query.access_groups)
            alike.setdefault((query.key, visible.tobytes()), []).append(number)
    for (key, flags), numbers in alike.items():
        together = [queries[number] for number in numbers]
        candidates = searcher.collections[key].search(
            np.concatenate([query.vectors for query in together]),
            max(query.k for query in together),
            np.frombuffer(flags, np.bool_),
        )
        start = 0
        for number, query in zip(numbers, together, strict=True):
            rows = slice(start, start + len(query.vectors))
            outcomes[number] = Candidates(candidates.scores[rows, : query.k], candidates.rows[rows, : query.k])
            start = rows.stop
    return [outcomes[number] for number in range(len(queries))]


def _mismatch(collection: Collection, query: Query) -> HeadwaterError | None:
    expected = query.embedding_fingerprint
    if expected and expected != collection.embedding_fingerprint:
        return FailedPrecondition(
            "the vectors are of another embedding model than the collection's", reason="EMBEDDING_MISMATCH"
        )
    if query.vectors.shape[1] != collection.dimensions:
        return InvalidArgument(
            f"the vectors have {query.vectors.shape[1]} dimensions; this collection's have {collection.dimensions}",
            field="vectors.dimensions",
        )
    return None


class Batcher:
    """The queue in front of the searcher. `task` ends only with an error."""

    task: asyncio.Task[None]

    def __init__(
        self,
        publication: Publication,
        settings: RetrievalSettings,
        search: Callable[[Searcher, Sequence[Query]], list[Candidates | HeadwaterError]] = search_together,
    ) -> None:
        self._publication = publication
        self._search = search
        self._settings = settings
        self._waiting: deque[_Job] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._batch_seconds = 0.0
        self._thread = ThreadPoolExecutor(
            1,
            thread_name_prefix="retrieval-search",
            # OpenMP keeps this for each thread that starts parallel work
            initializer=lambda: faiss.omp_set_num_threads(settings.search_threads or os.cpu_count() or 1),
        )

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._run(), name="retrieval-batcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        self._thread.shutdown()

    async def search(self, query: Query) -> tuple[View, Candidates]:
        """The best rows, and the view they were found in: the one that is current when the search begins.

        Raises ResourceExhausted, DeadlineExceeded, NotReady, InvalidArgument, FailedPrecondition.
        """
        size = len(query.vectors)
        if self._queued + size > self._settings.max_queued_queries:
            batches = math.ceil(self._queued / self._settings.max_batch_queries)
            raise ResourceExhausted(
                f"{self._queued} queries are waiting already, of at most {self._settings.max_queued_queries}",
                retry_after_ms=max(10, int(1000 * self._batch_seconds * batches)),
            )
        now = time.monotonic()
        job = _Job(query, now, now + deadlines.remaining(), asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._count(size)
        self._arrived.set()
        found = await job.found
        telemetry.record_span("retrieval.queue", job.queued_at, job.began)
        telemetry.record_span("retrieval.search", job.began, time.monotonic())
        return found

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if jobs := self._take():
                await self._serve(jobs)
            if not self._waiting:
                self._arrived.clear()

    def _take(self) -> list[_Job]:
        """The next to be searched together; those that nobody waits for any more are dropped."""
        jobs: list[_Job] = []
        size = 0
        while self._waiting:
            if jobs and size + len(self._waiting[0].query.vectors) > self._settings.max_batch_queries:
                break
            job = self._waiting.popleft()
            self._count(-len(job.query.vectors))
            if job.found.done():
                continue
            if job.ends_at <= time.monotonic():
                job.found.set_exception(DeadlineExceeded("the deadline passed before the search began"))
                continue
            jobs.append(job)
            size += len(job.query.vectors)
        return jobs

    async def _serve(self, jobs: Sequence[_Job]) -> None:
        started = time.monotonic()
        for job in jobs:
            job.began = started
            metrics.QUEUE_SECONDS.observe(started - job.queued_at)
        try:
            view = self._publication.current()
            outcomes = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._search, view.searcher, [job.query for job in jobs]
            )
        except HeadwaterError as error:
            for job in jobs:
                _settle(job, error)
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            _settle(job, outcome if isinstance(outcome, HeadwaterError) else (view, outcome))
        self._batch_seconds = time.monotonic() - started
        metrics.SEARCH_SECONDS.observe(self._batch_seconds)
        size = sum(len(job.query.vectors) for job in jobs)
        metrics.BATCH_QUERIES.observe(size)
        metrics.SEARCHES.inc(size)

    def _count(self, queries: int) -> None:
        self._queued += queries
        metrics.QUEUED.set(self._queued)


def _settle(job: _Job, outcome: tuple[View, Candidates] | HeadwaterError) -> None:
    if job.found.done():
        return
    if isinstance(outcome, HeadwaterError):
        job.found.set_exception(outcome)
    else:
        job.found.set_result(outcome)
