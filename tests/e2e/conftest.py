"""One running stack for the tests that do not break it; those that do start their own.

With `--address HOST:PORT` the tests marked `anywhere` run against that stack instead: in containers, on a cluster. It
needs the extractive generator and, as its keys, tests/e2e/keys.json.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from headwater import Client

from tests.harness.processes import Processes, running_stack

Metadata = tuple[tuple[str, str], ...]
QUOTING = {
    "HEADWATER_EMBEDDING__ENGINE": "fake",
    "HEADWATER_GENERATION__ENGINE": "extractive",
}


@pytest.fixture(scope="session")
def quoting_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Every service, with the fake embedder and the extractive generator: what is asked for is quoted."""
    with running_stack(tmp_path_factory.mktemp("stack"), settings=QUOTING) as processes:
        yield processes


@pytest.fixture(scope="session")
def foreign(request: pytest.FixtureRequest) -> str:
    """Address of a stack that others started; "" when there is none."""
    return str(request.config.getoption("--address"))


@pytest.fixture(scope="session")
def own_stack(foreign: str, request: pytest.FixtureRequest) -> Processes | None:
    """The stack's processes; None when others started it."""
    return None if foreign else request.getfixturevalue("quoting_stack")


@pytest.fixture(scope="session")
def address(foreign: str, own_stack: Processes | None) -> str:
    """The gateway of the stack that is tested."""
    return own_stack.stack.address if own_stack else foreign


@pytest.fixture
def metadata() -> Metadata:
    """Who asks, for calls without the SDK."""
    key = os.environ.get("HEADWATER_API_KEY")
    return (("authorization", f"Bearer {key}"),) if key else ()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """A client of that stack."""
    with Client(address) as client:
        yield client


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """State of a stack of a test's own."""
    return tmp_path / "state"
