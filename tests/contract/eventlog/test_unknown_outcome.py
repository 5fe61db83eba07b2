"""Rule 6: an unknown outcome is settled before anything else is tried."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTimestampError

from serving.eventlog import (
    EventLog,
    LogSettings,
    LogUnavailable,
    OutcomeUnknown,
    TimestampRefused,
    Topic,
    init_log,
    open_log,
)
from serving.eventlog.sqlite import SqliteLog
from tests.harness.eventlog import follow_until, now_ms, put, read_all
from tests.harness.kafka import Broker


@pytest.mark.parametrize("difference_ms", [-6_000, 6_000])
async def test_a_document_stamped_too_far_from_the_clock_is_refused(log: EventLog, difference_ms: int) -> None:
    with pytest.raises(TimestampRefused):
        await log.append(Topic.DOCUMENTS, 0, b"k", b"late", timestamp_ms=now_ms() + difference_ms, timeout_seconds=10)
    offset = await put(log, 0, b"k", b"timely")
    assert [(r.offset, r.value) for r in await read_all(log, Topic.DOCUMENTS, 0)] == [(offset, b"timely")]


@pytest.mark.parametrize("difference_ms", [-4_000, 4_000])
async def test_a_document_stamped_near_the_clock_is_taken(log: EventLog, difference_ms: int) -> None:
    stamp = now_ms() + difference_ms
    await log.append(Topic.DOCUMENTS, 0, b"k", b"v", timestamp_ms=stamp, timeout_seconds=10)
    assert [record.timestamp_ms for record in await read_all(log, Topic.DOCUMENTS, 0)] == [stamp]


async def test_dead_letters_may_be_of_any_age(log: EventLog) -> None:
    await log.append(Topic.DEADLETTERS, 0, b"k", b"v", timestamp_ms=now_ms() - 60_000, timeout_seconds=10)


@pytest.mark.kafka
@pytest.mark.parametrize("difference_ms", [-6_000, 6_000])
async def test_the_broker_itself_refuses_the_stamp(kafka_settings: LogSettings, difference_ms: int) -> None:
    """A process may stall between a check of its own and the append."""
    await init_log(kafka_settings)
    topic = f"{kafka_settings.topic_prefix}{Topic.DOCUMENTS}"
    async with AIOKafkaProducer(bootstrap_servers=kafka_settings.bootstrap_servers, acks="all") as producer:
        with pytest.raises(InvalidTimestampError):
            await producer.send_and_wait(topic, b"v", b"k", 0, timestamp_ms=now_ms() + difference_ms)


async def test_the_transaction_itself_refuses_the_stamp(sqlite_log: SqliteLog, sqlite_settings: LogSettings) -> None:
    with closing(apsw.Connection(str(sqlite_settings.path))) as other:
        other.execute("BEGIN IMMEDIATE")
        stamp = now_ms() - 4_500
        append = asyncio.create_task(
            sqlite_log.append(Topic.DOCUMENTS, 0, b"k", b"v", timestamp_ms=stamp, timeout_seconds=10)
        )
        await asyncio.sleep(1)  # not for synchronisation: the stamp ages while the transaction cannot begin
        other.execute("ROLLBACK")
    with pytest.raises(TimestampRefused):
        await append


async def test_an_append_given_up_in_front_of_its_transaction_never_lands(
    sqlite_log: SqliteLog, sqlite_settings: LogSettings
) -> None:
    with closing(apsw.Connection(str(sqlite_settings.path))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable):
            await sqlite_log.append(Topic.DOCUMENTS, 0, b"k", b"v", timestamp_ms=now_ms(), timeout_seconds=0.05)
        other.execute("ROLLBACK")
    await put(sqlite_log, 0, b"k", b"next")
    assert [record.value for record in await read_all(sqlite_log, Topic.DOCUMENTS, 0)] == [b"next"]


async def test_a_full_disk_fails_the_append_and_nothing_of_it_lands(sqlite_log: SqliteLog) -> None:
    connection = sqlite_log._writer._connection
    connection.pragma("max_page_count", 1)  # SQLite then answers as on a full disk
    with pytest.raises(LogUnavailable):
        await put(sqlite_log, 0, b"k", bytes(100_000))
    connection.pragma("max_page_count", 1_000_000)
    await put(sqlite_log, 0, b"k", b"next")
    assert [record.value for record in await read_all(sqlite_log, Topic.DOCUMENTS, 0)] == [b"next"]


@pytest.fixture
async def broker(kafka_bootstrap_servers: str, tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker to kill, beside the one that others share."""
    broker = Broker(tmp_path / "kafka")
    trouble = await asyncio.to_thread(broker.start)
    if trouble:
        pytest.skip(f"no Kafka broker of our own could be started: {trouble}")
    yield broker
    await asyncio.to_thread(broker.stop)


@pytest.mark.kafka
@pytest.mark.timeout(300)
async def test_what_a_broker_does_not_confirm_is_unknown_and_what_it_was_not_sent_has_not_landed(
    broker: Broker,
) -> None:
    settings = LogSettings(kind="kafka", bootstrap_servers=broker.address, partitions=2)
    await init_log(settings)
    async with open_log(settings) as log:
        offset = await put(log, 0, b"k", b"before")
        owned = await log.take(Topic.INDEX, 0)
        following = asyncio.create_task(
            follow_until(log, Topic.DOCUMENTS, 0, lambda records, _: b"after" in [r.value for r in records])
        )

        broker.freeze()
        with pytest.raises(OutcomeUnknown):
            await log.append(Topic.DOCUMENTS, 0, b"k", b"unknown", timestamp_ms=now_ms(), timeout_seconds=1)
        broker.thaw()
        broker.kill()
        with pytest.raises(LogUnavailable):
            await log.append(Topic.DOCUMENTS, 0, b"k", b"refused", timestamp_ms=now_ms(), timeout_seconds=2)
        with pytest.raises(LogUnavailable):
            await log.bounds(Topic.DOCUMENTS, 0)
        with pytest.raises((LogUnavailable, OutcomeUnknown)):
            await owned.append([(b"k", b"unknown")])
        await owned.close()

        assert await asyncio.to_thread(broker.start) == ""
        assert await put(log, 0, b"k", b"after") > offset
        values = [record.value for record in await following]
        assert values in ([b"before", b"after"], [b"before", b"unknown", b"after"])
        owned = await log.take(Topic.INDEX, 0)
        await owned.append([(b"k", b"taken over")])
        await owned.close()
