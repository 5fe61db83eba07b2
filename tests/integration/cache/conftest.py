from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.cache.settings import CacheSettings
from serving.eventlog import LogSettings
from tests.harness.cache import CacheProcess, CacheWorld
from tests.harness.valkey import Valkey


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """One of the test's own: it starts in no time, and may be killed."""
    with Valkey() as valkey:
        yield valkey


@pytest.fixture(params=["fake", "redis"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CacheWorld]:
    """A log and a store of either engine; the store has time enough, whatever else this machine does."""
    settings = CacheSettings(engine=request.param, read_budget_ms=5000, write_budget_ms=5000)
    if request.param == "redis":
        url = request.getfixturevalue("valkey").url
        settings = settings.model_copy(update={"redis_url": SecretStr(url)})
    log = LogSettings(path=tmp_path / "log.sqlite3", partitions=2)
    async with CacheWorld(log, settings) as world:
        yield world


@pytest.fixture
async def process(world: CacheWorld) -> CacheProcess:
    return await world.start()


@pytest.fixture
async def valkey_world(valkey: Valkey, tmp_path: Path) -> AsyncIterator[CacheWorld]:
    """A log and a Valkey of the test's own, with the budget and the breaker of real use."""
    settings = CacheSettings(redis_url=SecretStr(valkey.url))
    async with CacheWorld(LogSettings(path=tmp_path / "log.sqlite3", partitions=2), settings) as world:
        yield world
