"""Every test here runs over both engines, on a log of its own, but for what only one of them can show."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.eventlog import EventLog, LogSettings, init_log, open_log
from serving.eventlog.sqlite import SqliteLog, open_sqlite_log


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> LogSettings:
    """Settings of a log that is not there yet."""
    return LogSettings(kind="sqlite", path=tmp_path / "log.sqlite3", partitions=2, session_seconds=6)


@pytest.fixture
def kafka_settings(kafka_bootstrap_servers: str) -> LogSettings:
    """Settings of a log that is not there yet."""
    return LogSettings(
        kind="kafka",
        bootstrap_servers=kafka_bootstrap_servers,
        topic_prefix=f"test-{uuid.uuid4().hex[:8]}.",
        partitions=2,
        session_seconds=6,
    )


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def settings(request: pytest.FixtureRequest) -> LogSettings:
    """Settings of a log that is not there yet, of either engine."""
    settings: LogSettings = request.getfixturevalue(f"{request.param}_settings")
    return settings


@pytest.fixture
async def log(settings: LogSettings) -> AsyncIterator[EventLog]:
    """An opened log, empty but for its identity."""
    await init_log(settings)
    async with open_log(settings) as opened:
        yield opened


@pytest.fixture
async def sqlite_log(sqlite_settings: LogSettings) -> AsyncIterator[SqliteLog]:
    """An opened log of the sqlite engine."""
    await init_log(sqlite_settings)
    async with open_sqlite_log(sqlite_settings) as opened:
        yield opened
