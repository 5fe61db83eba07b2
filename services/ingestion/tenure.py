"""Owning one partition: from taking it over until it is lost (rules 1 and 2)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Final, Protocol

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving import telemetry
from serving.crashpoints import crash_point
from serving.errors import DeadlineExceeded, HeadwaterError
from serving.eventlog import Batch, EventLog, OwnedPartition, Record, Topic
from serving.eventlog.catalog import Catalog
from serving.eventlog.keys import PROGRESS_KEY, index_key

from . import metrics, records
from .budget import Budget
from .documents import CollectionSpec, Write
from .erasure import erase_documents, keys_of
from .errors import DocumentRejected, LogDisagrees
from .hold import Hold
from .intake import now_ms
from .newest import NOTHING_SAID, Newest, Word
from .processor import Processor
from .records import Position, Source

_log = telemetry.get_logger(__name__)
_propagator = TraceContextTextMapPropagator()

_TRANSACTION_RECORDS: Final = 500
_TRANSACTION_BYTES: Final = 16 * 1024 * 1024
_ERASED_A_TRANSACTION: Final = 500
_DEAD_LETTER_SECONDS: Final = 5.0
_CATALOG_SECONDS: Final = 10.0
_SHARD_PAUSE_SECONDS: Final = 5.0


class Indexed(Protocol):
    """Who knows what is indexed already."""

    async def ask(self, partition: int, tenant: str, collection_id: str, document_ids: Sequence[str]) -> Word:
        """Content hashes, and how far the one asked was. Raises HeadwaterError."""
        ...


@dataclass(frozen=True, slots=True)
class TenureLimits:
    """How much of a partition is in flight, and for how long compaction leaves its documents alone."""

    max_documents: int
    max_bytes: int
    remembered_documents: int
    compaction_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a documents record."""

    kind: str
    content_hash: bytes = b""
    """Of the document as the index now has it; b"" when it is not there."""
    value: bytes | None = None
    """The index record; None where progress says enough."""
    key: bytes = b""
    rejection: DocumentRejected | None = None


@dataclass(slots=True)
class _InFlight:
    """A documents record being worked on; of a gap in the log, nothing."""

    position: Position
    record: Record | None
    source: Source | None
    outcome: asyncio.Task[Outcome]

    @property
    def size(self) -> int:
        return 0 if self.record is None else len(self.record.value or b"")


