"""The chart on a real cluster: ready from nothing, the end-to-end tests, restarts and an upgrade under load, a drain.

Needs kubectl with a cluster of its own to try things on, helm, and the images where the cluster finds them (`make
images`, then load or push them). It works in the namespace headwater-test, which it makes and deletes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.ledger import Ledger, Traffic, judge

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "k8s" / "headwater"
NAMESPACE = "headwater-test"
KEY = "key-of-default"
NODE_PORT = 30801
KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl")
HELM = os.environ.get("HELM") or shutil.which("helm")
VALUES = (
    "generation.engine=extractive",
    "gateway.existingSecret=keys",
    "gateway.service.type=NodePort",
    f"gateway.service.nodePort={NODE_PORT}",
    "retrieval.replicas=2",
    # without a storage class: what a pod stores goes with it
    "retrieval.storage=",
    "kafka.storage=",
)

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(3600)]


def kubectl(*arguments: str, stdin: str = "", check: bool = True) -> str:
    done = subprocess.run(
        [str(KUBECTL), "--namespace", NAMESPACE, *arguments], input=stdin, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, f"{arguments}: {done.stderr[-2000:]}"
    return done.stdout


def helm(*arguments: str) -> None:
    settings = [word for value in VALUES for word in ("--set", value)]
    command = [str(HELM), "--namespace", NAMESPACE, *arguments, *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def wait_until_rolled_out() -> None:
    for workload in kubectl("get", "deployment,statefulset", "-o", "name").split():
        kubectl("rollout", "status", workload, "--timeout=600s")


@pytest.fixture(scope="module", autouse=True)
def release() -> Iterator[None]:
    """The chart, installed and ready, in a namespace that admits only restricted pods."""
    if not KUBECTL or not HELM or subprocess.run([KUBECTL, "get", "nodes"], capture_output=True).returncode:
        pytest.skip(
            "no cluster here: name kubectl and helm (KUBECTL, HELM) and a cluster to try things on (KUBECONFIG)"
        )
    os.environ["HEADWATER_API_KEY"] = KEY
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    kubectl("create", "namespace", NAMESPACE)
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    kubectl("create", "secret", "generic", "keys", f"--from-file=keys.json={ROOT / 'tests' / 'e2e' / 'keys.json'}")
    helm("install", "headwater", str(CHART))
    wait_until_rolled_out()
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    del os.environ["HEADWATER_API_KEY"]


@contextlib.contextmanager
def forwarded() -> Iterator[str]:
    """The gateway's address here, through `kubectl port-forward`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(KUBECTL), "--namespace", NAMESPACE, "port-forward", "service/headwater-gateway", f"{port}:8001"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert time.monotonic() < deadline, "the port was never forwarded"
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def test_the_end_to_end_tests_pass_through_a_forwarded_port() -> None:
    with forwarded() as address:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "anywhere", "--address", address, "tests/e2e"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


def test_restarts_and_an_upgrade_under_load_fail_no_question_and_lose_no_write() -> None:
    address = f"127.0.0.1:{NODE_PORT}"
    ledger = Ledger("upgrade")
    with Traffic(address, ledger, writers=2, readers=2, documents=30) as traffic:
        traffic.wait_for_writes(10)
        for workload in kubectl("get", "deployment,statefulset", "-o", "name").split():
            if "kafka" in workload or "valkey" in workload:
                continue
            kubectl("rollout", "restart", workload)
            kubectl("rollout", "status", workload, "--timeout=600s")
            traffic.wait_for_writes(3)
        helm("upgrade", "headwater", str(CHART), "--set", "logLevel=warning")
        wait_until_rolled_out()
        traffic.wait_for_writes(10)
    print(dict(sorted(ledger.counts.items())))
    failed = {what: n for what, n in ledger.counts.items() if what.split()[0] in ("ask", "search", "write")}
    assert not failed
    judge(address, ledger)


def test_a_disruption_budget_holds_the_last_replica() -> None:
    """What a drain asks of the cluster: one of two gateways may go, and not the other while it is gone."""
    pods = kubectl("get", "pods", "-l", "app.kubernetes.io/component=gateway", "-o", "name").split()
    allowed = kubectl("get", "pdb", "headwater-gateway", "-o", "jsonpath={.status.disruptionsAllowed}")
    assert (len(pods), allowed) == (2, "1")
    single = kubectl("get", "pdb", "headwater-embedding", "-o", "jsonpath={.status.disruptionsAllowed}")
    assert single == "0"
    (name,) = kubectl("get", "pods", "-l", "app.kubernetes.io/component=embedding", "-o", "name").split()
    pod = name.removeprefix("pod/")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    done = subprocess.run(
        [str(KUBECTL), "create", "--raw", path, "-f", "-"], input=json.dumps(eviction), capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "disruption budget" in done.stderr
