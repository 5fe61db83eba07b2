"""Every test here runs over both logs, on one of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.eventlog import LogSettings, init_log
from tests.harness.ingestion import Bench, bench


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
async def log_settings(request: pytest.FixtureRequest, tmp_path: Path) -> LogSettings:
    """Settings of an empty log of two partitions."""
    settings = LogSettings(path=tmp_path / "log.sqlite3", partitions=2, session_seconds=6)
    if request.param == "kafka":
        settings = LogSettings(
            kind="kafka",
            bootstrap_servers=request.getfixturevalue("kafka_bootstrap_servers"),
            topic_prefix=f"test-{uuid.uuid4().hex[:8]}.",
            partitions=2,
            session_seconds=6,
        )
    await init_log(settings)
    return settings


@pytest.fixture
async def ingestion(log_settings: LogSettings) -> AsyncIterator[Bench]:
    """Ingestion in this process."""
    async with bench(log_settings) as opened:
        yield opened
