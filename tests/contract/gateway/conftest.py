from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.gateway import World
from tests.harness.gateway import world as open_world

LEAVE = "Staff get 25 days of leave a year.\n\nMary Jones runs the office in Oslo."


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway before two shards, with a collection of two documents."""
    async with open_world(tmp_path) as world:
        await world.collection()
        await world.put({"leave": LEAVE, "park": "The car park has 40 places."})
        world.generation.says = ["Staff get 25 da", "ys of leave [2]", "."]
        yield world


@pytest.fixture
async def narrow_world(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway that forwards one write at a time, and twenty a stream."""
    settings = {"max_writes_in_flight": 1, "max_documents_per_stream": 20}
    async with open_world(tmp_path, settings=settings) as world:
        await world.collection()
        yield world
