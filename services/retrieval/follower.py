"""Follows the index log: applies each batch to the store, then publishes a searcher that has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from serving.crashpoints import crash_point
from serving.errors import FailedPrecondition
from serving.eventlog import (
    Batch,
    EventLog,
    LogMissing,
    LogReplaced,
    LogSettings,
    LogUnavailable,
    Record,
    Topic,
    open_log,
)
from serving.eventlog.catalog import Catalog
from serving.telemetry import get_logger

from . import metrics
from .decoder import decode
from .errors import CannotWrite, Damaged, NotReady, rebuilding
from .publication import Publication, View
from .reader import Reader
from .rows import CollectionKey, Progress
from .searcher import Searcher
from .settings import RetrievalSettings
from .store import Identity, Store, delete, held, put_aside

REOPEN_SECONDS = 0.5
RETRY_SECONDS = (0.5, 30.0)

_log = get_logger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class _Open:
    """A database that is open, and the searcher of all that it holds."""

    store: Store
    searcher: Searcher
    reader: Reader


class Follower:
    """The one writer of the shard. `task` ends only with an error that a restart may mend."""

    task: asyncio.Task[None]

    def __init__(self, settings: RetrievalSettings, log: LogSettings, publication: Publication) -> None:
        self._settings = settings
        self._log_settings = log
        self._publication = publication
        self._path = settings.database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="retrieval-write")
        self._stack = ExitStack()
        self._open: _Open | None = None
        self._ends_to_reach: dict[int, int] = {}
        self._current_at: dict[int, float] = {}
        self.paused = asyncio.Lock()
        """Whoever holds it keeps the store and the published searcher as they are, and in step."""

    async def __aenter__(self) -> Self:
        self._stack.enter_context(held(self._path.parent))
        self.task = asyncio.create_task(self._run(), name="retrieval-follower")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        await self._close()
        self._thread.shutdown()
        self._stack.close()

    @property
    def state(self) -> tuple[Identity, Mapping[int, Progress]]:
        """What is followed and how far it is applied, published or not; empty before the database is open."""
        if self._open is None:
            return Identity(b"", 0, self._settings.shards, self._settings.shard), {}
        return self._open.store.identity, self._open.searcher.progress

    async def _run(self) -> None:
        while True:
            try:
                async with open_log(self._log_settings) as log, Catalog(log) as catalog:
                    await self._follow(log, catalog)
            except LogReplaced as error:
                await self._start_over("log_replaced", error)
            except Damaged as error:
                await self._start_over("damaged", error)
            except (LogUnavailable, LogMissing, CannotWrite) as error:
                self._publication.problem = str(error)
                _log.warning("the log or the database cannot be used; trying again", error=str(error))
            await asyncio.sleep(REOPEN_SECONDS)

    async def _follow(self, log: EventLog, catalog: Catalog) -> None:
        opened = await self._opened(log)
        await self._check_reach(log, opened)
        self._show(opened, opened.searcher.without_collections(catalog.retired()))
        self._publication.problem = ""
        tasks: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._apply_all(opened, log, catalog)),
            asyncio.create_task(self._drop_all(opened, catalog)),
            asyncio.create_task(self._damage()),
        }
        try:
            done, _ = await asyncio.wait({*tasks, catalog.task}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _opened(self, log: EventLog) -> _Open:
        """The database, opened for this log. Raises LogReplaced, Damaged, CannotWrite."""
        identity = Identity(log.log_id, log.partitions, self._settings.shards, self._settings.shard)
        if self._open is not None:
            if self._open.store.identity != identity:
                raise LogReplaced("the log has another identity than the one this shard follows")
            return self._open
        if identity.shards > identity.partitions:
            raise FailedPrecondition(
                f"{identity.shards} shards cannot share the log's {identity.partitions} partitions; run fewer"
            )
        started = time.monotonic()
        store = await self._in_thread(lambda: Store.open(self._path, identity))
        try:
            searcher = await self._in_thread(store.load)
            self._open = _Open(store, searcher, Reader(self._path, self._settings.read_threads))
        except BaseException:
            await self._in_thread(store.close)
            raise
        metrics.watch_disk(self._path.parent)
        _log.info("opened the database", seconds=round(time.monotonic() - started, 3), path=str(self._path))
        return self._open

    async def _check_reach(self, log: EventLog, opened: _Open) -> None:
        """Fix the ends to be reached before anything is answered (rule 4).

        Raises LogReplaced when the log does not reach from where this shard is.
        """
        for partition, progress in opened.searcher.progress.items():
            first, end = await log.bounds(Topic.INDEX, partition)
            if progress.index_offset and not first <= progress.index_offset <= end:
                raise LogReplaced(f"index partition {partition} does not reach from offset {progress.index_offset} on")
            if partition not in self._current_at:
                self._current_at[partition] = time.monotonic()
                self._ends_to_reach[partition] = end

    async def _apply_all(self, opened: _Open, log: EventLog, catalog: Catalog) -> None:
        positions = {
            (Topic.INDEX, partition): progress.index_offset for partition, progress in opened.searcher.progress.items()
        }
        async for batch in log.follow(positions):
            behind = batch.next_offset < batch.end_offset
            if behind and batch.asked_at - self._current_at[batch.partition] > self._settings.max_lag_seconds:
                self._ends_to_reach[batch.partition] = batch.end_offset
            for records, next_offset in self._transactions(batch):
                if records or next_offset > opened.searcher.progress[batch.partition].index_offset:
                    write = partial(self._apply, opened, catalog, batch.partition, records, next_offset)
                    await self._when_there_is_room(write)
            if not behind:
                self._current_at[batch.partition] = batch.asked_at
            lag = batch.end_offset - opened.searcher.progress[batch.partition].index_offset
            metrics.LAG.labels(batch.partition).set(lag)

    def _transactions(self, batch: Batch) -> Iterator[tuple[Sequence[Record], int]]:
        """The batch in pieces, each with the index offset that it reaches."""
        size = self._settings.max_batch_records
        pieces = [batch.records[start : start + size] for start in range(0, len(batch.records), size)] or [()]
        for piece, following in pairwise(pieces):
            yield piece, following[0].offset
        yield pieces[-1], batch.next_offset

    async def _apply(
        self, opened: _Open, catalog: Catalog, partition: int, records: Sequence[Record], next_offset: int
    ) -> None:
        def work() -> tuple[Searcher, set[CollectionKey]]:
            changes = [change for record in records if (change := decode(partition, record)) is not None]
            applied = opened.store.apply(partition, changes, next_offset, catalog.is_retired)
            crash_point("retrieval.after_commit_before_publish")
            return opened.searcher.after(applied), {*applied.added, *applied.removed}

        async with self.paused:
            searcher, touched = await self._in_thread(work)
            self._show(opened, searcher)
            metrics.APPLIED.inc(len(records))
            if touched:
                self._show(opened, await self._in_thread(lambda: searcher.tidied(touched)))

    async def _drop_all(self, opened: _Open, catalog: Catalog) -> None:
        """Drop each collection when it is retired."""
        dropped: frozenset[str] = frozenset()
        while True:
            while retired := catalog.retired() - dropped:
                await self._when_there_is_room(partial(self._drop, opened, retired))
                dropped |= retired
            await catalog.changed()

    async def _drop(self, opened: _Open, retired: frozenset[str]) -> None:
        async with self.paused:
            self._show(opened, opened.searcher.without_collections(retired))
            stored = await self._in_thread(opened.store.collection_ids)
            await self._in_thread(lambda: opened.store.drop_collections(retired & stored))

    async def _when_there_is_room(self, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Write, however long the disk takes to have room again; what was there goes on being served meanwhile."""
        failures = 0
        while True:
            try:
                await _finished(write())
            except CannotWrite as error:
                metrics.APPLY_FAILURES.inc()
                self._publication.problem = str(error)
                _log.error("cannot apply what is new; what is there is served, and it is tried again", error=str(error))
                await asyncio.sleep(_pause(failures))
                failures += 1
            else:
                self._publication.problem = ""
                return

    def _show(self, opened: _Open, searcher: Searcher) -> None:
        """Make it the current searcher: published, unless what it was to reach first is not reached."""
        opened.searcher = searcher
        behind = sum(
            max(0, end - searcher.progress[partition].index_offset) for partition, end in self._ends_to_reach.items()
        )
        if behind:
            message = f"the shard is catching up with the log: {behind} records to go"
            self._publication.withdraw(NotReady(message, reason="CATCHING_UP"))
        else:
            self._ends_to_reach.clear()
            self._publication.publish(View(searcher, opened.reader))
        metrics.READY.set(not behind)

    async def _damage(self) -> None:
        await self._publication.damage.wait()
        raise Damaged("a read found the database damaged")

    async def _start_over(self, reason: Literal["log_replaced", "damaged"], error: Exception) -> None:
        """Throw the database away; the next opening makes it anew from the log."""
        _log.error("rebuilding the index from the log", reason=reason, error=str(error))
        self._publication.withdraw(rebuilding())
        metrics.READY.set(0)
        metrics.REBUILDS.labels(reason).inc()
        await self._close()
        await self._in_thread(lambda: put_aside(self._path) if reason == "damaged" else delete(self._path))
        self._publication.damage.clear()
        self._current_at.clear()
        self._ends_to_reach.clear()

    async def _close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await asyncio.to_thread(opened.reader.close)
            await self._in_thread(opened.store.close)  # last, so that SQLite folds the journal in

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Await it to its end even when cancelled: store and searcher would differ else."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    finally:
        await asyncio.wait({task})


def _pause(failures: int) -> float:
    return min(RETRY_SECONDS[1], RETRY_SECONDS[0] * 2.0**failures)
