"""Rules 3 and 4: what compaction may take away, and what a reader makes of it.

Kafka's brokers keep the ages by themselves: test_topic_settings shows that they are told to.
"""

from serving.eventlog import EventLog, LogSettings, Topic
from serving.eventlog.sqlite import SqliteLog
from tests.harness.eventlog import compact, follow_until, put, read_all


async def test_compaction_keeps_the_newest_record_of_each_key_in_its_place(
    log: EventLog, settings: LogSettings
) -> None:
    owned = await log.take(Topic.INDEX, 0)
    await owned.append([(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1")])
    await owned.append([(b"a", b"3"), (b"head", b"1")])
    await owned.close()
    before = await read_all(log, Topic.INDEX, 0)

    assert await compact(settings, Topic.INDEX) == 2

    assert await read_all(log, Topic.INDEX, 0) == [before[1], before[3], before[4], before[5]]


async def test_reading_and_following_pass_the_gaps_of_compaction(log: EventLog, settings: LogSettings) -> None:
    owned = await log.take(Topic.INDEX, 0)
    for n in range(20):
        await owned.append([(b"a", b"%d" % n)])
    await owned.close()
    assert await compact(settings, Topic.INDEX) == 19

    _, end = await log.bounds(Topic.INDEX, 0)
    for offset in range(end):
        batch = await log.read(Topic.INDEX, 0, offset)
        assert batch.next_offset > offset
    followed = await follow_until(log, Topic.INDEX, 0, lambda _, batch: batch.next_offset >= end)
    assert [record.value for record in followed] == [b"19"]


async def test_the_last_data_record_survives_compaction(log: EventLog, settings: LogSettings) -> None:
    owned = await log.take(Topic.INDEX, 0)
    await owned.append([(b"progress", b"1"), (b"a", b"1")])
    await owned.append([(b"progress", b"2")])
    await owned.close()
    assert await compact(settings, Topic.INDEX) == 1

    owned = await log.take(Topic.INDEX, 0)
    last = owned.last
    await owned.close()
    assert last is not None
    assert last.value == b"2"


async def test_an_owner_resumes_from_the_end_after_compaction(log: EventLog, settings: LogSettings) -> None:
    owned = await log.take(Topic.INDEX, 0)
    offsets = await owned.append([(b"a", b"1"), (b"a", b"2")])
    await owned.close()
    assert await compact(settings, Topic.INDEX) == 1
    owned = await log.take(Topic.INDEX, 0)
    (offset,) = await owned.append([(b"a", b"3")])
    await owned.close()
    assert offset > offsets[-1]


async def test_records_younger_than_the_topic_allows_all_stay(sqlite_log: SqliteLog) -> None:
    for n in range(3):
        await put(sqlite_log, 0, b"same", b"%d" % n)
    owned = await sqlite_log.take(Topic.INDEX, 0)
    await owned.append([(b"same", b"1"), (b"same", b"2"), (b"other", None), (b"head", b"")])
    await owned.close()
    for topic in Topic:
        assert await sqlite_log.compact(topic) == 0
    assert len(await read_all(sqlite_log, Topic.DOCUMENTS, 0)) == 3
    assert len(await read_all(sqlite_log, Topic.INDEX, 0)) == 4


async def test_a_young_record_does_not_count_as_the_newer_one(sqlite_log: SqliteLog) -> None:
    owned = await sqlite_log.take(Topic.INDEX, 0)
    await owned.append([(b"a", b"1"), (b"a", b"2")])
    await owned.close()
    first, second = await read_all(sqlite_log, Topic.INDEX, 0)
    assert await sqlite_log.compact(Topic.INDEX, min_age_seconds=60) == 0
    assert await read_all(sqlite_log, Topic.INDEX, 0) == [first, second]


async def test_nulls_go_and_dead_letters_stay(sqlite_log: SqliteLog) -> None:
    owned = await sqlite_log.take(Topic.INDEX, 0)
    await owned.append([(b"retired", b"1"), (b"retired", None), (b"progress", b"")])
    await owned.close()
    owned = await sqlite_log.take(Topic.INDEX, 1)
    await owned.append([(b"retired", b"1"), (b"retired", None)])
    await owned.close()
    for _ in range(2):
        await sqlite_log.append(Topic.DEADLETTERS, 0, b"same", b"why", timestamp_ms=0, timeout_seconds=10)
    for topic in Topic:
        await sqlite_log.compact(topic, min_age_seconds=0)
    assert [record.key for record in await read_all(sqlite_log, Topic.INDEX, 0)] == [b"progress"]
    # a partition's last record stays, for its owner to find
    assert [record.value for record in await read_all(sqlite_log, Topic.INDEX, 1)] == [None]
    assert len(await read_all(sqlite_log, Topic.DEADLETTERS, 0)) == 2
