"""Follows the index log into the admitted set: the reason why nothing stale is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from types import TracebackType
from typing import Self

from google.protobuf.message import DecodeError
from headwater.log.v1 import log_pb2

from serving import telemetry
from serving.errors import FailedPrecondition
from serving.eventlog import Batch, EventLog, LogMissing, LogReplaced, LogUnavailable, Topic

from . import metrics
from .admissions import Admissions
from .history import Advance, Change

_log = telemetry.get_logger(__name__)
_RETRY_SECONDS = 0.5
_SCHEMA_VERSION = 1


class Follower(AbstractAsyncContextManager["Follower"]):
    """Follows in `task` while entered, whatever happens to the log: it reopens it, and begins anew with another one."""

    task: asyncio.Task[None]

    def __init__(
        self,
        open_log: Callable[[], AbstractAsyncContextManager[EventLog]],
        admissions: Admissions,
        *,
        backfill_records: int,
    ) -> None:
        self._open_log = open_log
        self._admissions = admissions
        self._backfill_records = backfill_records
        self._caught_up = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def caught_up(self) -> None:
        """Returns once every partition was followed to an end of the log."""
        await self._caught_up.wait()

    async def _run(self) -> None:
        while True:
            try:
                async with self._open_log() as log:
                    await self._follow(log)
            except LogReplaced as error:
                _log.warning("the log was replaced; every entry is dropped", why=error.message)
                metrics.LOG_REPLACEMENTS.inc()
                self._admissions.forget_log()
            except (LogUnavailable, LogMissing) as error:
                _log.warning("the log cannot be followed; nothing is served", why=error.message)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, log: EventLog) -> None:
        history = self._admissions.history
        if log.log_id != history.log_id:
            self._admissions.follow(log.log_id, await self._start_positions(log))
        positions = {(Topic.INDEX, partition): offset for partition, offset in history.positions().items()}
        behind = {partition for _, partition in positions}
        async with aclosing(log.follow(positions)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                advance = digest(batch)
                self._admissions.apply(advance)
                self._observe(advance)
                if batch.next_offset >= batch.end_offset:
                    behind.discard(batch.partition)
                if not behind:
                    self._caught_up.set()

    async def _start_positions(self, log: EventLog) -> dict[int, int]:
        """A bounded distance before the ends: enough history to admit what was worked out lately."""
        positions = {}
        for partition in range(log.partitions):
            first, end = await log.bounds(Topic.INDEX, partition)
            positions[partition] = max(first, end - self._backfill_records)
        return positions

    def _observe(self, advance: Advance) -> None:
        partition = str(advance.partition)
        metrics.INDEX_OFFSET.labels(partition).set(advance.next_offset)
        metrics.INDEX_LAG_RECORDS.labels(partition).set(max(0, advance.end_offset - advance.next_offset))
        metrics.ENTRIES.set(len(self._admissions))
        metrics.MEMORY_BYTES.set(self._admissions.memory_bytes)


def digest(batch: Batch) -> Advance:
    """What a batch of the index log means here.

    Raises FailedPrecondition on a record that cannot be read: what it changes is unknown, so nothing may be served.
    """
    changes = []
    documents_offset = None
    for record in batch.records:
        if record.value is None:
            # a key of a retired collection: it starts with the collection's id
            collection_id = record.key.split(b"/", 1)[0].decode()
            changes.append(Change(batch.partition, record.offset, collection_id, ""))
            continue
        message = log_pb2.IndexRecord()
        try:
            message.ParseFromString(record.value)
        except DecodeError as error:
            raise _unreadable(batch.partition, record.offset) from error
        if message.schema_version != _SCHEMA_VERSION:
            raise _unreadable(batch.partition, record.offset)
        if not message.progress_held:
            documents_offset = message.documents_offset + 1
        if message.WhichOneof("outcome") != "progress":
            changes.append(Change(batch.partition, record.offset, message.collection_id, message.document_id))
    return Advance(
        partition=batch.partition,
        changes=changes,
        documents_offset=documents_offset,
        next_offset=batch.next_offset,
        end_offset=batch.end_offset,
        asked_at=batch.asked_at,
    )


def _unreadable(partition: int, offset: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"the index record at partition {partition}, offset {offset} cannot be read; upgrade this service",
        reason="RECORD_UNREADABLE",
    )
