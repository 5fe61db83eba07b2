"""`headwater doctor` on stacks that are well and on stacks that are not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from headwater import Client, Document

from tests.e2e.conftest import QUOTING
from tests.harness.eventlog import stop_outside_transactions
from tests.harness.processes import Processes, running_stack

HEADWATER = Path(sys.executable).with_name("headwater")


def examined(address: str, *options: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status, and the checks by name."""
    command = [str(HEADWATER), "--address", address, "doctor", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not done.stderr, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return done.returncode, {check["name"]: check for check in report["checks"]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """One whose services a test may kill, with two shards."""
    with running_stack(tmp_path_factory.mktemp("doctor"), settings=QUOTING, shards=2) as processes:
        yield processes


def test_all_is_well(stack: Processes) -> None:
    status, checks = examined(stack.stack.address)
    assert status == 0
    assert {check["result"] for check in checks.values()} == {"ok"}
    assert checks["ask again, from the cache"]["detail"] == "outcome hit"
    with Client(stack.stack.address) as client:
        assert client.list_collections() == [], "its collection is gone"


def test_without_writing(stack: Processes) -> None:
    status, checks = examined(stack.stack.address, "--no-write")
    assert status == 0
    assert checks["round trip"]["result"] == "skip"
    assert "write a document" not in checks


def test_rejected_documents_are_pointed_at(stack: Processes) -> None:
    with Client(stack.stack.address) as client:
        client.create_collection("odd")
        client.put("odd", [Document("bad", body=b"%PDF-1.7 no", content_type="application/pdf")])
        list(client.watch("odd", ["bad"], timeout=60))
        status, checks = examined(stack.stack.address, "--no-write")
        client.delete_collection("odd")
    assert status == 0
    assert checks["collection odd"]["result"] == "warn"
    assert "1 rejected" in checks["collection odd"]["detail"]


def test_a_dead_shard_is_wrong_and_a_dead_cache_is_odd(stack: Processes) -> None:
    with Client(stack.stack.address) as client:
        client.create_collection("held")
        client.put("held", [Document("one", text="One.")])
    stack.kill("cache")
    _, checks = examined(stack.stack.address)
    assert checks["cache"]["result"] == "fail"
    assert checks["ask about it"]["result"] == "warn"
    assert checks["find it no more"]["result"] == "ok"
    stack.start("cache")
    stack.kill("retrieval-0")
    stack.kill("retrieval-1")
    status, checks = examined(stack.stack.address, "--timeout", "3")
    assert status == 1
    assert checks["retrieval/0"]["result"] == "fail"
    assert checks["collection held"]["result"] == "fail"
    assert checks["rest of the round trip"]["result"] == "skip"
    for name in ("retrieval-0", "retrieval-1"):
        stack.start(name)
    stack.wait_ready()


def test_a_worker_that_hangs_is_found_by_what_never_becomes_searchable(stack: Processes) -> None:
    stop_outside_transactions(partial(stack.signal, "ingestion-worker"), stack.stack.log_settings)
    try:
        status, checks = examined(stack.stack.address, "--timeout", "2")
    finally:
        stack.signal("ingestion-worker", signal.SIGCONT)
    assert status == 1
    assert checks["write a document"]["result"] == "ok"
    assert checks["find it"]["result"] == "fail"


def test_nobody_there() -> None:
    status, checks = examined("127.0.0.1:1", "--timeout", "1")
    assert status == 1
    assert checks["gateway"]["result"] == "fail"
    assert checks["everything else"]["result"] == "skip"
