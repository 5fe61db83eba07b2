"""Reads of the Kafka log: what is committed, and the identity that every topic begins with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from google.protobuf.message import DecodeError
from headwater.log.v1.log_pb2 import IdentityRecord

from serving.errors import HeadwaterError

from . import LogReplaced, LogSettings, Record
from ._kafka_client import as_unavailable, start_consumer, stop_consumer
from .keys import IDENTITY_KEY, LOG_ID_HEADER

T = TypeVar("T")
READ_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """Messages from an offset on, and where to go on."""

    messages: Sequence[ConsumerRecord]
    next_offset: int


class KafkaReader:
    """One consumer that answers reads in turn; started on the first, and anew after an error."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._turn = asyncio.Lock()

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Committed ends (Kafka's last stable offsets)."""
        return await self._call(lambda consumer: consumer.end_offsets(list(partitions)))

    async def firsts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._call(lambda consumer: consumer.beginning_offsets(list(partitions)))

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        found = await self._call(lambda consumer: consumer.offsets_for_times({partition: timestamp_ms}))
        return None if found[partition] is None else int(found[partition].offset)

    async def fetch(self, partition: TopicPartition, offset: int, end: int, max_records: int) -> Fetched:
        """The next messages between the offset and the end: at least one, unless there is none."""

        async def fetch(consumer: AIOKafkaConsumer) -> Fetched:
            messages: Sequence[ConsumerRecord] = ()
            position = offset
            if offset < end:
                consumer.assign([partition])
                consumer.seek(partition, offset)
            while not messages and position < end:
                got = await consumer.getmany(partition, timeout_ms=100, max_records=max_records)
                messages = got.get(partition, ())
                position = await consumer.position(partition)
            if offset < end:
                # else it would go on fetching; unsubscribing instead can kill aiokafka's fetcher
                consumer.pause(partition)
            return Fetched(messages, position)

        return await self._call(fetch)

    async def identity(self, partition: TopicPartition) -> IdentityRecord | None:
        """The first record, if there is one; raises LogReplaced when that is no identity."""
        first, end = (await self.firsts([partition]))[partition], (await self.ends([partition]))[partition]
        messages = (await self.fetch(partition, first, end, 1)).messages
        if not messages:
            return None
        try:
            if messages[0].key == IDENTITY_KEY:
                return IdentityRecord.FromString(messages[0].value)
        except DecodeError:
            pass
        raise LogReplaced(f"{partition.topic}/{partition.partition} does not begin with a log's identity")

    async def check(self, topic: str, log_id: bytes) -> None:
        """Raises LogReplaced when the topic was made anew."""
        identity = await self.identity(TopicPartition(topic, 0))
        if identity is None or identity.log_id != log_id:
            raise LogReplaced(f"{topic} belongs to another log than before", reason="LOG_REPLACED")

    async def aclose(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)

    async def _call(self, operation: Callable[[AIOKafkaConsumer], Awaitable[T]]) -> T:
        async with self._turn:
            try:
                with as_unavailable("reading"):
                    async with asyncio.timeout(READ_SECONDS):
                        if self._consumer is None:
                            # every read stops below an end it knows, so that the broker need not wait for more
                            self._consumer = await start_consumer(self._settings, fetch_max_wait_ms=1)
                        result = await operation(self._consumer)
                return result
            except HeadwaterError as error:
                await self.aclose()
                if isinstance(error.__cause__, OffsetOutOfRangeError):
                    raise LogReplaced("the log ends before a stored offset", reason="LOG_REPLACED") from error
                raise


def own_records(messages: Iterable[ConsumerRecord], log_id: bytes) -> tuple[list[Record], int]:
    """The data records that carry the log's id, and how many records carry none or another one."""
    records, strangers = [], 0
    for message in messages:
        if dict(message.headers).get(LOG_ID_HEADER) != log_id:
            strangers += 1
        elif message.key != IDENTITY_KEY:
            records.append(Record(message.offset, message.timestamp, message.key, message.value))
    return records, strangers
