"""Every service killed again and again while documents are written and questions asked; the ledger is the judge.

Once each in `make test`, ten times in `make chaos`.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.kafka import Broker
from tests.harness.ledger import LARGE, Ledger, Traffic, judge
from tests.harness.processes import Processes, running_stack

FAKE = {
    "HEADWATER_EMBEDDING__ENGINE": "fake",
    "HEADWATER_EMBEDDING__FAKE_DELAY_MS": "2",
    "HEADWATER_GENERATION__ENGINE": "extractive",
}
SERVICES = ("ingestion-api", "ingestion-worker", "retrieval-0", "embedding", "cache", "gateway")
CRASH_POINTS = (
    ("ingestion-api", "ingestion.after_append_before_ack"),
    ("ingestion-worker", "ingestion.after_parse_before_append"),
    ("ingestion-worker", "ingestion.after_index_append"),
    ("retrieval-0", "retrieval.before_commit"),
    ("retrieval-0", "retrieval.after_commit_before_publish"),
)
KAFKA_CRASH_POINTS = (*CRASH_POINTS, ("ingestion-worker", "eventlog.before_commit"))


def under_traffic(traffic: Traffic, name: str, kill: Callable[[], None], restart: Callable[[], None]) -> None:
    """Kill and restart, again if no write was in flight across the kill; then writes must go on."""
    counted = False
    while not counted:
        traffic.wait_for_writes(1)
        before = traffic.ledger.in_flight()
        kill()
        counted = bool(before & traffic.ledger.in_flight())
        restart()
        traffic.wait_for_writes(3)
    traffic.ledger.count(f"killed {name}")


def kill_and_restart(processes: Processes, traffic: Traffic, name: str) -> None:
    def restart() -> None:
        time.sleep(0.2)  # a moment without it
        processes.start(name)
        processes.wait_ready(name)

    under_traffic(traffic, name, lambda: processes.kill(name), restart)


def crash_and_restart(processes: Processes, traffic: Traffic, name: str, point: str) -> None:
    """Restart with a crash point, wait until it struck, restart without."""
    processes.kill(name)
    processes.start(name, HEADWATER_SERVER__CRASH_POINT=point)
    assert processes.wait_end(name) == -signal.SIGKILL, f"{name} ended before it reached {point}"
    traffic.ledger.count(f"crashed at {point}")
    processes.start(name)
    processes.wait_ready(name)
    traffic.wait_for_writes(3)


def storm(
    processes: Processes,
    kills: int,
    *,
    services: tuple[str, ...] = SERVICES,
    crash_points: tuple[tuple[str, str], ...] = CRASH_POINTS,
    broker: Broker | None = None,
) -> None:
    """Kill everything `kills` times under traffic and hit every crash point; then judge."""
    address = processes.stack.address
    ledger, large = Ledger("chaos"), Ledger("chaos-large", LARGE)
    with contextlib.ExitStack() as stack:
        stack.enter_context(Traffic(address, large, writers=1, readers=1, documents=1))
        traffic = stack.enter_context(Traffic(address, ledger, writers=6, readers=2, documents=50))
        traffic.wait_for_writes(20)
        for _ in range(kills):
            for name in services:
                kill_and_restart(processes, traffic, name)
            if broker is not None:
                under_traffic(traffic, "broker", broker.kill, broker.restart)
        for name, point in crash_points:
            crash_and_restart(processes, traffic, name, point)
    for each in (ledger, large):
        print(each.collection, dict(sorted(each.counts.items())))
        judge(address, each)


def test_nothing_acknowledged_is_lost_when_every_service_is_killed(tmp_path: Path, kills: int) -> None:
    with running_stack(tmp_path, settings=FAKE, shards=2) as processes:
        storm(processes, kills, services=(*SERVICES, "retrieval-1"))


@pytest.mark.kafka
def test_nothing_acknowledged_is_lost_on_kafka(tmp_path: Path, kills: int, own_broker: Broker) -> None:
    options = {"log": "kafka", "bootstrap_servers": own_broker.address}
    with running_stack(tmp_path, settings=FAKE, **options) as processes:
        storm(processes, kills, crash_points=KAFKA_CRASH_POINTS, broker=own_broker)
