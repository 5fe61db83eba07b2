"""The launcher, whole: a stack, documents, load, a summary, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from deploy.local.stack import ROOT

pytestmark = pytest.mark.skipif(
    find_spec("locust") is None, reason="needs locust: make load installs it, or pip install -r requirements/load.txt"
)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_a_short_run_accounts_for_every_request() -> None:
    done = launch("--json", "--shape=steady", "--rate=5", "--seconds=5", "--mix=ask=6,search=3,put=1")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    counts = summary["counts"]
    assert summary["goodput_per_second"] > 0
    assert counts["issued"] > 0
    assert counts["arrivals"] == counts["issued"] + counts["dropped"]
    assert counts["issued"] == sum(counts[kind] for kind in ("answered", "refused", "failed", "abandoned"))
    assert counts["arrivals"] == sum(one["counts"]["arrivals"] for one in summary["operations"].values())
    assert counts["arrivals"] == sum(one["counts"]["arrivals"] for one in summary["phases"])
    assert summary["error"] == ""
    assert "generate" in summary["operations"]["ask"]["stages"]


def test_another_machine_is_refused_before_anything_is_started() -> None:
    done = launch("--json", "--address=192.0.2.1:8001")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--i-own-this-target" in done.stderr
    assert "a stack on fake engines" not in done.stderr
