"""A shard killed at any instruction is, once it has caught up, the shard that was never killed."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.local.kafka import free_port
from services.retrieval.settings import RetrievalSettings
from serving.eventlog import LogSettings
from tests.harness.retrieval import IndexWriter, LocalShard, ShardProcess, dump, search_request

AXES = np.eye(4, dtype=np.float32)


@pytest.fixture
def settings(tmp_path: Path) -> RetrievalSettings:
    # small transactions, so that a kill has many instants to hit
    return RetrievalSettings(state_dir=tmp_path / "shard", max_batch_records=3)


@pytest.fixture
def process(settings: RetrievalSettings, log_settings: LogSettings, tmp_path: Path) -> Iterator[ShardProcess]:
    with ShardProcess(settings, log_settings, free_port(), tmp_path / "shard.out") as process:
        yield process


async def write_some(writer: IndexWriter, generator: random.Random, count: int) -> None:
    for _ in range(count):
        document_id = f"d{generator.randrange(12)}"
        match generator.randrange(6):
            case 0:
                await writer.delete(document_id)
            case 1:
                await writer.reject(document_id)
            case 2:
                await writer.progress(generator.randrange(4))
            case _:
                vectors = np.array(
                    [[generator.gauss(0, 1) for _ in range(4)] for _ in range(generator.randrange(5))], np.float32
                )
                await writer.put(document_id, vectors.reshape(-1, 4))


async def write_until(stop: asyncio.Event, writer: IndexWriter, generator: random.Random) -> None:
    while not stop.is_set():
        await write_some(writer, generator, 1)


async def assert_as_if_never_killed(
    process: ShardProcess, writer: IndexWriter, settings: RetrievalSettings, log_settings: LogSettings, tmp_path: Path
) -> None:
    everything = search_request(AXES, k=1000, after=writer.token())
    async with process.stub() as stub:
        answer = await stub.Search(everything, timeout=60)
    fresh = RetrievalSettings(state_dir=tmp_path / "fresh")
    async with LocalShard(fresh, log_settings) as shard:
        await shard.ready()
        expected = await shard.stub.Search(everything, timeout=60)
    process.kill()
    assert dump(settings.database) == dump(fresh.database)
    assert answer.progress == expected.progress
    for result, other in zip(answer.results, expected.results, strict=True):
        assert [(h.document_id, h.chunk, h.text, h.version) for h in result.dense] == [
            (h.document_id, h.chunk, h.text, h.version) for h in other.dense
        ]


@pytest.mark.parametrize("point", ["retrieval.before_commit", "retrieval.after_commit_before_publish"])
async def test_killed_around_a_commit(
    process: ShardProcess,
    writer: IndexWriter,
    settings: RetrievalSettings,
    log_settings: LogSettings,
    tmp_path: Path,
    point: str,
) -> None:
    generator = random.Random(point)
    for _ in range(3):
        await write_some(writer, generator, 20)
        process.start(crash_point=point)
        assert await asyncio.to_thread(process.died) == -9

    process.start()
    await assert_as_if_never_killed(process, writer, settings, log_settings, tmp_path)


async def test_killed_at_random_while_it_applies(
    process: ShardProcess, writer: IndexWriter, settings: RetrievalSettings, log_settings: LogSettings, tmp_path: Path
) -> None:
    generator = random.Random(7)
    for _ in range(5):
        process.start()
        async with process.stub() as stub:
            await stub.Search(search_request(AXES[:1], after=await writer.put("seen", AXES[:1])), timeout=60)
            killed = asyncio.Event()
            writing = asyncio.create_task(write_until(killed, writer, generator))
            await asyncio.sleep(generator.random() / 5)
            process.kill()  # with writes in flight: nothing waits for those that came before
            killed.set()
        await writing

    process.start()
    await assert_as_if_never_killed(process, writer, settings, log_settings, tmp_path)
