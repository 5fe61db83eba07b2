"""Searches during writes see whole documents, each in one version, and texts that belong to their scores."""

import asyncio
import random
from collections import defaultdict

import numpy as np

from services.retrieval.settings import RetrievalSettings
from serving.eventlog import LogSettings
from tests.harness.retrieval import IndexWriter, LocalShard, search_request

DOCUMENTS = 6
ROUNDS = 60


def chunks_of(version: int) -> int:
    return 1 + version % 4


async def test_no_half_document_no_two_versions_and_no_text_of_another_version(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    generator = random.Random(3)
    done = asyncio.Event()
    versions = dict.fromkeys((f"d{number}" for number in range(DOCUMENTS)), 0)

    async def write() -> None:
        for version in range(1, ROUNDS + 1):
            for document_id in versions:
                if generator.random() < 0.2:
                    await writer.delete(document_id)
                    continue
                count = chunks_of(version)
                # the score with the query is the version, and the text says it too
                vectors = np.full((count, 2), version, np.float32)
                await writer.put(document_id, vectors, texts=[f"{version} {chunk}" for chunk in range(count)])
        done.set()

    async def search(shard: LocalShard) -> int:
        answers = 0
        newest: dict[int, int] = {}
        while not done.is_set():
            response = await shard.stub.Search(search_request(np.array([[1, 0]], np.float32), k=1000), timeout=60)
            answers += 1
            found = defaultdict(list)
            for hit in response.results[0].dense:
                version, chunk = map(int, hit.text.split())
                assert hit.score == version
                assert hit.chunk == chunk
                found[hit.document_id].append((version, chunk))
            for chunks in found.values():
                version = chunks[0][0]
                assert sorted(chunks) == [(version, chunk) for chunk in range(chunks_of(version))]
            for progress in response.progress:
                assert progress.documents_offset >= newest.get(progress.partition, 0)
                newest[progress.partition] = progress.documents_offset
            # what an answer reports, it has seen: no hit is newer than the progress
            for hit in response.results[0].dense:
                assert hit.version < newest[hit.partition]
        return answers

    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            searches = [group.create_task(search(shard)) for _ in range(4)]
    assert sum(task.result() for task in searches) > 50


async def test_every_write_is_read_with_its_token(
    writer: IndexWriter, log_settings: LogSettings, settings: RetrievalSettings
) -> None:
    async with LocalShard(settings, log_settings) as shard:
        await shard.ready()
        for version in range(200):
            count = 1 + version % 3
            token = await writer.put("d", np.ones((count, 2), np.float32), texts=[str(version)] * count)
            response = await shard.stub.Search(search_request(np.ones((1, 2), np.float32), after=token), timeout=60)
            assert {hit.text for hit in response.results[0].dense} == {str(version)}
