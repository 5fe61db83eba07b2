"""Kafka down: questions go on, nothing is acknowledged, and all heals by itself when it is back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from headwater import Client, Document, HeadwaterError

from deploy.local.stack import ROOT
from tests.e2e.conftest import QUOTING
from tests.harness.kafka import Broker
from tests.harness.processes import running_stack

pytestmark = pytest.mark.kafka

FIRST = Document("first", text="The lighthouse of Arrowhead was built in 1821.")
FOLLOWERS = ("retrieval-0", "cache", "ingestion-api", "ingestion-worker", "gateway")
SECOND = Document("second", text="The lighthouse of Bellrock was built in 1810.")


def write_until_it_is_taken(client: Client) -> None:
    """A caller that comes back until the log is there again."""
    deadline = time.monotonic() + 90
    while True:
        try:
            client.put("towers", [SECOND], timeout=30)
            return
        except HeadwaterError:
            assert time.monotonic() < deadline, "writes are not taken again"


def test_questions_are_answered_and_nothing_is_acknowledged_while_kafka_is_down(
    state: Path, own_broker: Broker
) -> None:
    with (
        running_stack(state, settings=QUOTING, log="kafka", bootstrap_servers=own_broker.address) as stack,
        Client(stack.stack.address) as client,
    ):
        client.create_collection("towers")
        client.put("towers", [FIRST])
        assert client.search("towers", "lighthouse")[0].document_id == "first"

        own_broker.kill()
        found = client.search("towers", "lighthouse", strict=True)
        assert found[0].document_id == "first", "the client's own writes were applied before"
        assert "1821" in client.answer("towers", "when was the lighthouse of Arrowhead built?").text
        with pytest.raises(HeadwaterError) as put:
            client.put("towers", [SECOND], timeout=8)
        assert put.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        with pytest.raises(HeadwaterError) as delete:
            client.delete("towers", ["first"], timeout=8)
        assert delete.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        with pytest.raises(HeadwaterError):
            client.create_collection("others", timeout=8)
        assert client.search("towers", "lighthouse", after=None)[0].document_id == "first"

        own_broker.restart()
        write_until_it_is_taken(client)
        assert {hit.document_id for hit in client.search("towers", "lighthouse", timeout=60)} >= {"second"}
        assert not any(stack.has_ended(name) for name in stack.names), "a service ended, so it had to be restarted"


def test_services_started_before_kafka_wait_for_it(state: Path, own_broker: Broker) -> None:
    with (
        running_stack(state, settings=QUOTING, log="kafka", bootstrap_servers=own_broker.address) as stack,
        Client(stack.stack.address) as client,
    ):
        client.create_collection("towers")
        client.put("towers", [FIRST])
        own_broker.kill()
        for name in FOLLOWERS:
            stack.kill(name)
            stack.start(name)
        for name in FOLLOWERS:
            stack.wait_for_output(name, "waiting for the log")

        log = stack.stack.log_settings
        environment = {
            "HEADWATER_LOG__KIND": log.kind,
            "HEADWATER_LOG__BOOTSTRAP_SERVERS": log.bootstrap_servers,
            "HEADWATER_LOG__TOPIC_PREFIX": log.topic_prefix,
        }
        command = [sys.executable, "-m", "serving.eventlog", "init", "--wait-seconds", "90"]
        with subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True
        ) as init:
            assert init.stderr is not None
            assert any("waiting for the log" in line for line in init.stderr)
            own_broker.restart()
            assert init.wait(timeout=120) == 0, init.stderr.read()
        stack.wait_ready()
        write_until_it_is_taken(client)
        hits = client.search("towers", "lighthouse", timeout=60)
        assert {hit.document_id for hit in hits} == {"first", "second"}
