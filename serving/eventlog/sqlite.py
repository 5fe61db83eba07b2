"""The sqlite engine: the whole log in one file, for the processes of one machine.

WAL with synchronous=FULL: what was appended survives the machine. Offsets are given, owners' epochs and documents'
stamps checked in the appending transaction, and SQLite lets one process at a time into those.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing
from functools import partial
from typing import Any

import apsw
from headwater.log.v1 import log_pb2

from . import (
    Batch,
    Fenced,
    LogReplaced,
    LogSettings,
    LogUnavailable,
    Membership,
    Record,
    Topic,
)
from ._rules import (
    HEARTBEAT_SECONDS,
    MIN_COMPACTION_AGE_SECONDS,
    READ_BYTES,
    check_partitions,
    check_size,
    check_stamp,
    check_unfenced,
    now_ms,
    topic_partitions,
)
from ._sqlite_file import BUSY_SECONDS, SCHEMA, Identity, ReaderThread, Watcher, WriterThread, connect
from ._sqlite_group import SqliteMembership
from .keys import IDENTITY_KEY

FOLLOW_RECORDS = 500
RETRY_SECONDS = 0.2
DELETES_A_COMMIT = 500


class SqliteLog:
    """An opened log in a file."""

    def __init__(
        self, identity: Identity, reader: ReaderThread, writer: WriterThread, watcher: Watcher, session_seconds: float
    ) -> None:
        self.log_id = identity.log_id
        self.partitions = identity.partitions
        self._identity = identity
        self._reader = reader
        self._writer = writer
        self._watcher = watcher
        self._session_seconds = session_seconds

    async def append(
        self, topic: Topic, partition: int, key: bytes, value: bytes, *, timestamp_ms: int, timeout_seconds: float
    ) -> int:
        check_unfenced(topic)
        check_size(key, value)

        def insert(connection: apsw.Connection) -> int:
            if topic is Topic.DOCUMENTS:
                check_stamp(timestamp_ms)
            return _insert(connection, topic, partition, timestamp_ms, [(key, value)])[0]

        return await self._writer.run(insert, timeout_seconds=timeout_seconds)

    async def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        # the identity at offset 0 is never compacted away, so that the first offset is always 0
        return 0, await self._reader.run(lambda connection: _head(connection, topic, partition)[0])

    async def offset_at(self, topic: Topic, partition: int, timestamp_ms: int) -> int:
        def find(connection: apsw.Connection) -> int:
            first = connection.execute(
                'SELECT min("offset") FROM records WHERE topic = ? AND partition = ? AND timestamp_ms >= ?',
                (topic, partition, timestamp_ms),
            ).get
            return _head(connection, topic, partition)[0] if first is None else int(first)

        return await self._reader.run(find)

    async def read(self, topic: Topic, partition: int, offset: int, *, max_records: int = 1000) -> Batch:
        return await self._reader.run(
            partial(_read, topic=topic, partition=partition, offset=offset, limit=max_records)
        )

    async def follow(self, positions: Mapping[tuple[Topic, int], int]) -> AsyncIterator[Batch]:
        at = dict(positions)
        told_at = dict.fromkeys(at, 0.0)
        while True:
            changed = self._watcher.changed
            behind = False
            try:
                asked_at = time.monotonic()
                ends = await self._reader.run(_ends)
                for (topic, partition), offset in at.items():
                    end = ends[topic, partition]
                    if offset != end:
                        batch = await self.read(topic, partition, offset, max_records=FOLLOW_RECORDS)
                        at[topic, partition] = batch.next_offset
                        behind = behind or batch.next_offset < batch.end_offset
                    elif asked_at - told_at[topic, partition] >= HEARTBEAT_SECONDS:
                        batch = Batch(topic, partition, (), offset, end, asked_at)
                    else:
                        continue
                    told_at[topic, partition] = batch.asked_at
                    yield batch
            except LogUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if not behind:
                await _wait(changed, HEARTBEAT_SECONDS)

    async def take(self, topic: Topic, partition: int) -> SqliteOwnedPartition:
        def fence(connection: apsw.Connection) -> tuple[int, int, Record | None]:
            end, epoch = _head(connection, topic, partition)
            connection.execute(
                "UPDATE heads SET epoch = ? WHERE topic = ? AND partition = ?", (epoch + 1, topic, partition)
            )
            last = connection.execute(
                'SELECT "offset", timestamp_ms, key, value FROM records WHERE topic = ? AND partition = ? AND key != ?'
                ' ORDER BY "offset" DESC LIMIT 1',
                (topic, partition, IDENTITY_KEY),
            ).get
            return epoch + 1, end, None if last is None else Record(*last)

        epoch, end, last = await self._writer.run(fence, timeout_seconds=BUSY_SECONDS)
        return SqliteOwnedPartition(self._writer, topic, partition, epoch, end, last)

    def join(self, group: str, member: str, topic: Topic) -> AbstractAsyncContextManager[Membership]:
        partitions = topic_partitions(topic, self.partitions)
        return SqliteMembership(self._writer, group, member, topic, partitions, self._session_seconds)

    async def compact(self, topic: Topic, *, min_age_seconds: float | None = None) -> int:
        """Keep the newest record of each key, and drop nulls; return how many records went.

        Offsets stay as they are, and each partition's last record stays whatever it is. Only records older than
        min_age_seconds (the topic's own by default) go, or count as the newer one.
        """
        if topic not in MIN_COMPACTION_AGE_SECONDS:
            return 0
        age = MIN_COMPACTION_AGE_SECONDS[topic] if min_age_seconds is None else min_age_seconds
        before_ms = now_ms() - int(age * 1000)
        dropped = 0
        for partition in range(topic_partitions(topic, self.partitions)):
            doomed = await asyncio.to_thread(self._superseded, topic, partition, before_ms)
            for start in range(0, len(doomed), DELETES_A_COMMIT):
                rows = [(topic, partition, offset) for offset in doomed[start : start + DELETES_A_COMMIT]]
                await self._writer.run(partial(_delete, rows=rows), timeout_seconds=BUSY_SECONDS)
            dropped += len(doomed)
        return dropped

    def _superseded(self, topic: Topic, partition: int, before_ms: int) -> list[int]:
        """Offsets that compaction may drop; on a connection of its own, since the scan is long and holds up nobody."""
        with closing(connect(self._identity.path)) as connection, connection:
            self._identity.check(connection)
            last = connection.execute(
                'SELECT max("offset") FROM records WHERE topic = ? AND partition = ?', (topic, partition)
            ).get
            young = connection.execute(
                'SELECT min("offset") FROM records WHERE topic = ? AND partition = ? AND timestamp_ms > ?',
                (topic, partition, before_ms),
            ).get
            aged = last + 1 if young is None else young
            rows = connection.execute(
                'SELECT "offset" FROM (SELECT "offset", value IS NULL AS empty,'
                ' max("offset") OVER (PARTITION BY key) AS newest'
                ' FROM records WHERE topic = ? AND partition = ? AND "offset" < ?)'
                ' WHERE ("offset" < newest OR empty) AND "offset" != ?',
                (topic, partition, aged, last),
            )
            superseded = [offset for (offset,) in rows]
        return superseded


class SqliteOwnedPartition:
    """A partition held under an epoch; appends check it in their transaction."""

    def __init__(
        self, writer: WriterThread, topic: Topic, partition: int, epoch: int, end: int, last: Record | None
    ) -> None:
        self.last = last
        self.end = end
        self._writer = writer
        self._topic = topic
        self._partition = partition
        self._epoch = epoch
        self._abandoned = False

    async def append(self, records: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        for key, value in records:
            check_size(key, value)
        if self._abandoned:
            raise Fenced(
                f"{self._topic}/{self._partition} was abandoned after a failed append or a close; take it anew"
            )

        def insert(connection: apsw.Connection) -> list[int]:
            _, epoch = _head(connection, self._topic, self._partition)
            if epoch != self._epoch:
                raise Fenced(f"{self._topic}/{self._partition} has a newer owner")
            return _insert(connection, self._topic, self._partition, now_ms(), records)

        # abandoned unless it returns: a cancelled append may have landed too
        self._abandoned = True
        offsets = await self._writer.run(insert, timeout_seconds=2 * BUSY_SECONDS)
        self._abandoned = False
        return offsets

    async def close(self) -> None:
        self._abandoned = True


@asynccontextmanager
async def open_sqlite_log(settings: LogSettings) -> AsyncIterator[SqliteLog]:
    """Raises LogMissing."""
    identity = await asyncio.to_thread(Identity.of, settings.path)
    with ExitStack() as stack:
        reader = stack.enter_context(closing(ReaderThread(identity)))
        writer = stack.enter_context(closing(WriterThread(identity)))
        watcher = stack.enter_context(closing(Watcher(identity)))
        yield SqliteLog(identity, reader, writer, watcher, settings.session_seconds)


async def init_sqlite_log(settings: LogSettings) -> bytes:
    """Create the file where it is missing; one transaction, so that several may try at once."""
    return await asyncio.to_thread(_init, settings)


def _init(settings: LogSettings) -> bytes:
    settings.path.parent.mkdir(parents=True, exist_ok=True)
    with closing(connect(settings.path, create=True)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        # asked of the file: what the connection remembers may be older than the transaction
        if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'log'").get:
            _create(connection, settings.partitions)
        log_id, partitions = connection.execute("SELECT log_id, partitions FROM log").get
        connection.execute("COMMIT")
    check_partitions(partitions, settings.partitions)
    return bytes(log_id)


def _create(connection: apsw.Connection, partitions: int) -> None:
    connection.execute(SCHEMA)
    log_id = os.urandom(16)
    connection.execute("INSERT INTO log VALUES (?, ?)", (log_id, partitions))
    identity = log_pb2.IdentityRecord(schema_version=1, log_id=log_id, partitions=partitions).SerializeToString()
    for topic in Topic:
        for partition in range(topic_partitions(topic, partitions)):
            connection.execute("INSERT INTO heads VALUES (?, ?, 0, 0)", (topic, partition))
            _insert(connection, topic, partition, now_ms(), [(IDENTITY_KEY, identity)])


def _head(connection: apsw.Connection, topic: Topic, partition: int) -> tuple[int, int]:
    """End and owner's epoch."""
    row: tuple[int, int] | None = connection.execute(
        'SELECT "end", epoch FROM heads WHERE topic = ? AND partition = ?', (topic, partition)
    ).get
    if row is None:
        raise ValueError(f"{topic} has no partition {partition}")
    return row


def _insert(
    connection: apsw.Connection,
    topic: Topic,
    partition: int,
    timestamp_ms: int,
    records: Sequence[tuple[bytes, bytes | None]],
) -> list[int]:
    end, _ = _head(connection, topic, partition)
    offsets = list(range(end, end + len(records)))
    connection.executemany(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)",
        [(topic, partition, offset, timestamp_ms, *record) for offset, record in zip(offsets, records, strict=True)],
    )
    connection.execute(
        'UPDATE heads SET "end" = ? WHERE topic = ? AND partition = ?', (end + len(records), topic, partition)
    )
    return offsets


