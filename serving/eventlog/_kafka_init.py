"""Making a log in Kafka: its topics, and its identity in every partition of them."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from typing import Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code
from headwater.log.v1.log_pb2 import IdentityRecord

from serving.errors import FailedPrecondition

from . import LogSettings, LogUnavailable, Topic
from ._kafka_client import (
    KAFKA_ERRORS,
    MAX_MESSAGE_BYTES,
    as_unavailable,
    connection,
    drop_producer,
    is_fenced,
    security_hint,
    start_producer,
    topic_name,
)
from ._kafka_reader import KafkaReader
from ._rules import MAX_CLOCK_DIFFERENCE_MS, MIN_COMPACTION_AGE_SECONDS, check_partitions, topic_partitions
from .keys import IDENTITY_KEY, LOG_ID_HEADER

INIT_SECONDS: Final = 60.0


async def init(settings: LogSettings) -> bytes:
    """Fenced by a transactional id, and all or nothing, so that it may be run again, and by several at once."""
    with as_unavailable("init", security_hint(settings)):
        async with asyncio.timeout(INIT_SECONDS):
            producer = await start_producer(settings, transactional_id=f"{settings.topic_prefix}headwater.init")
            try:
                await _create_topics(settings)
                async with aclosing(KafkaReader(settings)) as reader:
                    log_id = await _find(settings, reader) or await _write(settings, producer)
            except KAFKA_ERRORS as error:
                if is_fenced(producer, error):
                    raise LogUnavailable("another init is running; run it again") from error
                raise
            finally:
                await drop_producer(producer)
    return log_id


async def existing_topics(settings: LogSettings) -> set[str]:
    """Names of the topics that are there."""
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=10_000)
    try:
        await admin.start()
        return set(await admin.list_topics())
    finally:
        await admin.close()


def _partitions(settings: LogSettings, partitions: int) -> list[TopicPartition]:
    return [
        TopicPartition(topic_name(settings, topic), p)
        for topic in Topic
        for p in range(topic_partitions(topic, partitions))
    ]


async def _create_topics(settings: LogSettings) -> None:
    missing = {topic_name(settings, topic): topic for topic in Topic}
    for name in await existing_topics(settings):
        missing.pop(name, None)
    if not missing:
        return
    topics = [
        NewTopic(
            name,
            topic_partitions(topic, settings.partitions),
            settings.replication_factor,
            topic_configs=_configs(topic, settings.replication_factor),
        )
        for name, topic in missing.items()
    ]
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=30_000)
    try:
        await admin.start()
        response = await admin.create_topics(topics)
    finally:
        await admin.close()
    for name, code, *details in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise LogUnavailable(f"Kafka could not create topic {name}: {error.__name__} {details}")


def _configs(topic: Topic, replication_factor: int) -> dict[str, str]:
    configs = {
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        "min.insync.replicas": str(2 if replication_factor > 2 else 1),
        "message.timestamp.type": "CreateTime" if topic in (Topic.DOCUMENTS, Topic.DEADLETTERS) else "LogAppendTime",
    }
    if topic is Topic.DOCUMENTS:
        configs["message.timestamp.before.max.ms"] = str(MAX_CLOCK_DIFFERENCE_MS)
        configs["message.timestamp.after.max.ms"] = str(MAX_CLOCK_DIFFERENCE_MS)
    if topic in MIN_COMPACTION_AGE_SECONDS:
        configs["cleanup.policy"] = "compact"
        configs["min.compaction.lag.ms"] = str(MIN_COMPACTION_AGE_SECONDS[topic] * 1000)
    else:
        configs["cleanup.policy"] = "delete"
        configs["retention.ms"] = configs["retention.bytes"] = "-1"
    return configs


async def _find(settings: LogSettings, reader: KafkaReader) -> bytes | None:
    """The identity that all partitions hold; None when none holds one."""
    found = await reader.identity(TopicPartition(topic_name(settings, Topic.COLLECTIONS), 0))
    if found is not None:
        check_partitions(found.partitions, settings.partitions)
    for partition in _partitions(settings, settings.partitions):
        if await reader.identity(partition) != found:
            raise FailedPrecondition(
                f"{partition.topic}/{partition.partition} does not belong to the same log as the other topics;"
                " restore it, or delete all four topics and run init again"
            )
    return None if found is None else found.log_id


async def _write(settings: LogSettings, producer: AIOKafkaProducer) -> bytes:
    log_id = os.urandom(16)
    identity = IdentityRecord(schema_version=1, log_id=log_id, partitions=settings.partitions).SerializeToString()
    async with producer.transaction():
        for name, partition in _partitions(settings, settings.partitions):
            await producer.send(name, identity, IDENTITY_KEY, partition, headers=[(LOG_ID_HEADER, log_id)])
    return log_id