class Tenure:
    """One owner's time with a partition. Reads ahead within bounds, works on many documents at once, appends what
    became of them in the order of the log."""

    def __init__(
        self,
        partition: int,
        log: EventLog,
        catalog: Catalog,
        processor: Processor,
        indexed: Indexed,
        limits: TenureLimits,
    ) -> None:
        self.partition = partition
        self.next_offset = 0
        """First documents offset that is not done."""
        self._log = log
        self._catalog = catalog
        self._processor = processor
        self._indexed = indexed
        self._limits = limits
        self._budget = Budget(limits.max_documents, limits.max_bytes)
        self._in_flight: deque[_InFlight] = deque()
        self._latest: dict[bytes, asyncio.Task[Outcome]] = {}
        self._arrived = asyncio.Event()
        # appends are made one after the other, whoever makes them
        self._turn = asyncio.Lock()
        self._read_offset = 0
        self._end_offset = 0
        self._shards_quiet_until = 0.0

    async def run(self) -> None:
        """Take the partition over and work until something ends that: Fenced, LogDisagrees, any failed append."""
        owned = await self._log.take(Topic.INDEX, self.partition)
        jobs: list[asyncio.Task[None]] = []
        try:
            position = await self._resume(owned)
            self._owned = owned
            self._done = position
            self._newest = Newest(owned.end, self._limits.remembered_documents)
            jobs = [asyncio.create_task(job) for job in (self._read(position), self._append(), self._erase())]
            ended, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in ended:
                job.result()
        finally:
            await _cancel([*jobs, *(one.outcome for one in self._in_flight)])
            with suppress(KeyError):
                metrics.LAG.remove(str(self.partition))
            await owned.close()

    async def _resume(self, owned: OwnedPartition) -> Position:
        """Where the owner before stopped, as the index itself says; checked against the documents (rule 5)."""
        first_offset, end_offset = await self._log.bounds(Topic.DOCUMENTS, self.partition)
        if owned.last is None:
            self.next_offset = first_offset
            return Position(first_offset - 1)
        if owned.last.value is None:
            raise LogDisagrees(f"index partition {self.partition} ends with a null, which no owner leaves there")
        position = records.decode_position(owned.last.value)
        found = await self._log.read(Topic.DOCUMENTS, self.partition, min(position.offset, end_offset), max_records=1)
        at_position = next((record for record in found.records if record.offset == position.offset), None)
        # nothing there: compacted away because the document has a newer record, or never a record
        if position.offset >= end_offset or (at_position and _write_id(at_position) != position.write_id):
            raise LogDisagrees(
                f"index partition {self.partition} was made from other documents than the log now holds at offset"
                f" {position.offset}; the log has lost records, and a new one must be started (docs/operations.md)",
                reason="LOG_DISAGREES",
            )
        self.next_offset = position.offset + 1
        return position

    async def _read(self, position: Position) -> None:
        hold = Hold(position, self._limits.compaction_seconds)
        async for batch in self._log.follow({(Topic.DOCUMENTS, self.partition): self.next_offset}):
            self._end_offset, self._read_offset = batch.end_offset, batch.next_offset
            held = hold.of(batch, now_ms())
            writes = [None if record.value is None else records.decode_write(record.value) for record in batch.records]
            words = await self._ask(batch, writes)
            for number, (record, write) in enumerate(zip(batch.records, writes, strict=True)):
                await self._budget.acquire(len(record.value or b""))
                write_id = b"" if write is None else write.write_id
                position = Position(record.offset, write_id, record.timestamp_ms, held.records[number])
                source = None if write is None else Source(self.partition, record.offset, write, held.records[number])
                word = NOTHING_SAID if write is None else words.get(write.collection_id, NOTHING_SAID)
                self._start(position, record, source, word)
            if held.release:
                if batch.next_offset - 1 > position.offset:
                    position = Position(batch.next_offset - 1, accepted_ms=position.accepted_ms)
                position = replace(position, held=False)
                self._start(position, None, None, NOTHING_SAID)
            self._show_lag()

    async def _ask(self, batch: Batch, writes: Sequence[Write | None]) -> Mapping[str, Word]:
        """What retrieval says of the documents that are put, by collection; nothing when it does not answer."""
        wanted: dict[tuple[str, str], set[str]] = {}
        for record, write in zip(batch.records, writes, strict=True):
            if write is not None and write.content is not None and not self._newest.knows(record.key):
                wanted.setdefault((write.tenant, write.collection_id), set()).add(write.document_id)
        words: dict[str, Word] = {}
        for (tenant, collection_id), document_ids in wanted.items():
            if time.monotonic() < self._shards_quiet_until:
                break
            try:
                words[collection_id] = await self._indexed.ask(
                    self.partition, tenant, collection_id, sorted(document_ids)
                )
            except HeadwaterError:
                # only unchanged documents lose by it: they are indexed again
                self._shards_quiet_until = time.monotonic() + _SHARD_PAUSE_SECONDS
        return words

    def _start(self, position: Position, record: Record | None, source: Source | None, word: Word) -> None:
        if record is None or source is None:
            task = asyncio.create_task(_nothing())
        else:
            before = self._latest.get(record.key)
            task = asyncio.create_task(self._work(record.key, source, word, before))
            self._latest[record.key] = task
        self._in_flight.append(_InFlight(position, record, source, task))
        self._arrived.set()

    async def _work(self, key: bytes, source: Source, word: Word, before: asyncio.Task[Outcome] | None) -> Outcome:
        write = source.write
        context = _propagator.extract({"traceparent": write.traceparent})
        now = time.monotonic()
        telemetry.record_span("ingestion.wait", now - _age_seconds(write), now, context)
        with telemetry.span("ingestion.document", context):
            collection = await self._collection(write)
            if before is not None:
                await asyncio.wait([before])
            if collection is None:
                return _RETIRED
            at = index_key(collection.collection_id, collection.generation, write.document_id)
            if write.content is None:
                return Outcome("deleted", value=records.encode_deleted(source, collection), key=at)
            content_hash = self._processor.content_hash(write.content, collection)
            if before is not None:
                newest_hash = before.result().content_hash
            else:
                newest_hash = self._newest.hash_of(key, write.document_id, word)
            if newest_hash == content_hash:
                return Outcome("unchanged", content_hash)
            try:
                value = await self._processor.process(
                    source, write.content, collection, content_hash, lambda: self._is_live(write)
                )
                return Outcome("indexed", content_hash, value, at)
            except DocumentRejected as why:
                value = records.encode_rejected(source, collection, why)
                return Outcome("rejected", value=value, key=at, rejection=why)

    async def _collection(self, write: Write) -> CollectionSpec | None:
        """The write's collection, once as much is known as was when the write was accepted; None if it is gone."""
        while self._catalog.applied <= write.collections_offset:
            try:
                await self._catalog.wait_for(write.collections_offset, _CATALOG_SECONDS)
            except DeadlineExceeded:
                _log.warning("waiting for the collections", partition=self.partition, offset=write.collections_offset)
        message = self._catalog.by_id(write.collection_id)
        return None if message is None else records.collection_of(message)

    def _is_live(self, write: Write) -> bool:
        return self._catalog.by_id(write.collection_id) is not None

    async def _append(self) -> None:
        while True:
            while not self._in_flight:
                self._arrived.clear()
                await self._arrived.wait()
            await asyncio.wait([self._in_flight[0].outcome])
            ready: list[_InFlight] = []
            size = 0
            for one in takewhile(lambda one: one.outcome.done(), self._in_flight):
                size += len(one.outcome.result().value or b"")
                if ready and (size > _TRANSACTION_BYTES or len(ready) >= _TRANSACTION_RECORDS):
                    break
                ready.append(one)
            await self._commit(ready)
            for one in ready:
                self._in_flight.popleft()
                if one.record is not None:
                    self._budget.release(one.size)
            self._show_lag()

    async def _commit(self, ready: Sequence[_InFlight]) -> None:
        """Append what became of some documents in one transaction.

        What needs no record of its own is covered by the next one's, or at the end by progress.
        """
        async with self._turn:
            outcomes = [self._final(one) for one in ready]
            appended = [(outcome.key, outcome.value) for outcome in outcomes if outcome.value is not None]
            done = ready[-1].position
            if outcomes[-1].value is None:
                appended.append((PROGRESS_KEY, records.encode_progress(done)))
            await self._append_dead_letters(ready, outcomes)
            crash_point("ingestion.after_parse_before_append")
            began = time.monotonic()
            with metrics.APPEND_SECONDS.time():
                offsets = iter(await self._owned.append(appended))
            crash_point("ingestion.after_index_append")
            self._done = done
            self.next_offset = done.offset + 1
            for one, outcome in zip(ready, outcomes, strict=True):
                self._note(one, outcome, next(offsets) if outcome.value is not None else None, began)

    def _final(self, one: _InFlight) -> Outcome:
        """What became of it; nothing if its collection was deleted meanwhile, or erasing would have missed it."""
        outcome = one.outcome.result()
        live = one.source is None or self._is_live(one.source.write)
        return outcome if live or outcome.value is None else _RETIRED

    def _note(self, one: _InFlight, outcome: Outcome, index_offset: int | None, began: float) -> None:
        if one.record is None:
            return
        if index_offset is not None and one.source is not None:
            context = _propagator.extract({"traceparent": one.source.write.traceparent})
            telemetry.record_span("ingestion.append", began, time.monotonic(), context)
            metrics.INDEXED_SECONDS.observe(_age_seconds(one.source.write))
            self._newest.appended(one.record.key, outcome.content_hash, index_offset)
        if self._latest.get(one.record.key) is one.outcome:
            del self._latest[one.record.key]
        metrics.DOCUMENTS.labels(outcome.kind).inc()
        if outcome.rejection is not None:
            metrics.REJECTIONS.labels(outcome.rejection.reason).inc()

    async def _append_dead_letters(self, ready: Sequence[_InFlight], outcomes: Sequence[Outcome]) -> None:
        """Before the index has the rejections: after a crash between, a dead letter is there twice and not never."""
        letters = [
            self._log.append(
                Topic.DEADLETTERS,
                0,
                one.record.key,
                records.encode_dead_letter(one.source, outcome.rejection),
                timestamp_ms=now_ms(),
                timeout_seconds=_DEAD_LETTER_SECONDS,
            )
            for one, outcome in zip(ready, outcomes, strict=True)
            if one.record is not None and one.source is not None and outcome.rejection is not None
        ]
        await asyncio.gather(*letters)

    async def _erase(self) -> None:
        """Null the keys of retired collections, as they become known."""
        erased: frozenset[str] = frozenset()
        while True:
            retired = self._catalog.retired() - erased
            if not retired:
                await self._catalog.changed()
                continue
            async with self._turn:
                # what was being appended when they were retired is in the log now; nothing of them follows (`_final`)
                pass
            keys = await keys_of(self._log, Topic.INDEX, self.partition, retired)
            for start in range(0, len(keys), _ERASED_A_TRANSACTION):
                async with self._turn:
                    nulls: list[tuple[bytes, bytes | None]] = [
                        (key, None) for key in keys[start : start + _ERASED_A_TRANSACTION]
                    ]
                    await self._owned.append([*nulls, (PROGRESS_KEY, records.encode_progress(self._done))])
            await erase_documents(self._log, self.partition, retired)
            erased |= retired

    @property
    def reached(self) -> int:
        """First documents offset that still has to be worked on; for telling the lag alone."""
        return self.next_offset if self._in_flight else max(self.next_offset, self._read_offset)

    def _show_lag(self) -> None:
        metrics.LAG.labels(str(self.partition)).set(max(self._end_offset - self.reached, 0))


_RETIRED: Final = Outcome("retired")


def _age_seconds(write: Write) -> float:
    """Since the write was accepted, by the gateway's clock and this one."""
    return max(0, now_ms() - write.accepted_ms) / 1000


async def _nothing() -> Outcome:
    return Outcome("empty")


def _write_id(record: Record) -> bytes:
    return b"" if record.value is None else records.decode_write(record.value).write_id


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
