"""The chart on a real cluster: ready from nothing, the end-to-end tests, restarts and an upgrade under load, a drain.

Needs kubectl with a cluster of its own to try things on, helm, and the images where the cluster finds them (`make
images`, then load or push them). It works in the namespace headwater-test, which it makes and deletes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from headwater import Client, Document, DocumentState, NotFound

from deploy.local.stack import ROOT
from tests.harness.kubernetes import ADDRESS, KUBECTL, Release
from tests.harness.ledger import Ledger, Traffic, judge

KEY = "key-of-default"

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(3600)]


class WithKeys(Release):
    """One that knows the keys of the end-to-end tests."""

    def prepare(self) -> None:
        keys = ROOT / "tests" / "e2e" / "keys.json"
        self.kubectl("create", "secret", "generic", "keys", f"--from-file=keys.json={keys}")


@pytest.fixture(scope="module", autouse=True)
def release() -> Iterator[Release]:
    """The chart, installed and ready, in a namespace that admits only restricted pods."""
    os.environ["HEADWATER_API_KEY"] = KEY
    with WithKeys(
        "headwater-test", ("gateway.existingSecret=keys", "retrieval.replicas=2", "ingestionWorker.replicas=2")
    ) as installed:
        yield installed
    del os.environ["HEADWATER_API_KEY"]


@contextlib.contextmanager
def forwarded(release: Release) -> Iterator[str]:
    """The gateway's address here, through `kubectl port-forward`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = ("port-forward", "service/headwater-gateway", f"{port}:8001")
    command = [str(KUBECTL), "--namespace", release.namespace, *service]
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


def test_the_end_to_end_tests_pass_through_a_forwarded_port(release: Release) -> None:
    with forwarded(release) as address:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "anywhere", "--address", address, "tests/e2e"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


def test_restarts_an_upgrade_and_a_rollback_under_load_fail_no_question_and_lose_no_write(release: Release) -> None:
    ledger = Ledger("upgrade")
    with Traffic(ADDRESS, ledger, writers=2, readers=2, documents=30) as traffic:
        traffic.wait_for_writes(10)
        for workload in release.workloads():
            if "kafka" in workload or "valkey" in workload:
                continue
            print(time.strftime("%H:%M:%S"), "restarting", workload)
            release.kubectl("rollout", "restart", workload)
            release.kubectl("rollout", "status", workload, "--timeout=600s")
            traffic.wait_for_writes(3)
        print(time.strftime("%H:%M:%S"), "upgrading")
        release.helm("upgrade", "logLevel=warning")
        release.wait_until_rolled_out()
        print(time.strftime("%H:%M:%S"), "rolling back")
        release.rollback()
        release.wait_until_rolled_out()
        traffic.wait_for_writes(10)
    print(dict(sorted(ledger.counts.items())))
    failed = {what: n for what, n in ledger.counts.items() if what.split()[0] in ("ask", "search", "write")}
    assert not failed, "\n".join(ledger.failures)
    judge(ADDRESS, ledger)


def test_a_disruption_budget_holds_the_last_replica(release: Release) -> None:
    """What a drain asks of the cluster: one of two gateways may go, and not the other while it is gone."""

    def allowed(name: str) -> str:
        return release.kubectl("get", "pdb", name, "-o", "jsonpath={.status.disruptionsAllowed}")

    assert (len(release.pods("gateway")), allowed("headwater-gateway")) == (2, "1")
    assert allowed("headwater-embedding") == "0"
    (pod,) = release.pods("embedding")
    metadata = {"name": pod, "namespace": release.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{release.namespace}/pods/{pod}/eviction"
    done = subprocess.run(
        [str(KUBECTL), "create", "--raw", path, "-f", "-"], input=json.dumps(eviction), capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "disruption budget" in done.stderr


def known(client: Client, collection: str) -> bool:
    try:
        client.get_collection(collection)
    except NotFound:
        return False
    return True


def test_a_backup_is_restored_into_a_new_release(release: Release, tmp_path: Path) -> None:
    """As docs/operations.md says: everything is lost but the file."""
    pod, file, there = "headwater-ingestion-worker-0", tmp_path / "log.gz", "/tmp/log.gz"
    ids = [f"d{number}" for number in range(50)]
    log = ("exec", pod, "--", "python", "-m", "serving.eventlog")
    with Client(ADDRESS) as client:
        client.create_collection("kept")
        client.put("kept", [Document(one, text=f"Fact {one}.") for one in ids], timeout=60)
    began = time.monotonic()
    print(release.kubectl(*log, "backup", there))
    release.kubectl("cp", f"{pod}:{there}", str(file))
    print(f"backed up in {time.monotonic() - began:.0f} s")
    release.uninstall()
    release.helm("install")
    release.wait_until_rolled_out()
    began = time.monotonic()
    release.kubectl("cp", str(file), f"{pod}:{there}")
    print(release.kubectl(*log, "restore", there))
    print(f"restored in {time.monotonic() - began:.0f} s")
    with Client(ADDRESS) as client:
        while not known(client, "kept"):
            assert time.monotonic() - began < 60, "the collection never came back"
            time.sleep(0.2)
        watched = {
            one.document_id: one.state for one in client.watch("kept", [f"d{n}" for n in range(50)], timeout=120)
        }
        assert watched == dict.fromkeys((f"d{n}" for n in range(50)), DocumentState.INDEXED)
        assert len(client.search("kept", "fact", k=100, timeout=60)) == 50
    print(f"all found after {time.monotonic() - began:.0f} s")
