"""When the database cannot be trusted or the log is another one: made anew, and nothing stale is served meanwhile."""

import asyncio
from pathlib import Path

import apsw
import grpc
import numpy as np
import pytest
from headwater.common.v1 import common_pb2
from headwater.retrieval.v1 import retrieval_pb2

from services.retrieval.errors import OutOfOrder
from services.retrieval.settings import RetrievalSettings
from serving.errors import FailedPrecondition, Unavailable
from serving.eventlog import LogSettings, Topic, open_log
from serving.eventlog.keys import partition_of
from serving.status import from_rpc_error
from tests.harness.eventlog import compact, replace
from tests.harness.retrieval import COLLECTION, SPREAD, IndexWriter, LocalShard, dump, retire, search_request, until

AXES = np.eye(4, dtype=np.float32)
on_both_logs = pytest.mark.parametrize(
    "log_settings", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True
)


async def hits(shard: LocalShard, after: common_pb2.WriteToken | None = None) -> set[str]:
    response = await shard.stub.Search(search_request(AXES[:1], k=1000, after=after), timeout=60)
    return {hit.document_id for hit in response.results[0].dense}


async def reached_the_end(shard: LocalShard, writer: IndexWriter) -> None:
    ends = {p: (await writer.log.bounds(Topic.INDEX, p))[1] for p in range(writer.log.partitions)}
    await until(lambda: all(shard.follower.state[1][p].index_offset == end for p, end in ends.items()))


async def write_a_history(writer: IndexWriter) -> None:
    for number in range(40):
        await writer.put(f"d{number % 25}", AXES[: number % 4], title=str(number), groups=["hr"] * (number % 2))
    for number in range(0, 25, 3):
        await writer.delete(f"d{number}")
    for number in range(1, 25, 5):
        await writer.reject(f"d{number}")
    await writer.put("d0", AXES[:1])
    for partition in range(4):
        await writer.progress(partition)


@on_both_logs
async def test_a_rebuilt_shard_equals_a_live_one_row_by_row_after_compaction(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings, tmp_path: Path
) -> None:
    async with LocalShard(settings, log_settings) as live:
        await live.ready()
        await write_a_history(writer)
        expected = await hits(live, writer.token())
        assert await compact(log_settings, Topic.INDEX) > 20
        await reached_the_end(live, writer)

    rebuilt_settings = RetrievalSettings(state_dir=tmp_path / "rebuilt")
    async with LocalShard(rebuilt_settings, log_settings) as rebuilt:
        await rebuilt.ready()
        assert await hits(rebuilt, writer.token()) == expected
        await reached_the_end(rebuilt, writer)

    assert dump(rebuilt_settings.database) == dump(settings.database)


