"""The overlay for a Kafka of one's own, really run against a broker that wants TLS and a password."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator

import pytest
from headwater import Client, Document

from tests.harness.compose import Project, need_docker
from tests.harness.secure_kafka import MECHANISM, PASSWORD, USER, secure_broker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

PROJECT = Project("headwater-external", 18104, overlays=("test", "external-kafka"), wait_seconds=300)


@pytest.fixture(scope="module", autouse=True)
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The stack on a broker that runs beside the containers, on the address at which they reach this machine."""
    need_docker()
    inspect = ["docker", "network", "inspect", "bridge"]
    (bridge,) = json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)
    here = ipaddress.ip_network(bridge["IPAM"]["Config"][0]["Subnet"])[1]
    secure = secure_broker(tmp_path_factory.mktemp("secure"), host=str(here))
    if trouble := secure.broker.start():
        pytest.skip(f"no Kafka broker could be started: {trouble}")
    settings = {
        "HEADWATER_LOG__BOOTSTRAP_SERVERS": secure.others_address,
        "HEADWATER_LOG__SASL_MECHANISM": MECHANISM,
        "HEADWATER_LOG__SASL_USERNAME": USER,
        "HEADWATER_LOG__SASL_PASSWORD": PASSWORD,
        "HEADWATER_LOG__REPLICATION_FACTOR": "1",
        "HEADWATER_KAFKA_CA": str(secure.ca),
    }
    try:
        with PROJECT.running(**settings):
            yield
    finally:
        secure.broker.stop()


def test_documents_go_through_a_kafka_of_ones_own() -> None:
    with Client(PROJECT.address) as client:
        client.create_collection("kept")
        client.put("kept", [Document("d", text="The harbour opens at six.")], timeout=60)
        assert "six" in client.answer("kept", "When does the harbour open?", timeout=60).text


def test_no_broker_of_the_project_runs_beside_it() -> None:
    assert "kafka" not in PROJECT.run("ps", "--all", "--services").split()
