"""A sqlite log with an index writer, and one shard behind a real gRPC server in this process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.retrieval.settings import RetrievalSettings
from serving.eventlog import LogSettings, init_log, open_log
from tests.harness.retrieval import IndexWriter, LocalShard


@pytest.fixture
async def log_settings(tmp_path: Path) -> LogSettings:
    settings = LogSettings(path=tmp_path / "log.sqlite3", partitions=4)
    await init_log(settings)
    return settings


@pytest.fixture
async def writer(log_settings: LogSettings) -> AsyncIterator[IndexWriter]:
    async with open_log(log_settings) as log:
        yield await IndexWriter.open(log)


@pytest.fixture
async def shard(log_settings: LogSettings, tmp_path: Path) -> AsyncIterator[LocalShard]:
    async with LocalShard(RetrievalSettings(state_dir=tmp_path / "shard"), log_settings) as shard:
        yield await shard.ready()
