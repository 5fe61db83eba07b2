"""Rule 5: the log has an identity."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from serving.errors import FailedPrecondition
from serving.eventlog import (
    Batch,
    LogMissing,
    LogReplaced,
    LogSettings,
    LogUnavailable,
    Record,
    Topic,
    init_log,
    open_log,
)
from serving.eventlog.catalog import Catalog
from serving.eventlog.keys import LOG_ID_HEADER
from tests.harness.eventlog import delete_topics, put, read_all, replace


async def test_a_log_that_was_never_made_is_missing(settings: LogSettings) -> None:
    with pytest.raises(LogMissing, match="init"):
        async with open_log(settings):
            pass


async def test_init_gives_one_identity_however_often_it_is_run(settings: LogSettings) -> None:
    log_id = await init_log(settings)
    assert len(log_id) == 16
    async with open_log(settings) as log:
        offset = await put(log, 0, b"k", b"v")
        assert await init_log(settings) == log_id == log.log_id
        assert log.partitions == settings.partitions
        assert [record.offset for record in await read_all(log, Topic.DOCUMENTS, 0)] == [offset]


async def test_inits_at_the_same_time_make_one_log(settings: LogSettings) -> None:
    async def attempt() -> bytes:
        while True:
            try:
                return await init_log(settings)
            except LogUnavailable:  # fenced by another init: to be run again, and not in step with it
                await asyncio.sleep(random.random())

    assert len(set(await asyncio.gather(*(attempt() for _ in range(3))))) == 1


async def test_inits_of_a_new_file_wait_for_each_other(tmp_path: Path) -> None:
    for number in range(40):
        settings = LogSettings(path=tmp_path / str(number) / "log.sqlite3", partitions=2)
        assert len(set(await asyncio.gather(*(init_log(settings) for _ in range(6))))) == 1


async def test_partitions_never_change_under_one_identity(settings: LogSettings) -> None:
    log_id = await init_log(settings)
    with pytest.raises(FailedPrecondition, match="2 partitions"):
        await init_log(settings.model_copy(update={"partitions": 4}))
    assert await init_log(settings) == log_id


async def test_a_running_follower_notices_another_log(settings: LogSettings) -> None:
    await init_log(settings)
    async with open_log(settings) as log, contextlib.aclosing(log.follow({(Topic.INDEX, 0): 0})) as batches:
        async for batch in batches:
            if batch.next_offset == batch.end_offset:
                break
        replaced = asyncio.create_task(replace(settings))
        with pytest.raises(LogReplaced):
            async for _ in batches:
                pass
        assert await replaced != log.log_id


async def test_another_log_is_noticed_though_it_reaches_further_than_the_follower(settings: LogSettings) -> None:
    await init_log(settings)
    async with open_log(settings) as log:
        _, end = await log.bounds(Topic.DOCUMENTS, 0)
        await replace(settings)
        async with open_log(settings) as other:
            for n in range(5):
                await put(other, 0, b"other%d" % n, b"v")
        with pytest.raises(LogReplaced):
            await _first_record(log.follow({(Topic.DOCUMENTS, 0): end}))


async def test_a_reader_and_an_owner_notice_another_log(settings: LogSettings) -> None:
    await init_log(settings)
    async with open_log(settings) as log:
        await put(log, 0, b"k", b"v")
        await replace(settings)
        with pytest.raises(LogReplaced):
            await log.bounds(Topic.DOCUMENTS, 0)
        with pytest.raises(LogReplaced):
            await log.read(Topic.DOCUMENTS, 0, 0)
        with pytest.raises(LogReplaced):
            await log.offset_at(Topic.DOCUMENTS, 0, 0)
        with pytest.raises(LogReplaced):
            await log.take(Topic.INDEX, 0)


async def test_reopening_shows_another_identity(settings: LogSettings) -> None:
    await init_log(settings)
    async with open_log(settings) as log:
        former = log.log_id
    await replace(settings)
    async with open_log(settings) as log:
        assert log.log_id != former


async def test_the_catalog_ends_when_the_log_is_another_one(settings: LogSettings) -> None:
    await init_log(settings)
    async with open_log(settings) as log, Catalog(log) as catalog:
        changed = asyncio.create_task(catalog.changed())
        await replace(settings)
        with pytest.raises(LogReplaced):
            await changed
        with pytest.raises(LogReplaced):
            await catalog.wait_for(1_000, 60)


@pytest.mark.kafka
async def test_a_stray_record_without_the_logs_id_is_passed_over(kafka_settings: LogSettings) -> None:
    """One sent to a former log of that name may arrive in this one; no reader may take it for a record, or give up."""
    await init_log(kafka_settings)
    async with open_log(kafka_settings) as log:
        async with AIOKafkaProducer(bootstrap_servers=kafka_settings.bootstrap_servers) as producer:
            topic = f"{kafka_settings.topic_prefix}{Topic.DOCUMENTS}"
            await producer.send_and_wait(topic, b"stray", b"k", 0, headers=[(LOG_ID_HEADER, b"another log")])
            await producer.send_and_wait(topic, b"stray", b"k", 0)
        offset = await put(log, 0, b"k", b"v")
        assert [record.offset for record in await read_all(log, Topic.DOCUMENTS, 0)] == [offset]
        assert (await _first_record(log.follow({(Topic.DOCUMENTS, 0): 0}))).offset == offset


@pytest.mark.kafka
async def test_a_topic_made_anew_alone_is_not_given_the_old_identity(kafka_settings: LogSettings) -> None:
    await init_log(kafka_settings)
    await delete_topics(kafka_settings, [Topic.INDEX])
    with pytest.raises(FailedPrecondition, match=Topic.INDEX):
        await init_log(kafka_settings)


async def _first_record(batches: AsyncIterator[Batch]) -> Record:
    async for batch in batches:
        if batch.records:
            return batch.records[0]
    raise AssertionError("a follower never ends by itself")
