"""Alerts and dashboards: Prometheus takes them, every metric they name is there, every alert fires and has its page."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from deploy.local.stack import ROOT
from deploy.observability.dashboards import DASHBOARDS
from tests.harness.prometheus import program

FOLDER = ROOT / "deploy" / "observability"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text())
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
EXPRESSIONS = [
    target["expr"]
    for dashboard in DASHBOARDS
    for panel in json.loads(dashboard.json())["panels"]
    for target in panel.get("targets", ())
]
SERVICES = ("cache", "embedding", "gateway", "generation", "ingestion", "retrieval")
# Of Prometheus itself, and of prometheus_client's collectors that this test's process registers as well.
OTHERS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
_NAME = re.compile(r"\b(?:headwater|grpc|gen_ai|process)_[a-z_]+\b|\bup\b")


def promtool(*arguments: str) -> str:
    done = subprocess.run([program("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_alert_fires_and_none_while_all_is_well() -> None:
    promtool("check", "rules", "rules.yaml")
    promtool("test", "rules", "rules_test.yaml")
    fired = set(re.findall(r'alertname="(\w+)"', (FOLDER / "rules_test.yaml").read_text()))
    assert fired == {alert["alert"] for alert in ALERTS}


def test_prometheus_takes_its_configuration() -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yaml")


def test_every_expression_of_the_dashboards_is_promql(tmp_path: Path) -> None:
    expressions = [expression.replace("$__rate_interval", "5m") for expression in EXPRESSIONS]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_every_metric_that_is_named_is_there() -> None:
    for service in SERVICES:
        importlib.import_module(f"services.{service}.metrics")
    importlib.import_module("serving.interceptors")
    there = set(OTHERS)
    for family in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        there |= {family.name + suffix for suffix in suffixes}
    for expression in [*EXPRESSIONS, *(alert["expr"] for alert in ALERTS)]:
        labels_left_out = re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", expression)
        assert set(_NAME.findall(labels_left_out)) <= there, expression


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor == alert["alert"].lower()
    assert f"### {alert['alert']}\n" in (ROOT / page).read_text()
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert {"summary", "description"} <= alert["annotations"].keys()


def test_dashboards_are_told_apart() -> None:
    assert len({dashboard.name for dashboard in DASHBOARDS}) == len(DASHBOARDS) == 8
    for dashboard in DASHBOARDS:
        panels = json.loads(dashboard.json())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        assert all(panel["description"] for panel in panels if panel["type"] != "row")
