"""The kafka engine: the log in Apache Kafka, through aiokafka.

Owners are fenced by their partition's transactional id, readers read what is committed, and documents' stamps are
checked by the broker (message.timestamp.before.max.ms and after.max.ms).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from headwater.log.v1.log_pb2 import IdentityRecord

from serving import telemetry

from . import Batch, LogMissing, LogReplaced, LogSettings, LogUnavailable, Membership, OwnedPartition, Record, Topic
from ._kafka_client import (
    KAFKA_ERRORS,
    as_unavailable,
    drop_producer,
    security_hint,
    start_consumer,
    start_producer,
    stop_consumer,
    topic_name,
)
from ._kafka_group import KafkaMembership
from ._kafka_init import existing_topics, init
from ._kafka_producers import KafkaOwnedPartition, SharedProducer
from ._kafka_reader import KafkaReader, own_records
from ._rules import HEARTBEAT_SECONDS, check_size, check_stamp, check_unfenced

_log = telemetry.get_logger(__name__)

OPEN_SECONDS: Final = 60.0
START_SECONDS: Final = 30.0
TAKE_SECONDS: Final = 30.0
TRANSACTION_TIMEOUT_MS: Final = 30_000
FOLLOW_RECORDS: Final = 500
IDENTITY_SECONDS: Final = 1.0
STALL_SECONDS: Final = 10.0
MAX_RETRY_SECONDS: Final = 2.0

Positions = dict[tuple[Topic, int], int]


class KafkaLog:
    """An opened log in Kafka."""

    def __init__(self, settings: LogSettings, log_id: bytes, partitions: int, reader: KafkaReader) -> None:
        self.log_id = log_id
        self.partitions = partitions
        self._settings = settings
        self._reader = reader
        self._producer = SharedProducer(settings, log_id)

    async def append(
        self, topic: Topic, partition: int, key: bytes, value: bytes, *, timestamp_ms: int, timeout_seconds: float
    ) -> int:
        check_unfenced(topic)
        check_size(key, value)
        # the broker checks too; this spares the appends sent together with one that it would refuse
        if topic is Topic.DOCUMENTS:
            check_stamp(timestamp_ms)
        name = topic_name(self._settings, topic)
        return await self._producer.append(
            name, partition, key, value, timestamp_ms=timestamp_ms, timeout_seconds=timeout_seconds
        )

    async def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        at = self._at(topic, partition)
        await self._reader.check(at.topic, self.log_id)
        return (await self._reader.firsts([at]))[at], (await self._reader.ends([at]))[at]

    async def offset_at(self, topic: Topic, partition: int, timestamp_ms: int) -> int:
        at = self._at(topic, partition)
        await self._reader.check(at.topic, self.log_id)
        end = (await self._reader.ends([at]))[at]
        found = await self._reader.offset_at(at, timestamp_ms)
        return end if found is None else min(found, end)

    async def read(self, topic: Topic, partition: int, offset: int, *, max_records: int = 1000) -> Batch:
        at = self._at(topic, partition)
        asked_at = time.monotonic()
        end = (await self._reader.ends([at]))[at]
        _check_position(at, offset, end)
        fetched = await self._reader.fetch(at, offset, end, max_records)
        records, strangers = own_records(fetched.messages, self.log_id)
        if strangers or not records:
            await self._reader.check(at.topic, self.log_id)
        return Batch(topic, partition, tuple(records), fetched.next_offset, end, asked_at)

    async def follow(self, positions: Mapping[tuple[Topic, int], int]) -> AsyncIterator[Batch]:
        at = dict(positions)
        retry_seconds = 0.1
        while True:
            try:
                async with aclosing(self._follow(at)) as batches:
                    async for batch in batches:
                        retry_seconds = 0.1
                        yield batch
            except (LogUnavailable, *KAFKA_ERRORS):
                await asyncio.sleep(retry_seconds)
                retry_seconds = min(2 * retry_seconds, MAX_RETRY_SECONDS)

    async def _follow(self, at: Positions) -> AsyncGenerator[Batch, None]:
        """Follow until an error, moving the positions along."""
        partitions = {self._at(*key): key for key in at}
        async with asyncio.timeout(START_SECONDS):
            consumer = await start_consumer(self._settings)
        try:
            consumer.assign(list(partitions))
            for partition, key in partitions.items():
                consumer.seek(partition, at[key])
            checked_at = 0.0
            moved_at = time.monotonic()
            while True:
                asked_at = time.monotonic()
                ends = await self._reader.ends(partitions)
                if asked_at - checked_at >= IDENTITY_SECONDS:
                    for name in {partition.topic for partition in partitions}:
                        await self._reader.check(name, self.log_id)
                    checked_at = asked_at
                for partition, key in partitions.items():
                    _check_position(partition, at[key], ends[partition])
                    yield Batch(*key, (), at[key], ends[partition], asked_at)
                before = dict(at)
                left = HEARTBEAT_SECONDS
                # at least once, however long the batches' reader took over them
                while left > 0:
                    async for batch in self._fetch(consumer, partitions, ends, asked_at, left):
                        at[batch.topic, batch.partition] = batch.next_offset
                        yield batch
                    left = asked_at + HEARTBEAT_SECONDS - time.monotonic()
                for partition, key in partitions.items():
                    # transactions' markers move it on without giving a record
                    at[key] = await consumer.position(partition)
                if at != before or all(at[key] >= ends[partition] for partition, key in partitions.items()):
                    moved_at = time.monotonic()
                elif time.monotonic() - moved_at > STALL_SECONDS:
                    # aiokafka's consumers can stall in silence (aiokafka issues 703, 847, 1037): begin anew
                    raise KafkaError("the consumer stalled")
        finally:
            await stop_consumer(consumer)

    async def _fetch(
        self,
        consumer: AIOKafkaConsumer,
        partitions: Mapping[TopicPartition, tuple[Topic, int]],
        ends: Mapping[TopicPartition, int],
        asked_at: float,
        seconds: float,
    ) -> AsyncIterator[Batch]:
        got = await consumer.getmany(timeout_ms=int(seconds * 1000) + 1, max_records=FOLLOW_RECORDS)
        for partition, messages in got.items():
            records, strangers = own_records(messages, self.log_id)
            if strangers:
                await self._reader.check(partition.topic, self.log_id)
            next_offset = await consumer.position(partition)
            yield Batch(*partitions[partition], tuple(records), next_offset, ends[partition], asked_at)

    async def take(self, topic: Topic, partition: int) -> OwnedPartition:
        at = self._at(topic, partition)
        with as_unavailable(f"taking {topic}/{partition}"):
            async with asyncio.timeout(TAKE_SECONDS):
                # starting it is the fence: it ends older owners' transactions, and their right to begin others
                producer = await start_producer(
                    self._settings,
                    transactional_id=f"{at.topic}-{partition}",
                    transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                )
                try:
                    await self._reader.check(at.topic, self.log_id)
                    end = (await self._reader.ends([at]))[at]
                    last = await self._last(at, end)
                except BaseException:
                    await drop_producer(producer)
                    raise
        return KafkaOwnedPartition(producer, at.topic, partition, self.log_id, end, last)

    async def _last(self, at: TopicPartition, end: int) -> Record | None:
        """The last data record below the end, found by reading ever longer stretches before it: the last offsets are
        markers, and compaction leaves gaps of any length."""
        first = (await self._reader.firsts([at]))[at]
        upper, length = end, 4
        while upper > first:
            lower = max(first, upper - length)
            last, position = None, lower
            while position < upper:
                fetched = await self._reader.fetch(at, position, upper, FOLLOW_RECORDS)
                records, _ = own_records(fetched.messages, self.log_id)
                last = next((record for record in reversed(records) if record.offset < upper), last)
                position = fetched.next_offset
            if last is not None:
                return last
            upper, length = lower, 4 * length
        return None

    def join(self, group: str, member: str, topic: Topic) -> AbstractAsyncContextManager[Membership]:
        return KafkaMembership(self._settings, group, member, topic_name(self._settings, topic))

    def _at(self, topic: Topic, partition: int) -> TopicPartition:
        return TopicPartition(topic_name(self._settings, topic), partition)

    async def aclose(self) -> None:
        await self._producer.close()


def _check_position(partition: TopicPartition, offset: int, end: int) -> None:
    if offset > end:
        raise LogReplaced(
            f"{partition.topic}/{partition.partition} ends at {end}, below offset {offset}: it is not the log it was",
            reason="LOG_REPLACED",
        )


@asynccontextmanager
async def open_kafka_log(settings: LogSettings) -> AsyncIterator[KafkaLog]:
    """Raises LogMissing, LogUnavailable."""
    async with aclosing(KafkaReader(settings)) as reader:
        names = [topic_name(settings, topic) for topic in Topic]
        what = f"opening the log at {settings.bootstrap_servers} for {OPEN_SECONDS:.0f} s"
        with as_unavailable(what, security_hint(settings)):
            async with asyncio.timeout(OPEN_SECONDS):
                identities = await _identities(settings, reader, names)
        identity = identities[0] if identities else None
        if identity is None or len(identities) < len(names) or any(each != identity for each in identities):
            raise LogMissing(
                f"there is no whole log at {settings.bootstrap_servers};"
                " make one with `python -m serving.eventlog init`"
            )
        async with aclosing(KafkaLog(settings, identity.log_id, identity.partitions, reader)) as log:
            yield log


async def _identities(settings: LogSettings, reader: KafkaReader, names: Sequence[str]) -> list[IdentityRecord | None]:
    """What the topics that are there begin with; waits for a broker that is not there yet."""
    while True:
        try:
            there = await existing_topics(settings)
            return [await reader.identity(TopicPartition(name, 0)) for name in names if name in there]
        except (LogUnavailable, *KAFKA_ERRORS) as error:
            _log.warning("waiting for the log", brokers=settings.bootstrap_servers, reason=type(error).__name__)
            await asyncio.sleep(MAX_RETRY_SECONDS)


async def init_kafka_log(settings: LogSettings) -> bytes:
    """Create the topics where they are missing, and write one identity to every partition in one transaction."""
    return await init(settings)
