"""Groups of workers by Kafka's own protocol: a consumer that is there for its assignment alone and never fetches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from . import Assignment, LogSettings
from ._kafka_client import KAFKA_ERRORS, connection, stop_consumer

BEATS_A_SESSION: Final = 10
RETRY_SECONDS: Final = 0.5
REPORT_SECONDS: Final = 5.0
LEAVE_SECONDS: Final = 5.0


class KafkaMembership:
    """A static member (group.instance.id): it does not say when it ends, so that a restart keeps its partitions."""

    def __init__(self, settings: LogSettings, group: str, member: str, topic: str) -> None:
        self._settings = settings
        self._group = f"{settings.topic_prefix}{group}"
        self._member = member
        self._topic = topic
        self._consumer: AIOKafkaConsumer | None = None
        self._current: Assignment | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> KafkaMembership:
        self._task = asyncio.create_task(self._stay(), name=f"eventlog-member-{self._member}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def assignments(self) -> AsyncIterator[Assignment]:
        seen: Assignment | None = None
        while True:
            changed = self._changed
            if self._current is not None and self._current != seen:
                seen = self._current
                yield seen
            else:
                await changed.wait()

    async def report(self, offsets: Mapping[int, int]) -> None:
        consumer, current = self._consumer, self._current
        if consumer is None or current is None:
            return
        # between a rebalance and the next report the broker refuses: the one after says more
        with suppress(*KAFKA_ERRORS):
            async with asyncio.timeout(REPORT_SECONDS):
                await consumer.commit(
                    {TopicPartition(self._topic, p): o for p, o in offsets.items() if p in current.partitions}
                )

    async def leave(self) -> bool:
        consumer = self._consumer
        if consumer is None or not await self._has_others():
            return False
        # aiokafka says goodbye for members alone that are not static
        consumer._coordinator._group_instance_id = None
        await self.__aexit__()
        return True

    async def _has_others(self) -> bool:
        admin = AIOKafkaAdminClient(**connection(self._settings))
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await admin.start()
                (described,) = await admin.describe_consumer_groups([self._group])
        except KAFKA_ERRORS:
            return False
        finally:
            await admin.close()
        ((_, _, _, _, _, members, *_),) = described.groups
        return len(members) > 1

    async def _stay(self) -> None:
        while True:
            consumer = AIOKafkaConsumer(
                **connection(self._settings),
                group_id=self._group,
                group_instance_id=self._member,
                session_timeout_ms=int(self._settings.session_seconds * 1000),
                heartbeat_interval_ms=int(self._settings.session_seconds * 1000 / BEATS_A_SESSION),
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                metadata_max_age_ms=30_000,
            )
            try:
                consumer.subscribe([self._topic], listener=_Listener(self, consumer))
                await consumer.start()
                self._consumer = consumer
                while True:
                    # gives nothing, since all is paused; it keeps the member from counting as idle, and raises errors
                    await consumer.getmany(timeout_ms=1000)
            except KAFKA_ERRORS:
                pass
            finally:
                self._consumer = None
                await stop_consumer(consumer)
            await asyncio.sleep(RETRY_SECONDS)

    def assign(self, assignment: Assignment) -> None:
        self._current = assignment
        self._changed.set()
        self._changed = asyncio.Event()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, membership: KafkaMembership, consumer: AIOKafkaConsumer) -> None:
        self._membership = membership
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Nothing: an owner keeps working until it is fenced."""

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        partitions = list(assigned)
        self._consumer.pause(*partitions)
        generation = self._consumer._coordinator.generation
        self._membership.assign(Assignment(generation, frozenset(tp.partition for tp in partitions)))
