"""Appends to the Kafka log: by anyone, through one shared producer, and by a partition's owner, in transactions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTimestampError

from serving.crashpoints import crash_point

from . import Fenced, LogSettings, LogUnavailable, OutcomeUnknown, Record, TimestampRefused
from ._kafka_client import KAFKA_ERRORS, RETRY_BACKOFF_SECONDS, as_unavailable, drop_producer, is_fenced, start_producer
from ._rules import check_size
from .keys import LOG_ID_HEADER

MAX_IN_FLIGHT_BYTES: Final = 64 * 1024 * 1024
"""Below the brokers' socket.request.max.bytes (100 MiB): one request carries batches of many partitions."""
TRANSACTION_SECONDS: Final = 20.0


class _Lease:
    """A started producer and how many appends use it."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.producer = producer
        self.users = 0


class SharedProducer:
    """The producer that all appends share.

    One whose append was refused or went unanswered takes no more of them, and is dropped without flushing when the
    others on it have ended.
    """

    def __init__(self, settings: LogSettings, log_id: bytes) -> None:
        self._settings = settings
        self._headers = [(LOG_ID_HEADER, log_id)]
        self._current: _Lease | None = None
        self._starting = asyncio.Lock()
        self._in_flight_bytes = 0
        self._room = asyncio.Condition()
        self._dropping: set[asyncio.Task[None]] = set()

    async def append(
        self, topic: str, partition: int, key: bytes, value: bytes, *, timestamp_ms: int, timeout_seconds: float
    ) -> int:
        deadline = time.monotonic() + timeout_seconds
        size = len(key) + len(value)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._reserve(size)
        except TimeoutError as error:
            raise LogUnavailable("the log is slower than what it is sent; nothing was appended") from error
        try:
            with as_unavailable("nothing was appended"):
                async with asyncio.timeout(deadline - time.monotonic()):
                    lease = await self._acquire()
            healthy = True
            try:
                return await self._send(
                    lease.producer, topic, partition, key, value, timestamp_ms, deadline - time.monotonic()
                )
            except (LogUnavailable, OutcomeUnknown, TimestampRefused):
                healthy = False
                raise
            finally:
                self._release(lease, healthy)
        finally:
            self._in_flight_bytes -= size
            async with self._room:
                self._room.notify_all()

    async def _send(
        self,
        producer: AIOKafkaProducer,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes,
        timestamp_ms: int,
        timeout_seconds: float,
    ) -> int:
        sent = None
        begun_at = time.monotonic()
        try:
            async with asyncio.timeout(timeout_seconds):
                sent = await producer.send(
                    topic, value, key, partition, timestamp_ms=timestamp_ms, headers=self._headers
                )
                metadata = await sent
        except InvalidTimestampError as error:
            # The broker looks at the stamp before it looks for a duplicate: of a batch sent twice, the first may have
            # landed though the second was refused.
            if time.monotonic() - begun_at >= RETRY_BACKOFF_SECONDS:
                raise OutcomeUnknown("the log refused the record's timestamp, perhaps when sent again") from error
            raise TimestampRefused(
                "the log's clock refused the record's timestamp, or that of one sent with it",
                reason="TIMESTAMP_REFUSED",
            ) from error
        except KAFKA_ERRORS as error:
            if sent is None:
                raise LogUnavailable(f"nothing was appended: {type(error).__name__}") from error
            raise OutcomeUnknown(f"the log did not confirm the append: {type(error).__name__}") from error
        if metadata.offset < 0:
            raise OutcomeUnknown("the log has the record, but no longer knows its offset")
        return int(metadata.offset)

    async def _reserve(self, size: int) -> None:
        async with self._room:
            await self._room.wait_for(
                lambda: self._in_flight_bytes == 0 or self._in_flight_bytes + size <= MAX_IN_FLIGHT_BYTES
            )
            self._in_flight_bytes += size

    async def _acquire(self) -> _Lease:
        async with self._starting:
            if self._current is None:
                self._current = _Lease(await start_producer(self._settings))
            self._current.users += 1
            return self._current

    def _release(self, lease: _Lease, healthy: bool) -> None:
        lease.users -= 1
        if not healthy and self._current is lease:
            self._current = None
        if lease is not self._current and lease.users == 0:
            task = asyncio.create_task(drop_producer(lease.producer))
            self._dropping.add(task)
            task.add_done_callback(self._dropping.discard)

    async def close(self) -> None:
        if self._current is not None:
            await drop_producer(self._current.producer)
        await asyncio.gather(*self._dropping)


class KafkaOwnedPartition:
    """A partition held by its transactional id: the broker fails the transactions of every older owner."""

    def __init__(
        self, producer: AIOKafkaProducer, topic: str, partition: int, log_id: bytes, end: int, last: Record | None
    ) -> None:
        self.last = last
        self.end = end
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._headers = [(LOG_ID_HEADER, log_id)]
        self._abandoned = False

    async def append(self, records: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        for key, value in records:
            check_size(key, value)
        if self._abandoned:
            raise Fenced(
                f"{self._topic}/{self._partition} was abandoned after a failed append or a close; take it anew"
            )
        # abandoned unless it returns: a cancelled append may have landed too
        self._abandoned = True
        committing = False
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                await self._producer.begin_transaction()
                sent = [
                    await self._producer.send(self._topic, value, key, self._partition, headers=self._headers)
                    for key, value in records
                ]
                metadata = await asyncio.gather(*sent)
                crash_point("eventlog.before_commit")
                committing = True
                await self._producer.commit_transaction()
        except KAFKA_ERRORS as error:
            if is_fenced(self._producer, error):
                raise Fenced(f"{self._topic}/{self._partition} has a newer owner") from error
            failure = OutcomeUnknown if committing else LogUnavailable
            raise failure(f"the transaction was not confirmed: {type(error).__name__}") from error
        self._abandoned = False
        return [int(each.offset) for each in metadata]

    async def close(self) -> None:
        self._abandoned = True
        await drop_producer(self._producer)
