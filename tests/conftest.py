"""What tests of several folders share."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.harness.kafka import Broker

# No test asserts a time, hypothesis' own deadline included.
hypothesis.settings.register_profile(
    "headwater", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("headwater")


@pytest.fixture(scope="session")
def kafka_bootstrap_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The broker that KAFKA_BOOTSTRAP_SERVERS names, else one of our own. Tests share it under topic prefixes."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if named:
        yield named
        return
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    trouble = broker.start()
    if trouble:
        pytest.skip(f"no Kafka broker, and none could be started: {trouble}")
    yield broker.address
    broker.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that a test may kill."""
    broker = Broker(tmp_path / "broker")
    trouble = broker.start()
    if trouble:
        pytest.skip(f"no Kafka broker could be started: {trouble}")
    yield broker
    broker.stop()


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How many times a chaos test kills each service."""
    return int(request.config.getoption("--kills"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--address", default="", help="e2e: a running stack, HOST:PORT, for the tests marked anywhere")
    parser.addoption("--kills", type=int, default=1, help="times that a chaos test kills each service")
    parser.addoption(
        "--require", action="append", default=[], metavar="MARKER", help="fail when a test with this marker is skipped"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = [name for name in item.config.getoption("--require") if item.get_closest_marker(name)]
    if report.skipped and required:
        report.outcome = "failed"
        report.longrepr = f"a test marked {', '.join(required)} must not be skipped here: {report.longrepr}"
    return report
