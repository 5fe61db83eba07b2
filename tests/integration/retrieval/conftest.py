"""A log with an index writer: sqlite, and for the tests of the log's rules Kafka too."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.retrieval.settings import RetrievalSettings
from serving.eventlog import LogSettings, init_log, open_log
from tests.harness.retrieval import IndexWriter


@pytest.fixture
async def log_settings(request: pytest.FixtureRequest, tmp_path: Path) -> LogSettings:
    """Settings of an empty log of four partitions."""
    settings = LogSettings(path=tmp_path / "log.sqlite3", partitions=4)
    if getattr(request, "param", "sqlite") == "kafka":
        settings = LogSettings(
            kind="kafka",
            bootstrap_servers=request.getfixturevalue("kafka_bootstrap_servers"),
            topic_prefix=f"test-{uuid.uuid4().hex[:8]}.",
            partitions=4,
        )
    await init_log(settings)
    return settings


@pytest.fixture
async def writer(log_settings: LogSettings) -> AsyncIterator[IndexWriter]:
    async with open_log(log_settings) as log:
        writer = await IndexWriter.open(log)
        yield writer
        await writer.close()


@pytest.fixture
def settings(tmp_path: Path) -> RetrievalSettings:
    return RetrievalSettings(state_dir=tmp_path / "shard")
