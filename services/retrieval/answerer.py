"""Answers what is asked of a shard, from one view at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from serving import telemetry
from serving.errors import Unavailable

from . import metrics
from .batcher import Batcher, Query
from .errors import CannotWrite, Damaged, rebuilding
from .follower import Follower
from .publication import Publication, Requirement, View
from .reader import Counts
from .rows import CollectionKey, Document, HitRow, Progress, State
from .segment import Candidates


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk found, and how well it fits."""

    score: float
    row: HitRow


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Hits for each query, best first, all of one searcher, and the progress of that one."""

    log_id: bytes
    results: list[list[Hit]]
    progress: Mapping[int, Progress]
    """Of the partitions answered."""
    wait_seconds: float
    search_seconds: float
    fetch_seconds: float


@dataclass(frozen=True, slots=True)
class DocumentsAnswer:
    """Documents, and how far the shard was; a search that comes after this has seen as much."""

    log_id: bytes
    documents: list[Document]
    progress: Mapping[int, Progress]


@dataclass(frozen=True, slots=True)
class Status:
    """How the shard is."""

    ready: bool
    problem: str
    log_id: bytes
    partitions: int
    """Of the whole log."""
    progress: Mapping[int, Progress]
    """Of the owned partitions."""
    counts: Counts


class Answerer:
    """What the servicer calls."""

    def __init__(self, publication: Publication, batcher: Batcher, follower: Follower) -> None:
        self._publication = publication
        self._batcher = batcher
        self._follower = follower

    async def search(self, query: Query, requirement: Requirement) -> SearchAnswer:
        """Wait for what is required of the partitions asked and owned, search, and fetch the texts.

        A chunk that was replaced in between is missing when its text is read. Then it is searched again, with the
        follower held off, so that the second time is the last whatever is written meanwhile.
        """
        started = time.monotonic()
        view = await self._wait_for(requirement, query.partitions)
        waited_at = time.monotonic()
        telemetry.record_span("retrieval.wait", started, waited_at)
        metrics.TOKEN_WAIT_SECONDS.observe(waited_at - started)
        answer = await self._search_once(query, view, waited_at - started)
        if answer is None:
            metrics.SEARCHED_AGAIN.inc()
            async with self._follower.paused:
                answer = await self._search_once(query, view, waited_at - started)
        if answer is None:
            self._publication.damage.set()
            raise rebuilding()
        return answer

    async def get_documents(
        self,
        key: CollectionKey,
        document_ids: Iterable[str],
        access_groups: frozenset[str] | None,
        requirement: Requirement,
    ) -> DocumentsAnswer:
        """Those of the documents that there are and that the groups may see (None: all of them)."""
        view = await self._wait_for(requirement)
        with self._disk_errors():
            documents, progress = await view.reader.documents(key, document_ids, access_groups)
        return await self._shown(view, documents.values(), progress)

    async def list_documents(
        self,
        key: CollectionKey,
        *,
        states: Iterable[State],
        access_groups: frozenset[str],
        after_document_id: str,
        size: int,
        requirement: Requirement,
    ) -> DocumentsAnswer:
        """The next documents by id that the groups may see."""
        view = await self._wait_for(requirement)
        with self._disk_errors():
            documents, progress = await view.reader.page(
                key, states=states, access_groups=access_groups, after_document_id=after_document_id, size=size
            )
        return await self._shown(view, documents, progress)

    async def status(self, key: CollectionKey | None) -> Status:
        """How the shard is, ready or not; counts only once it is ready."""
        identity, progress = self._follower.state
        counts = Counts(0, 0, 0)
        if self._publication.ready:
            with self._disk_errors():
                counts = await self._publication.current().reader.counts(key)
        return Status(
            self._publication.ready,
            self._publication.problem,
            identity.log_id,
            identity.partitions,
            progress,
            counts,
        )

    async def _search_once(self, query: Query, waited_for: View, wait_seconds: float) -> SearchAnswer | None:
        """None when a chunk was replaced before its text was read."""
        started = time.monotonic()
        view, candidates = await self._batcher.search(query)
        if view.reader is not waited_for.reader:
            raise rebuilding()  # a newer searcher of the same database has seen no less; of another one, perhaps
        searched_at = time.monotonic()
        with self._disk_errors():
            rows = await view.reader.hits(sorted(set(candidates.rows.ravel().tolist())))
        results = _results(candidates, rows)
        if results is None:
            return None
        progress = {
            partition: progress
            for partition, progress in view.searcher.progress.items()
            if partition in query.partitions
        }
        fetched_at = time.monotonic()
        telemetry.record_span("retrieval.fetch", searched_at, fetched_at)
        return SearchAnswer(
            view.searcher.log_id,
            results,
            progress,
            wait_seconds,
            searched_at - started,
            fetched_at - searched_at,
        )

    async def _wait_for(self, requirement: Requirement, partitions: frozenset[int] | None = None) -> View:
        owned = self._publication.current().searcher.progress.keys()
        concerned = owned if partitions is None else owned & partitions
        return await self._publication.wait_for(requirement.of(concerned))

    async def _shown(
        self, view: View, documents: Iterable[Document], progress: Mapping[int, Progress]
    ) -> DocumentsAnswer:
        """The answer once searches see as much: the database is ahead of the searcher for a moment."""
        seen = {partition: reached.documents_offset - 1 for partition, reached in progress.items()}
        await self._publication.wait_for(Requirement(view.searcher.log_id, seen))
        return DocumentsAnswer(view.searcher.log_id, list(documents), progress)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except Damaged as error:
            self._publication.damage.set()
            raise rebuilding() from error
        except CannotWrite as error:
            raise Unavailable("the shard's disk fails; try again", reason="DISK_FAILS", retry_after_ms=1000) from error


def _results(candidates: Candidates, rows: Mapping[int, HitRow]) -> list[list[Hit]] | None:
    """Hits for each query, best first, equal ones by document and chunk; None when a row is missing."""
    results = []
    for scores, ids in zip(candidates.scores.tolist(), candidates.rows.tolist(), strict=True):
        if not all(chunk_id in rows for chunk_id in ids):
            return None
        hits = [Hit(score, rows[chunk_id]) for score, chunk_id in zip(scores, ids, strict=True)]
        hits.sort(key=lambda hit: (-hit.score, hit.row.document_id, hit.row.chunk))
        results.append(hits)
    return results
