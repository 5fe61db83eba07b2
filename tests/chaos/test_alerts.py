"""A real Prometheus beside the real stack: its dashboards have data, and an alert fires when a service dies."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from headwater import Client, Document

from deploy.local.stack import ROOT
from deploy.observability.dashboards import DASHBOARDS
from tests.e2e.conftest import QUOTING
from tests.harness.processes import Processes, running_stack
from tests.harness.prometheus import Api, program

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

# What has no samples while all is well: failures by reason, and what the engine of this test does not do.
SILENT = (
    "headwater_gateway_asks_failed_total",
    "headwater_gateway_degradations_total",
    "headwater_gateway_refused_total",
    "headwater_gateway_shard_failures_total",
    "headwater_generation_refused_total",
    "headwater_generation_cancelled_total",
    "headwater_ingestion_rejections_total",
    "headwater_ingestion_dependency_retries_total",
)


class Prometheus(Api):
    """One that scrapes a stack's processes every second, with the project's rules."""

    def __init__(self, stack: Processes, folder: Path) -> None:
        self._folder = folder
        super().__init__(f"127.0.0.1:{stack.stack.port(90)}")
        targets = [
            {"targets": [urlsplit(one.ready_url).netloc], "labels": {"app": "headwater", "component": one.name}}
            for one in stack.stack.programs()
            if one.ready_url
        ]
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "deploy" / "observability" / "rules.yaml")],
            "scrape_configs": [{"job_name": "headwater", "static_configs": targets}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))

    def __enter__(self) -> Prometheus:
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={self._folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={self._address}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with running_stack(tmp_path_factory.mktemp("state"), settings=QUOTING) as processes:
        yield processes


@pytest.fixture(scope="module")
def prometheus(stack: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(stack, tmp_path_factory.mktemp("prometheus")) as running:
        yield running


def test_every_panel_shows_something(stack: Processes, prometheus: Prometheus) -> None:
    with Client(stack.stack.address) as client:
        client.create_collection("docs")
        for number in range(20):
            client.put("docs", [Document(f"d{number}", text=f"The tower number {number} is {number} metres high.")])
            client.search("docs", "tower")
            client.answer("docs", f"How high is tower number {number}?")
            time.sleep(0.5)
    empty = []
    for dashboard in DASHBOARDS:
        for panel in json.loads(dashboard.json())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"].replace("$__rate_interval", "1m")
                found = prometheus.get("query", query=expression)["result"]
                if not found and not any(name in expression for name in SILENT):
                    empty.append(f"{dashboard.name}: {panel['title']}: {expression}")
    assert not empty, "\n".join(empty)


def test_a_service_that_dies_wakes_somebody_up(stack: Processes, prometheus: Prometheus) -> None:
    assert prometheus.firing() == set()
    stack.kill("generation")
    deadline = time.monotonic() + 240
    while ("HeadwaterServiceDown", "generation") not in prometheus.firing():
        assert time.monotonic() < deadline, prometheus.get("alerts")
        time.sleep(1)
    stack.start("generation")
    stack.wait_ready("generation")
    while prometheus.firing():
        assert time.monotonic() < deadline + 60, prometheus.get("alerts")
        time.sleep(1)
