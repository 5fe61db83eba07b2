"""The stack in containers, really run: healthy from nothing, the end-to-end tests, every container killed, all kept."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from headwater import Client

from deploy.local.stack import ROOT
from tests.harness.compose import Project, need_docker
from tests.harness.ledger import Ledger, Traffic, judge

PROJECT = Project("headwater-test", 18101, overlays=("test",), two_shards=True)
ADDRESS = PROJECT.address
compose = PROJECT.run
SERVICES = (
    "gateway",
    "cache",
    "valkey",
    "embedding",
    "generation",
    "retrieval-0",
    "retrieval-1",
    "ingestion-api",
    "ingestion-worker",
    "kafka",
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", autouse=True)
def stack() -> Iterator[None]:
    """The stack, from nothing to healthy; without its volumes afterwards."""
    need_docker()
    with PROJECT.running():
        yield


def container(service: str) -> dict[str, object]:
    """What the engine says of a service's container."""
    (identity,) = compose("ps", "--all", "--quiet", service).split()
    (said,) = json.loads(subprocess.run(["docker", "inspect", identity], capture_output=True, check=True).stdout)
    return dict(said)


def state(service: str) -> dict[str, object]:
    """Its `State`: Pid, Health, RestartCount beside it."""
    said = container(service)
    return {**said["State"], "RestartCount": said["RestartCount"]}  # type: ignore[dict-item]


def is_healthy(service: str) -> bool:
    return bool(state(service).get("Health", {}).get("Status") == "healthy")  # type: ignore[attr-defined]


def kill(service: str) -> None:
    """SIGKILL to the container's first process, as the kernel would: the engine restarts what dies so."""
    before = state(service)
    os.kill(int(str(before["Pid"])), signal.SIGKILL)
    deadline = time.monotonic() + 240
    while True:
        now = state(service)
        if now["Pid"] not in (0, before["Pid"]) and is_healthy(service):
            return
        assert time.monotonic() < deadline, f"{service} did not come back: {now}"
        time.sleep(0.5)


def test_nothing_is_published_but_the_gateway_on_loopback() -> None:
    published = json.loads(compose("config", "--format", "json"))["services"]
    ports = {name: service["ports"] for name, service in published.items() if service.get("ports")}
    assert list(ports) == ["gateway"]
    assert [port["host_ip"] for port in ports["gateway"]] == ["127.0.0.1"]


def test_the_default_model_loads_in_its_container() -> None:
    """Where it may write nothing; the other tests quote instead."""
    alone = Project("headwater-test-model", 18102)
    try:
        alone.run("up", "--wait", "--wait-timeout", "300", "--no-deps", "generation")
        assert "model loaded" in alone.run("logs", "generation")
    finally:
        alone.run("down", "--volumes", check=False)


def test_no_container_has_more_than_it_needs() -> None:
    for service in SERVICES[:9]:
        said = container(service)
        host, config = said["HostConfig"], said["Config"]
        assert host["ReadonlyRootfs"], service  # type: ignore[index]
        assert host["CapDrop"] == ["ALL"], service  # type: ignore[index]
        assert host["Memory"], service  # type: ignore[index]
        assert config["User"] not in ("", "root", "0"), service  # type: ignore[index]


def test_the_end_to_end_tests_pass_against_the_published_port() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "anywhere", "--address", ADDRESS, "tests/e2e"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


def test_every_container_killed_while_questions_go_on_loses_nothing() -> None:
    ledger = Ledger("containers")
    with Traffic(ADDRESS, ledger, writers=3, readers=2, documents=50) as traffic:
        traffic.wait_for_writes(20)
        for service in SERVICES:
            kill(service)
            traffic.wait_for_writes(3)
    print(dict(sorted(ledger.counts.items())))
    judge(ADDRESS, ledger)


def test_down_and_up_again_keeps_every_document() -> None:
    with Client(ADDRESS) as client:
        before = sorted((one.document_id, one.state, one.chunks) for one in client.list_documents("containers"))
    assert before
    compose("down")
    compose("up", "--wait", "--wait-timeout", "600")
    with Client(ADDRESS) as client:
        assert sorted((one.document_id, one.state, one.chunks) for one in client.list_documents("containers")) == before


def test_a_second_embedding_container_takes_its_share() -> None:
    compose("up", "--wait", "--scale", "embedding=2", "--no-recreate")
    identities = compose("ps", "--quiet", "embedding").split()
    assert len(identities) == 2
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(ADDRESS))
        deadline = time.monotonic() + 60
        number = 0
        while min(map(embedded, identities)) == 0:
            assert time.monotonic() < deadline, "one of the two embeds nothing"
            client.search("containers", f"question {number}", k=1)
            number += 1


def embedded(identity: str) -> float:
    """Texts that a container has embedded since it started."""
    code = (
        "from urllib.request import urlopen;"
        "print(sum(float(line.split()[-1]) for line in urlopen('http://127.0.0.1:9464/metrics').read().decode()"
        ".splitlines() if line.startswith('headwater_embedding_texts_total{outcome=\"embedded\"')))"
    )
    done = subprocess.run(["docker", "exec", identity, "python", "-c", code], capture_output=True, check=True)
    return float(done.stdout)
