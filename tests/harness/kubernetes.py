"""The chart, installed on a cluster to try things on, in a namespace that is made for it and deleted afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import pytest

from deploy.local.stack import ROOT

CHART = ROOT / "deploy" / "k8s" / "headwater"
KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl")
HELM = os.environ.get("HELM") or shutil.which("helm")
NODE_PORT = 30801
ADDRESS = f"127.0.0.1:{NODE_PORT}"
"""Where the gateway is, as long as the node is this machine."""
VALUES = (
    "generation.engine=extractive",
    "gateway.service.type=NodePort",
    f"gateway.service.nodePort={NODE_PORT}",
    # without a storage class: what a pod stores goes with it
    "retrieval.storage=",
    "kafka.storage=",
)


class Release:
    """A release named headwater. Entering installs it and waits until it is ready; skips where there is no cluster."""

    def __init__(self, namespace: str, values: Sequence[str]) -> None:
        self.namespace = namespace
        self._values = (*VALUES, *values)

    def __enter__(self) -> Self:
        if not KUBECTL or not HELM or subprocess.run([KUBECTL, "get", "nodes"], capture_output=True).returncode:
            pytest.skip(
                "no cluster here: name kubectl and helm (KUBECTL, HELM) and a cluster to try things on (KUBECONFIG)"
            )
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait")
        self.kubectl("create", "namespace", self.namespace)
        self.kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")
        self.prepare()
        self.helm("install")
        self.wait_until_rolled_out()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kubectl("delete", "namespace", self.namespace, "--wait=true", check=False)

    def prepare(self) -> None:
        """What has to be there before the chart."""

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """What kubectl prints, in the namespace."""
        command = [str(KUBECTL), "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr[-2000:]}"
        return done.stdout

    def helm(self, command: str, *more: str) -> None:
        """Install or upgrade, with these values besides the release's own."""
        settings = [word for value in (*self._values, *more) for word in ("--set", value)]
        self._run_helm(command, "headwater", str(CHART), *settings)

    def rollback(self) -> None:
        """To the revision before."""
        self._run_helm("rollback", "headwater")

    def uninstall(self) -> None:
        """Everything of the release is gone afterwards, what it stored included."""
        self._run_helm("uninstall", "headwater", "--wait")
        self.kubectl("wait", "pod", "--all", "--for=delete", "--timeout=180s")
        self.kubectl("delete", "pvc", "--all", "--wait")

    def _run_helm(self, *arguments: str) -> None:
        command = [str(HELM), "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    def wait_until_rolled_out(self) -> None:
        """Wait until every workload is as it should be."""
        for workload in self.workloads():
            self.kubectl("rollout", "status", workload, "--timeout=600s")

    def workloads(self) -> list[str]:
        """Deployments and StatefulSets, as kubectl names them."""
        return self.kubectl("get", "deployment,statefulset", "-o", "name").split()

    def pods(self, component: str) -> list[str]:
        """Names of a component's pods."""
        found = self.kubectl("get", "pods", "-l", f"app.kubernetes.io/component={component}", "-o", "name").split()
        return [name.removeprefix("pod/") for name in found]