async def test_a_restarted_shard_equals_itself(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        await write_a_history(writer)
        before = await shard.stub.Search(search_request(AXES, k=1000, after=writer.token()))
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        after = await shard.stub.Search(search_request(AXES, k=1000))

    assert after.results == before.results
    assert after.progress == before.progress


@on_both_logs
async def test_a_shard_away_past_compaction_learns_of_deletions(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        for name in ("kept", "deleted", "rejected"):
            await writer.put(name, AXES[:1])
        assert await hits(shard, writer.token()) == {"kept", "deleted", "rejected"}
    await writer.delete("deleted")
    await writer.reject("rejected")
    for partition in range(4):
        await writer.progress(partition)
    assert await compact(log_settings, Topic.INDEX) > 0

    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        assert await hits(shard) == {"kept"}


@on_both_logs
async def test_a_shard_that_starts_answers_only_once_it_has_the_end_it_saw(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    small = settings.model_copy(update={"max_batch_records": 1})
    for number in range(50):
        await writer.put(f"d{number}", AXES[:1])

    async with LocalShard(small, log_settings) as shard:
        reasons = []
        found: set[str] = set()
        while not found:
            try:
                found = await hits(shard)
            except grpc.aio.AioRpcError as error:
                reasons.append(from_rpc_error(error).reason)
        assert len(found) == 50
        assert set(reasons) == {"CATCHING_UP"}


@on_both_logs
async def test_a_recreated_log_is_noticed_while_running(log_settings: LogSettings, settings: RetrievalSettings) -> None:
    async with open_log(log_settings) as log:
        writer = await IndexWriter.open(log)
        old_token = await writer.put("old", AXES[:1])
        await writer.close()
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        assert await hits(shard, old_token) == {"old"}

        replacing = asyncio.create_task(replace(log_settings))
        await until(lambda: not shard.server.health.ready)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shard.stub.Search(search_request(AXES[:1]))
        error = from_rpc_error(caught.value)
        assert (type(error), error.reason) == (Unavailable, "REBUILDING")

        await replacing
        async with open_log(log_settings) as log:
            writer = await IndexWriter.open(log)
            token = await writer.put("new", AXES[:1])
            await writer.close()
            await shard.ready()
            assert await hits(shard, token) == {"new"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hits(shard, old_token)
        error = from_rpc_error(caught.value)
        assert (type(error), error.reason) == (FailedPrecondition, "LOG_REPLACED")


@on_both_logs
async def test_a_recreated_log_is_noticed_at_the_next_start(
    log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    async with open_log(log_settings) as log:
        writer = await IndexWriter.open(log)
        token = await writer.put("old", AXES[:1])
        await writer.close()
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        assert await hits(shard, token) == {"old"}
    await replace(log_settings)
    async with open_log(log_settings) as log:
        writer = await IndexWriter.open(log)
        for number in range(20):  # so that no partition ends below where the shard was
            await writer.put(f"new{number}", AXES[:1])
        await writer.close()

    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        assert await hits(shard) == {f"new{number}" for number in range(20)}


@on_both_logs
async def test_a_log_that_ends_below_the_stored_offset_is_another_one(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        await writer.put("d", AXES[:1])
        assert await hits(shard, writer.token()) == {"d"}
    connection = apsw.Connection(str(settings.database))
    connection.execute("UPDATE progress SET index_offset = 1000")
    connection.execute("UPDATE documents SET document_id = 'stale'")
    connection.close()

    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        assert await hits(shard) == {"d"}


@pytest.mark.parametrize("harm", ["header", "middle", "not ours", "chunks missing"])
async def test_a_damaged_database_is_put_aside_and_made_anew(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings, harm: str
) -> None:
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        await write_a_history(writer)
        expected = await hits(shard, writer.token())
    database = settings.database
    content = bytearray(database.read_bytes())
    match harm:
        case "header":
            content[:64] = b"?" * 64
            database.write_bytes(content)
        case "middle":
            content[8192 : len(content) // 2] = b"\xff" * (len(content) // 2 - 8192)
            database.write_bytes(content)
        case "not ours":
            connection = apsw.Connection(str(database))
            connection.execute("DROP TABLE shard")
            connection.close()
        case _:
            connection = apsw.Connection(str(database))
            connection.execute("DELETE FROM chunks WHERE ordinal = 1")
            connection.close()

    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        assert await hits(shard) == expected
    assert database.with_suffix(".damaged").exists()


async def test_damage_found_by_a_read_rebuilds_a_running_shard(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        await writer.put("d", AXES[:1])
        assert await hits(shard, writer.token()) == {"d"}
        connection = apsw.Connection(str(settings.database))
        connection.execute("DELETE FROM chunks")
        connection.close()

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hits(shard)
        assert from_rpc_error(caught.value).reason == "REBUILDING"
        await until(lambda: not shard.server.health.ready)
        await until(settings.database.with_suffix(".damaged").exists)
        await until(lambda: shard.server.health.ready)
        assert await hits(shard) == {"d"}


async def test_shards_are_changed_by_a_restart(writer: IndexWriter, log_settings: LogSettings, tmp_path: Path) -> None:
    names = {f"d{number}" for number in range(40)}
    for name in names:
        await writer.put(name, AXES[:1])
    low = {name for name in names if partition_of(COLLECTION, name, spread=SPREAD, partitions=4) < 2}

    def shard_of(shard: int, shards: int) -> RetrievalSettings:
        return RetrievalSettings(shard=shard, shards=shards, state_dir=tmp_path / f"shard{shard}")

    async with LocalShard(shard_of(0, 1), log_settings) as only:
        await only.ready()
        assert await hits(only) == names
    async with LocalShard(shard_of(0, 2), log_settings) as first, LocalShard(shard_of(1, 2), log_settings) as second:
        await first.ready()
        await second.ready()
        assert await hits(first) == low
        assert await hits(second) == names - low
        status = await first.stub.GetStatus(retrieval_pb2.GetStatusRequest())
        assert (status.documents, [progress.partition for progress in status.progress]) == (len(low), [0, 1])
        await writer.delete(min(low))
        await writer.delete(min(names - low))
        assert await hits(first, writer.token()) == low - {min(low)}
        assert await hits(second, writer.token()) == names - low - {min(names - low)}
    async with LocalShard(shard_of(0, 1), log_settings) as only:
        await only.ready()
        assert await hits(only) == names - {min(low), min(names - low)}


@on_both_logs
async def test_a_retired_collection_goes_and_what_still_comes_of_it_is_not_applied(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    other = "f" * 32
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        await writer.put("d", AXES[:1])
        await writer.put("d", AXES[:1], collection_id=other)
        assert await hits(shard, writer.token()) == {"d"}

        await retire(writer.log)
        await until(lambda: len(shard.publication.current().searcher.collections) == 1)
        assert await hits(shard) == set()
        token = await writer.put("late", AXES[:1])
        assert await hits(shard, token) == set()
        await writer.append_null(0, b"key")
        await writer.progress(0)
        await hits(shard, writer.token())
    contents = dump(settings.database)
    assert {row[0] for row in contents["documents"]} == {other}
    assert {row[0] for row in contents["chunks"]} == {other}


@on_both_logs
async def test_documents_offsets_that_do_not_rise_stop_the_shard(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        (partition,) = (await writer.put("d", AXES[:1])).documents_offsets
        owned = await writer.log.take(Topic.INDEX, partition)
        assert owned.last is not None
        assert owned.last.value is not None
        await owned.append([(owned.last.key, owned.last.value)])
        await owned.close()
        with pytest.raises(OutOfOrder):
            await shard.follower.task


async def test_a_full_disk_leaves_what_is_there_and_goes_on_when_there_is_room(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        await writer.put("before", AXES[:1])
        assert await hits(shard, writer.token()) == {"before"}
        opened = shard.follower._open
        assert opened is not None
        pages = opened.store._connection.pragma("page_count")
        opened.store._connection.pragma("max_page_count", pages)

        token = await writer.put("after", AXES[:1], texts=["x" * 100_000])
        await until(lambda: shard.publication.problem != "")
        status = await shard.stub.GetStatus(retrieval_pb2.GetStatusRequest())
        assert "cannot be written" in status.problem
        assert await hits(shard) == {"before"}

        opened.store._connection.pragma("max_page_count", 1 << 20)
        assert await hits(shard, token) == {"before", "after"}
        assert (await shard.stub.GetStatus(retrieval_pb2.GetStatusRequest())).problem == ""


async def test_two_processes_cannot_have_one_folder(log_settings: LogSettings, settings: RetrievalSettings) -> None:
    async with LocalShard(settings, log_settings):
        with pytest.raises(FailedPrecondition, match="a folder of its own"):
            async with LocalShard(settings, log_settings):
                pass
