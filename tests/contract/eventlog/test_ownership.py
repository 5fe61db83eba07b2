"""Rule 1: one writer a partition, fenced by the log."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import ProducerFenced

from serving.eventlog import EventLog, Fenced, LogSettings, Topic, init_log, open_log
from serving.eventlog.keys import LOG_ID_HEADER
from tests.harness.eventlog import compact, put, read_all

KEY = b"collection/1/document"


async def test_a_new_owner_fences_the_older_one(log: EventLog) -> None:
    older = await log.take(Topic.INDEX, 0)
    await older.append([(KEY, b"older")])
    newer = await log.take(Topic.INDEX, 0)
    with pytest.raises(Fenced):
        await older.append([(KEY, b"late")])
    await newer.append([(KEY, b"newer")])
    with pytest.raises(Fenced):
        await older.append([(KEY, b"later still")])
    assert [record.value for record in await read_all(log, Topic.INDEX, 0)] == [b"older", b"newer"]
    await older.close()
    await newer.close()


async def test_partitions_and_topics_are_fenced_apart(log: EventLog) -> None:
    owners = [await log.take(Topic.INDEX, 0), await log.take(Topic.INDEX, 1), await log.take(Topic.COLLECTIONS, 0)]
    for owner in owners:
        await owner.append([(KEY, b"mine")])
        await owner.close()


async def test_taking_gives_the_end_and_the_last_data_record(log: EventLog) -> None:
    first = await log.take(Topic.INDEX, 0)
    assert first.last is None
    offsets = await first.append([(b"a", b"1"), (b"b", b"2")])
    await first.append([(b"c", None)])
    await first.close()

    second = await log.take(Topic.INDEX, 0)

    assert second.last is not None
    assert (second.last.key, second.last.value) == (b"c", None)
    assert second.last.offset > offsets[-1]
    assert second.end == (await log.bounds(Topic.INDEX, 0))[1]
    assert second.last.offset < second.end
    await second.close()


@pytest.mark.kafka
async def test_the_last_record_is_found_behind_any_number_of_markers(kafka_settings: LogSettings) -> None:
    await init_log(kafka_settings)
    async with open_log(kafka_settings) as log:
        owned = await log.take(Topic.INDEX, 0)
        (offset,) = await owned.append([(KEY, b"last")])
        await owned.close()
        async with _transactions(kafka_settings, log, "another") as (producer, send):
            for _ in range(20):
                await producer.begin_transaction()
                await send(b"aborted")
                await producer.abort_transaction()
        owned = await log.take(Topic.INDEX, 0)
        assert owned.last is not None
        assert (owned.last.offset, owned.last.value) == (offset, b"last")
        await owned.close()


@pytest.mark.kafka
async def test_an_open_transaction_is_not_read_and_ends_before_the_next_owner_reads_the_end(
    kafka_settings: LogSettings,
) -> None:
    await init_log(kafka_settings)
    async with open_log(kafka_settings) as log:
        _, before = await log.bounds(Topic.INDEX, 0)
        async with _transactions(kafka_settings, log, f"{Topic.INDEX}-0") as (producer, send):
            await producer.begin_transaction()
            await send(b"open")
            assert await log.bounds(Topic.INDEX, 0) == (0, before)
            assert await read_all(log, Topic.INDEX, 0) == []

            owned = await log.take(Topic.INDEX, 0)
            assert owned.last is None
            assert owned.end == (await log.bounds(Topic.INDEX, 0))[1] > before
            with pytest.raises(ProducerFenced):
                await producer.commit_transaction()
            await owned.close()
        assert await read_all(log, Topic.INDEX, 0) == []


async def test_a_transaction_lands_whole_and_in_order(log: EventLog) -> None:
    owned = await log.take(Topic.INDEX, 0)
    written = [(b"k%d" % n, b"v%d" % n) for n in range(50)]
    offsets = await owned.append(written)
    await owned.close()
    records = await read_all(log, Topic.INDEX, 0)
    assert [(r.key, r.value) for r in records] == written
    assert [r.offset for r in records] == offsets == sorted(offsets)


async def test_a_closed_owner_appends_no_more_and_fences_nobody(log: EventLog) -> None:
    older = await log.take(Topic.INDEX, 0)
    newer = await log.take(Topic.INDEX, 0)
    await older.close()
    with pytest.raises(Fenced):
        await older.append([(KEY, b"late")])
    await newer.append([(KEY, b"mine")])
    await newer.close()


async def test_a_cancelled_append_abandons_the_partition(log: EventLog) -> None:
    owned = await log.take(Topic.INDEX, 0)
    append = asyncio.create_task(owned.append([(KEY, b"unknown")]))
    await asyncio.sleep(0)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    with pytest.raises(Fenced):
        await owned.append([(KEY, b"after")])
    await owned.close()


async def test_a_stalled_owner_cannot_bring_a_deleted_document_back(log: EventLog, settings: LogSettings) -> None:
    with _stalled_owner(settings, KEY, b"resurrected") as owner:
        older = await log.take(Topic.INDEX, 0)
        await older.append([(KEY, b"put")])
        await older.close()
        assert await _line(owner) == "taken"
        owner.send_signal(signal.SIGSTOP)
        newer = await log.take(Topic.INDEX, 0)
        await newer.append([(KEY, b"deleted")])
        await newer.close()
        _say(owner, "append")
        owner.send_signal(signal.SIGCONT)
        assert await _line(owner) == "Fenced"

    await compact(settings, Topic.INDEX)
    assert [r.value for r in await read_all(log, Topic.INDEX, 0)] == [b"deleted"]


async def test_documents_need_no_owner(log: EventLog) -> None:
    owned = await log.take(Topic.INDEX, 0)
    await put(log, 0, b"k", b"v")
    await owned.append([(KEY, b"mine")])
    await owned.close()


@contextmanager
def _stalled_owner(settings: LogSettings, key: bytes, value: bytes) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.harness.stalled_owner"]
    owner = subprocess.Popen(
        [*command, settings.model_dump_json(), key.decode(), value.decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        try:
            yield owner
        finally:
            owner.kill()


async def _line(owner: subprocess.Popen[str]) -> str:
    assert owner.stdout is not None
    return (await asyncio.to_thread(owner.stdout.readline)).strip()


def _say(owner: subprocess.Popen[str], line: str) -> None:
    assert owner.stdin is not None
    owner.stdin.write(f"{line}\n")
    owner.stdin.flush()


@asynccontextmanager
async def _transactions(
    settings: LogSettings, log: EventLog, transactional_id: str
) -> AsyncIterator[tuple[AIOKafkaProducer, Callable[[bytes], Awaitable[object]]]]:
    """A producer with transactions, and a way to send this log's records to index partition 0 in them."""
    headers = [(LOG_ID_HEADER, log.log_id)]
    topic = f"{settings.topic_prefix}{Topic.INDEX}"
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers, transactional_id=f"{settings.topic_prefix}{transactional_id}"
    )
    await producer.start()
    try:
        yield producer, lambda value: producer.send_and_wait(topic, value, KEY, partition=0, headers=headers)
    finally:
        await producer.stop()
