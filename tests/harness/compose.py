"""Projects of Docker Compose, each of a test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from deploy.local.stack import ROOT

FOLDER = ROOT / "deploy" / "compose"
KEY = "key-of-default"
"""Of tests/e2e/keys.json."""


@dataclass(frozen=True)
class Project:
    """compose.yaml with overlays, the gateway published on `port` of loopback."""

    name: str
    port: int
    overlays: tuple[str, ...] = ()
    two_shards: bool = False
    wait_seconds: int = 600
    """How long it may take to be healthy."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def run(self, *arguments: str, check: bool = True) -> str:
        """What `docker compose` prints."""
        files = [FOLDER / "compose.yaml", *(FOLDER / f"compose.{overlay}.yaml" for overlay in self.overlays)]
        command = ["docker", "compose", "-p", self.name]
        if self.two_shards:
            command += ["--env-file", str(FOLDER / "two-shards.env")]
        for file in files:
            command += ["-f", str(file)]
        environment = os.environ | {"HEADWATER_PORT": str(self.port), "DOCKER_BUILDKIT": "1"}
        done = subprocess.run((*command, *arguments), env=environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr[-3000:]}"
        return done.stdout

    @contextmanager
    def running(self, *services: str, **environment: str) -> Iterator[None]:
        """From nothing to healthy, with the key that clients take; gone with its volumes, however it ends."""
        with pytest.MonkeyPatch.context() as patched:
            for name, value in ({"HEADWATER_API_KEY": KEY} | environment).items():
                patched.setenv(name, value)
            self.run("down", "--volumes")
            try:
                self.run("up", "--build", "--wait", "--wait-timeout", str(self.wait_seconds), *services)
                yield
            finally:
                self.run("down", "--volumes")


def need_docker() -> None:
    """Skip without an engine."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("no Docker engine with Compose v2 here: install one to run the stack in containers")


def is_available(image: str) -> bool:
    """Whether an image is here, or can be pulled."""
    return any(
        subprocess.run(["docker", *command, image], capture_output=True).returncode == 0
        for command in (("image", "inspect"), ("pull", "--quiet"))
    )
