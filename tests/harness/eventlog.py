"""What tests do to a log of either engine: read it whole, follow it, compact it, make it anew."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from serving.eventlog import Batch, EventLog, LogSettings, Record, Topic, init_log, open_log
from serving.eventlog._rules import topic_partitions
from serving.eventlog.sqlite import SqliteLog

PATIENCE_SECONDS = 110


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def put(log: EventLog, partition: int, key: bytes, value: bytes) -> int:
    """Append to the documents, stamped now."""
    return await log.append(Topic.DOCUMENTS, partition, key, value, timestamp_ms=now_ms(), timeout_seconds=10)


async def read_all(log: EventLog, topic: Topic, partition: int) -> list[Record]:
    """All that is there, from the first offset to the committed end."""
    offset, end = await log.bounds(topic, partition)
    records: list[Record] = []
    while offset < end:
        batch = await log.read(topic, partition, offset)
        records += batch.records
        offset = batch.next_offset
    return records


async def follow_until(
    log: EventLog, topic: Topic, partition: int, done: Callable[[list[Record], Batch], bool]
) -> list[Record]:
    """Follow from the start until it is done."""
    records: list[Record] = []
    async with asyncio.timeout(PATIENCE_SECONDS), contextlib.aclosing(log.follow({(topic, partition): 0})) as batches:
        async for batch in batches:
            records += batch.records
            if done(records, batch):
                break
    return records


async def compact(settings: LogSettings, topic: Topic) -> int:
    """Compact a topic whatever its records' age, until each key has one left; how many went. Nobody else may append."""
    async with open_log(settings) as log:
        partitions = range(topic_partitions(topic, log.partitions))
        before = sum([len(await read_all(log, topic, partition)) for partition in partitions])
        if isinstance(log, SqliteLog):
            await log.compact(topic, min_age_seconds=0)
        else:
            await _let_kafka_compact(settings, log, topic)
        return before - sum([len(await read_all(log, topic, partition)) for partition in partitions])


async def _let_kafka_compact(settings: LogSettings, log: EventLog, topic: Topic) -> None:
    name = f"{settings.topic_prefix}{topic}"
    configs = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "CreateTime" if topic is Topic.DOCUMENTS else "LogAppendTime",
        "min.cleanable.dirty.ratio": "0.001",
        "min.compaction.lag.ms": "0",
        "segment.ms": "100",
    }
    async with kafka_admin(settings) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs)])
    partitions = set(range(topic_partitions(topic, log.partitions)))
    # Kafka compacts closed segments only: each filler after 100 ms closes one. Readers pass over what has no log's id.
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer,
    ):
        while partitions:
            for partition in list(partitions):
                keys = [record.key for record in await read_all(log, topic, partition)]
                if len(keys) == len(set(keys)):
                    partitions.remove(partition)
                else:
                    await producer.send_and_wait(name, b"", b"filler", partition)
            await asyncio.sleep(0.2)


async def replace(settings: LogSettings) -> bytes:
    """Delete the log and make a new one in its place; the new id."""
    if settings.kind == "sqlite":
        for path in settings.path.parent.glob(f"{settings.path.name}*"):
            path.unlink()
    else:
        await delete_topics(settings, list(Topic))
    return await init_log(settings)


async def delete_topics(settings: LogSettings, topics: list[Topic]) -> None:
    """Delete topics of a Kafka log, and return when they are gone."""
    names = {f"{settings.topic_prefix}{topic}" for topic in topics}
    async with kafka_admin(settings) as admin, asyncio.timeout(PATIENCE_SECONDS):
        await admin.delete_topics(sorted(names))
        while True:
            if not names & set(await admin.list_topics()):
                return
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def kafka_admin(settings: LogSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


def stop_outside_transactions(send_signal: Callable[[signal.Signals], None], settings: LogSettings) -> None:
    """SIGSTOP a process of the log, though not while it holds the sqlite engine's one write lock: then nobody could
    append until it goes on."""
    while True:
        send_signal(signal.SIGSTOP)
        if settings.kind != "sqlite" or not _is_locked(settings.path):
            return
        send_signal(signal.SIGCONT)
        time.sleep(0.05)


def _is_locked(path: Path) -> bool:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(1000)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except apsw.BusyError:
        return True
    finally:
        connection.close()
    return False
