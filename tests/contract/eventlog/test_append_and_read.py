"""Appending, reading and following."""

import asyncio
import contextlib
import time

import pytest

from serving.errors import InvalidArgument
from serving.eventlog import EventLog, LogReplaced, Topic
from tests.harness.eventlog import follow_until, now_ms, put, read_all


async def test_appended_records_are_read_back_in_order(log: EventLog) -> None:
    stamp = now_ms()
    offsets = [
        await log.append(Topic.DOCUMENTS, 1, b"k%d" % n, b"v%d" % n, timestamp_ms=stamp + n, timeout_seconds=10)
        for n in range(5)
    ]

    records = await read_all(log, Topic.DOCUMENTS, 1)

    assert [record.offset for record in records] == offsets == sorted(set(offsets))
    assert [(r.key, r.value, r.timestamp_ms) for r in records] == [
        (b"k%d" % n, b"v%d" % n, stamp + n) for n in range(5)
    ]
    assert await read_all(log, Topic.DOCUMENTS, 0) == []


async def test_the_identity_is_never_among_the_records_yet_takes_the_first_offset(log: EventLog) -> None:
    first, end = await log.bounds(Topic.DOCUMENTS, 0)
    batch = await log.read(Topic.DOCUMENTS, 0, first)
    assert first < end
    assert batch.records == ()
    assert batch.next_offset == end


async def test_a_read_at_the_end_is_empty_and_current(log: EventLog) -> None:
    await put(log, 0, b"k", b"v")
    _, end = await log.bounds(Topic.DOCUMENTS, 0)
    before = time.monotonic()
    batch = await log.read(Topic.DOCUMENTS, 0, end)
    assert (batch.records, batch.next_offset, batch.end_offset) == ((), end, end)
    assert before <= batch.asked_at <= time.monotonic()


async def test_a_read_gives_no_more_records_than_asked_for(log: EventLog) -> None:
    offsets = [await put(log, 0, b"k%d" % n, b"v") for n in range(5)]
    batch = await log.read(Topic.DOCUMENTS, 0, offsets[0], max_records=2)
    assert [record.offset for record in batch.records] == offsets[:2]
    assert offsets[1] < batch.next_offset <= offsets[2]


async def test_an_offset_is_found_by_time(log: EventLog) -> None:
    stamp = now_ms()
    offsets = [
        await log.append(Topic.DOCUMENTS, 0, b"k", b"v", timestamp_ms=stamp + ms, timeout_seconds=10)
        for ms in (0, 1000, 500, 2000)
    ]
    assert await log.offset_at(Topic.DOCUMENTS, 0, stamp + 500) <= offsets[1]
    assert await log.offset_at(Topic.DOCUMENTS, 0, stamp + 1500) <= offsets[3]
    assert offsets[2] < await log.offset_at(Topic.DOCUMENTS, 0, stamp + 1500)
    _, end = await log.bounds(Topic.DOCUMENTS, 0)
    assert await log.offset_at(Topic.DOCUMENTS, 0, stamp + 60_000) == end


async def test_concurrent_appends_have_unique_offsets_and_none_is_lost(log: EventLog) -> None:
    offsets = await asyncio.gather(*(put(log, 0, b"k%d" % n, b"v%d" % n) for n in range(200)))
    records = await read_all(log, Topic.DOCUMENTS, 0)
    assert len(set(offsets)) == 200
    assert {(r.offset, r.key) for r in records} == {(offset, b"k%d" % n) for n, offset in enumerate(offsets)}
    assert [r.offset for r in records] == sorted(r.offset for r in records)


async def test_a_follower_hears_of_an_append_while_it_waits(log: EventLog) -> None:
    waiting = asyncio.Event()

    async def follow() -> bytes | None:
        async with contextlib.aclosing(log.follow({(Topic.DOCUMENTS, p): 0 for p in range(2)})) as batches:
            async for batch in batches:
                if batch.next_offset == batch.end_offset:
                    waiting.set()
                if batch.records:
                    assert (batch.topic, batch.partition) == (Topic.DOCUMENTS, 1)
                    return batch.records[0].value
        raise AssertionError("a follower never ends by itself")

    follower = asyncio.create_task(follow())
    await waiting.wait()
    await put(log, 1, b"k", b"v")
    assert await follower == b"v"


async def test_an_idle_follower_keeps_hearing_of_each_partition_with_a_later_asked_at(log: EventLog) -> None:
    await put(log, 0, b"k", b"v")
    heard: dict[int, list[float]] = {0: [], 1: []}
    async with contextlib.aclosing(log.follow({(Topic.DOCUMENTS, p): 0 for p in heard})) as batches:
        async for batch in batches:
            assert batch.asked_at <= time.monotonic()
            if batch.next_offset >= batch.end_offset:
                heard[batch.partition].append(batch.asked_at)
            if all(len(set(times)) >= 3 for times in heard.values()):
                break
    assert all(times == sorted(times) for times in heard.values())


async def test_an_end_that_was_asked_for_holds_all_that_was_acknowledged_before(log: EventLog) -> None:
    async with contextlib.aclosing(log.follow({(Topic.DOCUMENTS, 0): 0})) as batches:
        for n in range(20):
            offset = await put(log, 0, b"k%d" % n, b"v")
            acknowledged_at = time.monotonic()
            async for batch in batches:
                if batch.asked_at >= acknowledged_at:
                    assert batch.end_offset > offset
                if batch.next_offset > offset:
                    break


async def test_following_starts_in_the_middle(log: EventLog) -> None:
    offsets = [await put(log, 0, b"k%d" % n, b"v") for n in range(5)]
    async with contextlib.aclosing(log.follow({(Topic.DOCUMENTS, 0): offsets[3]})) as batches:
        seen = []
        async for batch in batches:
            seen += [record.offset for record in batch.records]
            if batch.next_offset > offsets[4]:
                break
    assert seen == offsets[3:]


async def test_a_position_above_the_end_is_another_log(log: EventLog) -> None:
    _, end = await log.bounds(Topic.DOCUMENTS, 0)
    with pytest.raises(LogReplaced):
        await log.read(Topic.DOCUMENTS, 0, end + 1)
    with pytest.raises(LogReplaced):
        async for _ in log.follow({(Topic.DOCUMENTS, 0): end + 1}):
            pass


async def test_a_record_of_32_mib_passes_and_a_larger_one_is_refused(log: EventLog) -> None:
    key, limit = b"large", 32 * 1024 * 1024
    value = bytes(limit - len(key))
    offset = await log.append(Topic.DOCUMENTS, 0, key, value, timestamp_ms=now_ms(), timeout_seconds=30)
    with pytest.raises(InvalidArgument, match=str(limit)):
        await put(log, 0, key, value + b"x")

    records = await follow_until(log, Topic.DOCUMENTS, 0, lambda _, batch: batch.next_offset > offset)
    assert [record.value == value for record in records] == [True]
    owned = await log.take(Topic.INDEX, 0)
    await owned.append([(key, value), (key, value)])
    await owned.close()
    assert [record.value == value for record in await read_all(log, Topic.INDEX, 0)] == [True, True]


async def test_nobody_appends_round_the_fence(log: EventLog) -> None:
    for topic in (Topic.COLLECTIONS, Topic.INDEX):
        with pytest.raises(InvalidArgument, match=r"take\(\)"):
            await log.append(topic, 0, b"k", b"v", timestamp_ms=now_ms(), timeout_seconds=10)
