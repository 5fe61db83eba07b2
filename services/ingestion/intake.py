"""Accepting writes: what the API acknowledges, the log has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from serving import deadlines
from serving.crashpoints import crash_point
from serving.errors import DeadlineExceeded, HeadwaterError, InvalidArgument, NotFound, Unavailable
from serving.eventlog import EventLog, LogUnavailable, OutcomeUnknown, TimestampRefused, Topic
from serving.eventlog.catalog import Catalog
from serving.eventlog.keys import document_key, partition_of

from . import records, validation
from .documents import CollectionSpec, Found, Landed, Write

SETTLED_MS: Final = 10_000
"""An attempt that was accepted longer ago than this cannot land any more (rule 6)."""
MAX_FOUND_WRITES: Final = 1_000
_RETRY_AFTER_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """A write asked after."""

    document_id: str
    write_id: bytes
    accepted_ms: int


class Intake:
    """Appends writes to the log, once each, and looks for those whose outcome is unknown."""

    def __init__(self, log: EventLog, catalog: Catalog, *, append_seconds: float, catalog_seconds: float) -> None:
        self.log_id = log.log_id
        self._log = log
        self._catalog = catalog
        self._append_seconds = append_seconds
        self._catalog_seconds = catalog_seconds

    async def accept(self, write: Write) -> Landed:
        """Append a write; it is never tried twice (rule 6).

        Raises OutcomeUnknown when it may have landed; after any other HeadwaterError it did not and will not.
        """
        validation.check_write(write)
        collection = await self.collection(write.tenant, write.collection_id, write.collections_offset)
        known_offset = max(write.collections_offset, self._catalog.applied - 1)
        write = replace(write, collections_offset=known_offset, accepted_ms=write.accepted_ms or now_ms())
        partition = self._partition(collection, write.document_id)
        try:
            offset = await self._log.append(
                Topic.DOCUMENTS,
                partition,
                document_key(write.collection_id, write.document_id),
                records.encode_write(write),
                timestamp_ms=write.accepted_ms,
                timeout_seconds=deadlines.budget(self._append_seconds),
            )
        except TimestampRefused as error:
            raise DeadlineExceeded(error.message, reason="WRITE_TOO_OLD") from error
        except LogUnavailable as error:
            raise Unavailable(
                "the log cannot be reached; the write did not land, send it again later",
                reason="LOG_UNAVAILABLE",
                retry_after_ms=_RETRY_AFTER_MS,
            ) from error
        crash_point("ingestion.after_append_before_ack")
        return Landed(partition, offset, known_offset)

    async def find(self, tenant: str, collection_id: str, attempts: Sequence[Attempt]) -> list[Found]:
        """Whether attempts landed, in order."""
        if not 1 <= len(attempts) <= MAX_FOUND_WRITES:
            raise InvalidArgument(f"1 to {MAX_FOUND_WRITES} writes can be asked after at once", field="writes")
        for attempt in attempts:
            validation.check_document_id(attempt.document_id)
            validation.check_write_id(attempt.write_id)
            if attempt.accepted_ms <= 0:
                raise InvalidArgument("accepted_unix_ms must be the time of the attempt", field="accepted_unix_ms")
        collection = await self.collection(tenant, collection_id, 0)
        # before the search: what is settled now is in the log by the time the search reads its end, or never
        settled_before_ms = now_ms() - SETTLED_MS
        wanted: dict[int, list[Attempt]] = {}
        for attempt in attempts:
            wanted.setdefault(self._partition(collection, attempt.document_id), []).append(attempt)
        landed: dict[bytes, Landed] = {}
        for partition, sought in wanted.items():
            landed |= await self._search(partition, sought)
        return [Found(landed.get(attempt.write_id), attempt.accepted_ms < settled_before_ms) for attempt in attempts]

    async def collection(self, tenant: str, collection_id: str, collections_offset: int) -> CollectionSpec:
        """The collection, once the catalog knows as much as the caller. Raises NotFound, DeadlineExceeded."""
        if not tenant or not collection_id:
            raise InvalidArgument("the scope must name a tenant and a collection", field="scope")
        if self._catalog.applied <= collections_offset and collections_offset > 0:
            await self._catalog.wait_for(collections_offset, deadlines.budget(self._catalog_seconds))
        message = self._catalog.by_id(collection_id)
        if message is None or message.tenant != tenant:
            raise NotFound("there is no such collection", reason="COLLECTION_NOT_FOUND", field="scope.collection_id")
        return records.collection_of(message)

    def _partition(self, collection: CollectionSpec, document_id: str) -> int:
        return partition_of(
            collection.collection_id, document_id, spread=collection.spread, partitions=self._log.partitions
        )

    async def _search(self, partition: int, attempts: Sequence[Attempt]) -> dict[bytes, Landed]:
        sought = {attempt.write_id for attempt in attempts}
        latest_ms = max(attempt.accepted_ms for attempt in attempts)
        offset = await self._log.offset_at(Topic.DOCUMENTS, partition, min(attempt.accepted_ms for attempt in attempts))
        found: dict[bytes, Landed] = {}
        while len(found) < len(sought):
            batch = await self._log.read(Topic.DOCUMENTS, partition, offset)
            for record in batch.records:
                # a record is stamped at most 5 s before or after it is appended, so none sought can follow this one
                if record.timestamp_ms > latest_ms + SETTLED_MS:
                    return found
                if record.value is not None:
                    write = records.decode_write(record.value)
                    if write.write_id in sought:
                        found[write.write_id] = Landed(partition, record.offset, write.collections_offset)
            offset = batch.next_offset
            if offset >= batch.end_offset:
                break
        return found


class OrderedWrites:
    """The writes of one stream: different documents at once, those of one document in the order they came.

    After a write whose outcome is unknown, the document's later ones are refused until it must be settled: it might
    still land after them, and undo them.
    """

    def __init__(self, accept: Callable[[Write], Awaitable[Landed]]) -> None:
        self._accept = accept
        self._last: dict[bytes, asyncio.Future[int]] = {}

    def submit(self, write: Write) -> Callable[[], Awaitable[Landed]]:
        """Take the write's place in the order, now; calling does the rest, and raises as `Intake.accept` does."""
        key = document_key(write.collection_id, write.document_id)
        before = self._last.get(key)
        # its result is the time in ms until which the outcome is unknown; 0 when it is known
        unknown_until = self._last[key] = asyncio.get_running_loop().create_future()
        return partial(self._in_turn, write, key, before, unknown_until)

    async def _in_turn(
        self, write: Write, key: bytes, before: asyncio.Future[int] | None, unknown_until: asyncio.Future[int]
    ) -> Landed:
        unknown_until_ms = 0 if before is None else await before
        try:
            if unknown_until_ms > now_ms():
                raise Unavailable(
                    "whether an earlier write of this document landed is not known yet; settle that one first",
                    reason="EARLIER_WRITE_UNKNOWN",
                    retry_after_ms=unknown_until_ms - now_ms(),
                )
            unknown_until_ms = now_ms() + SETTLED_MS
            landed = await self._accept(write)
            unknown_until_ms = 0
            return landed
        except HeadwaterError as error:
            if not isinstance(error, OutcomeUnknown) and error.reason != "EARLIER_WRITE_UNKNOWN":
                unknown_until_ms = 0
            raise
        finally:
            unknown_until.set_result(unknown_until_ms)
            if not unknown_until_ms and self._last.get(key) is unknown_until:
                del self._last[key]


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
