from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from services.cache.engines import Store, open_store
from services.cache.settings import CacheSettings
from tests.harness.valkey import Valkey


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as valkey:
        yield valkey


@pytest.fixture(params=["fake", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    settings = CacheSettings(engine=request.param, read_budget_ms=5000, write_budget_ms=5000)
    if request.param == "redis":
        url = request.getfixturevalue("valkey").url
        settings = settings.model_copy(update={"redis_url": SecretStr(url)})
    async with open_store(settings) as store:
        yield store
