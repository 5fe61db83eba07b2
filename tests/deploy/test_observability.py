"""The overlay for observability, really run beside the stack in containers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from headwater import Client, Document

from deploy.observability.dashboards import DASHBOARDS
from tests.harness.compose import Project, is_available, need_docker
from tests.harness.prometheus import Api

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

PROJECT = Project("headwater-observed", 18103, overlays=("test", "observability"))
PROMETHEUS = Api("127.0.0.1:9090")
JAEGER, GRAFANA = (f"http://127.0.0.1:{port}/api" for port in (16686, 3000))
SCRAPED = {"gateway", "cache", "embedding", "generation", "ingestion-api", "ingestion-worker", "retrieval-0"}


@pytest.fixture(scope="module")
def started() -> Iterator[set[str]]:
    """Healthy, every request traced, a document in and a question asked; the names of the services that run."""
    need_docker()
    services = json.loads(PROJECT.run("config", "--format", "json"))["services"]
    there = {name for name in ("collector", "jaeger", "prometheus", "grafana") if is_available(services[name]["image"])}
    if missing := {"collector", "jaeger", "prometheus"} - there:
        pytest.skip(how_to_have(missing))
    with PROJECT.running(*sorted(SCRAPED | there), HEADWATER_TELEMETRY__TRACE_RATIO="1"):
        with Client(PROJECT.address) as client:
            client.create_collection("observed")
            client.put("observed", [Document("d", text="The harbour opens at six.")])
            client.answer("observed", "When does the harbour open?", timeout=60)
        yield there


def how_to_have(tools: set[str]) -> str:
    named = ", ".join(sorted(tools))
    return f"no image of {named}: pull or load those that deploy/compose/compose.observability.yaml names"


def get(url: str, **parameters: str) -> Any:
    with urlopen(f"{url}?{urlencode(parameters)}", timeout=10) as page:
        return json.load(page)


def until(holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, what
        time.sleep(1)


def test_prometheus_finds_every_service_and_no_alert_fires(started: set[str]) -> None:
    def up() -> set[str]:
        targets = PROMETHEUS.get("targets")["activeTargets"]
        return {one["labels"]["component"] for one in targets if one["health"] == "up"}

    until(lambda: up() == SCRAPED, f"not every one of {SCRAPED} is scraped")
    groups = PROMETHEUS.get("rules", type="alert")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    assert PROMETHEUS.firing() == set()


def test_a_question_s_trace_goes_through_the_collector_to_jaeger(started: set[str]) -> None:
    def services() -> set[str]:
        traces = get(f"{JAEGER}/traces", service="headwater-gateway", lookback="1h", limit="20")["data"]
        asked = [one for one in traces if any("Ask" in span["operationName"] for span in one["spans"])]
        return {process["serviceName"] for one in asked for process in one["processes"].values()}

    wanted = {f"headwater-{name}" for name in ("gateway", "cache", "embedding", "retrieval", "generation")}
    until(lambda: services() >= wanted, f"no trace of a question goes through {wanted}")


def test_grafana_has_every_dashboard(started: set[str]) -> None:
    if "grafana" not in started:
        pytest.skip(how_to_have({"grafana"}))
    until(lambda: get(f"{GRAFANA}/health")["database"] == "ok", "Grafana is not there")
    until(lambda: len(get(f"{GRAFANA}/search", type="dash-db")) == len(DASHBOARDS), "not every dashboard is there")