def _delete(connection: apsw.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany('DELETE FROM records WHERE topic = ? AND partition = ? AND "offset" = ?', rows)


def _read(connection: apsw.Connection, topic: Topic, partition: int, offset: int, limit: int) -> Batch:
    asked_at = time.monotonic()
    end, _ = _head(connection, topic, partition)
    _check_position(topic, partition, offset, end)
    records: list[Record] = []
    next_offset, size = end, 0
    rows = connection.execute(
        'SELECT "offset", timestamp_ms, key, value FROM records WHERE topic = ? AND partition = ? AND "offset" >= ?'
        ' ORDER BY "offset"',
        (topic, partition, offset),
    )
    for count, row in enumerate(rows):
        record = Record(*row)
        if count >= limit or size >= READ_BYTES:
            next_offset = record.offset
            break
        size += len(record.key) + len(record.value or b"")
        if record.key != IDENTITY_KEY:
            records.append(record)
    return Batch(topic, partition, tuple(records), next_offset, end, asked_at)


def _ends(connection: apsw.Connection) -> dict[tuple[str, int], int]:
    return {
        (topic, partition): end
        for topic, partition, end in connection.execute('SELECT topic, partition, "end" FROM heads')
    }


def _check_position(topic: Topic, partition: int, offset: int, end: int) -> None:
    if offset > end:
        raise LogReplaced(
            f"{topic}/{partition} ends at {end}, below offset {offset}: it is not the log it was", reason="LOG_REPLACED"
        )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
