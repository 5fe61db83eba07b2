"""What the Helm chart makes of values: held to what every cluster needs, and to who asks whom."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).resolve().parents[3] / "deploy" / "k8s" / "headwater"
HELM = os.environ.get("HELM") or shutil.which("helm")
EXTERNAL = (
    "kafka.enabled=false",
    "valkey.enabled=false",
    "log.bootstrapServers=broker:9093",
    "log.securityProtocol=SASL_SSL",
    "log.existingSecret=kafka-login",
    "redis.existingSecret=redis-url",
)
SCALED = (
    "retrieval.shards=3",
    "retrieval.replicas=2",
    "embedding.autoscaling.enabled=true",
    "gateway.autoscaling.enabled=true",
    "ingestionWorker.keda.enabled=true",
)
VALUES = {"defaults": (), "external": EXTERNAL, "scaled": SCALED, "both": (*EXTERNAL, *SCALED)}

pytestmark = pytest.mark.skipif(
    not HELM, reason="no helm here: install Helm 3, or name one with HELM=/path/to/helm, to test the chart"
)


def helm(*settings: str) -> subprocess.CompletedProcess[str]:
    command = [str(HELM), "template", "headwater", str(CHART), "--kube-version", "1.31.0"]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(command, capture_output=True, text=True)


def rendered(*settings: str) -> list[dict[str, Any]]:
    done = helm(*settings)
    assert done.returncode == 0, done.stderr
    return [part for part in yaml.safe_load_all(done.stdout) if part]


def workloads(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for part in parts if part["kind"] in ("Deployment", "StatefulSet", "Job")]


def names(parts: list[dict[str, Any]], kind: str) -> set[str]:
    return {part["metadata"]["name"] for part in parts if part["kind"] == kind}


def environment(parts: list[dict[str, Any]], workload: str) -> dict[str, str]:
    (found,) = (part for part in workloads(parts) if part["metadata"]["name"] == workload)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", "") for one in container.get("env", ())}


@pytest.mark.parametrize("settings", VALUES.values(), ids=VALUES.keys())
def test_every_pod_is_restricted(settings: tuple[str, ...]) -> None:
    """Pod security "restricted", and no right to ask the cluster anything."""
    for workload in workloads(rendered(*settings)):
        name, pod = workload["metadata"]["name"], workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            # the broker writes its configuration
            assert security.get("readOnlyRootFilesystem") is True or name.endswith("-kafka"), name


@pytest.mark.parametrize("settings", VALUES.values(), ids=VALUES.keys())
def test_every_container_has_bounds_and_every_server_probes(settings: tuple[str, ...]) -> None:
    for workload in workloads(rendered(*settings)):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            name = workload["metadata"]["name"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            if workload["kind"] != "Job":
                assert "readinessProbe" in container, name
                assert "livenessProbe" in container, name


def test_each_shard_is_a_statefulset_and_everybody_knows_all_in_order() -> None:
    parts = rendered(*SCALED)
    shards = [f"headwater-retrieval-{shard}" for shard in range(3)]
    assert set(shards) <= names(parts, "StatefulSet")
    addresses = [f"dns:///{shard}:50051" for shard in shards]
    assert json.loads(environment(parts, "headwater-gateway")["HEADWATER_GATEWAY__RETRIEVAL_ADDRESSES"]) == addresses
    worker = environment(parts, "headwater-ingestion-worker")
    assert json.loads(worker["HEADWATER_INGESTION__RETRIEVAL_ADDRESSES"]) == addresses
    for number, shard in enumerate(shards):
        said = environment(parts, shard)
        assert (said["HEADWATER_RETRIEVAL__SHARD"], said["HEADWATER_RETRIEVAL__SHARDS"]) == (str(number), "3")


def test_what_is_addressed_is_there() -> None:
    parts = rendered(*SCALED)
    services = names(parts, "Service")
    for workload in workloads(parts):
        for name, value in environment(parts, workload["metadata"]["name"]).items():
            if "dns:///" in value:
                found = json.loads(value) if value.startswith("[") else [value]
                assert {one.removeprefix("dns:///").partition(":")[0] for one in found} <= services, name


def test_what_is_scaled_has_no_number_of_its_own() -> None:
    parts = rendered(*SCALED)
    replicas = {part["metadata"]["name"]: part["spec"].get("replicas") for part in workloads(parts)}
    for scaled in ("gateway", "embedding", "ingestion-worker"):
        assert replicas[f"headwater-{scaled}"] is None
    assert replicas["headwater-cache"] == 2
    (worker,) = (part for part in parts if part["kind"] == "ScaledObject")
    assert worker["spec"]["maxReplicaCount"] <= 16, "more workers than partitions have nothing to do"


def test_with_a_kafka_and_a_redis_of_ones_own_none_is_bundled_and_passwords_stay_in_secrets() -> None:
    parts = rendered(*EXTERNAL)
    assert not {"headwater-kafka", "headwater-valkey"} & {part["metadata"]["name"] for part in parts}
    for workload in workloads(parts):
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        for one in container.get("env", ()):
            if any(word in one["name"] for word in ("PASSWORD", "REDIS_URL", "API_KEY")):
                assert "secretKeyRef" in one["valueFrom"], one


def test_only_who_must_may_talk_to_whom() -> None:
    askers = {}
    for policy in (part for part in rendered("retrieval.shards=2") if part["kind"] == "NetworkPolicy"):
        name = policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        askers[name] = {
            one["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in policy["spec"]["ingress"] or ()
            for one in rule.get("from", ())
        }
    shards = {"retrieval-0", "retrieval-1"}
    assert askers["generation"] == {"gateway"}
    assert askers["cache"] == {"gateway"}
    assert askers["embedding"] == {"gateway", "ingestion-api", "ingestion-worker"}
    assert askers["retrieval-0"] == {"gateway", "ingestion-worker"}
    assert askers["kafka"] == {"gateway", "ingestion-api", "ingestion-worker", "cache", "log", *shards}
    assert askers["valkey"] == {"cache"}
    assert askers["ingestion-worker"] == set()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("gateway.auth=maybe", "gateway.auth"),
        ("retrieval.shards=0", "retrieval.shards"),
        ("gateway.replcas=3", "replcas"),
        ("log.securityProtocol=TLS", "log.securityProtocol"),
        ("log.securityProtocol=SASL_SSL", "log.existingSecret"),
        ("kafka.enabled=false", "log.bootstrapServers"),
        ("valkey.enabled=false", "redis.existingSecret"),
        ("generation.engine=openai", "generation.openai.baseUrl"),
        ("image.registry=registry.example.com", "image.registry"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, named: str) -> None:
    done = helm(setting)
    assert done.returncode != 0
    assert named in done.stderr


def test_the_kustomize_base_is_what_the_chart_renders() -> None:
    base = CHART.parent / "base" / "headwater.yaml"
    assert base.read_text() == helm("gateway.existingSecret=headwater-keys").stdout, "run `make k8s-base`"


def test_monitoring_hands_over_the_alerts_and_the_dashboards_as_they_are() -> None:
    kinds = ("ServiceMonitor", "PrometheusRule")
    assert not [part for part in rendered() if part["kind"] in kinds]
    parts = rendered("monitoring.enabled=true", "monitoring.labels.release=mine")
    (monitor,), (rule,) = ([part for part in parts if part["kind"] == kind] for kind in kinds)
    folder = CHART.parents[1] / "observability"
    assert rule["spec"] == yaml.safe_load((folder / "rules.yaml").read_text())
    assert monitor["metadata"]["labels"]["release"] == rule["metadata"]["labels"]["release"] == "mine"
    shown = {name: text for part in parts if part["kind"] == "ConfigMap" for name, text in part["data"].items()}
    files = {f"headwater-{path.name}": path for path in (folder / "dashboards").glob("*.json")}
    assert len(files) == 8
    for name, path in files.items():
        assert json.loads(shown[name]) == json.loads(path.read_text())
    # every service that has metrics is found by the monitor's selector and port
    scraped = {
        part["metadata"]["labels"]["app.kubernetes.io/component"]
        for part in parts
        if part["kind"] == "Service" and any(port["name"] == "metrics" for port in part["spec"]["ports"])
    }
    servers = {"gateway", "cache", "embedding", "generation", "retrieval-0", "ingestion-api", "ingestion-worker"}
    assert scraped == servers


def test_the_scaler_logs_in_to_kafka_as_the_services_do() -> None:
    parts = rendered(*EXTERNAL, *SCALED)
    (scaled,) = (part for part in parts if part["kind"] == "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    assert (trigger["metadata"]["sasl"], trigger["metadata"]["tls"]) == ("scram_sha512", "enable")
    (login,) = (part for part in parts if part["kind"] == "TriggerAuthentication")
    assert trigger["authenticationRef"]["name"] == login["metadata"]["name"]
    given = {one["parameter"]: (one["name"], one["key"]) for one in login["spec"]["secretTargetRef"]}
    assert given == {
        name: ("kafka-login", key)
        for name, key in (("username", "username"), ("password", "password"), ("ca", "ca.pem"))
    }


def test_the_scaler_finds_the_bundled_kafka_from_its_own_namespace() -> None:
    parts = rendered(*SCALED)
    (scaled,) = (part for part in parts if part["kind"] == "ScaledObject")
    address = "headwater-kafka.default.svc:9092"
    assert scaled["spec"]["triggers"][0]["metadata"]["bootstrapServers"] == address
    assert environment(parts, "headwater-kafka")["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{address}"
