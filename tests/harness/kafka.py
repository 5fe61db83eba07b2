"""A real Kafka broker under a test's control, started by deploy/local/kafka.py."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from deploy.local.kafka import listens, running

ROOT = Path(__file__).resolve().parents[2]
LIBS = ROOT / ".headwater" / "kafka" / "libs"
"""The jars are downloaded once, and shared with `make kafka`."""


class Broker:
    """One broker with data of its own. It keeps its port, so that it can be killed and started again."""

    def __init__(self, state: Path, properties: str = "") -> None:
        self._state = state
        self._properties = properties
        self._port = self.free_port()
        self.address = f"127.0.0.1:{self._port}"

    @staticmethod
    def free_port() -> int:
        """Below the ports that outgoing connections get, so that nothing takes it while the broker is down."""
        while True:
            port = random.randrange(20_000, 30_000)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return port

    def start(self) -> str:
        """Start, or go on with the data that is there; an empty string, or why it cannot be had."""
        more = self._state.with_name(f"{self._state.name}.properties")
        more.parent.mkdir(parents=True, exist_ok=True)
        more.write_text(self._properties)
        done = self._run("--port", str(self._port), "--libs", str(LIBS), "--properties", str(more))
        if done.returncode == 0 and running(self._state) is None:
            return f"the broker does not run: {done.stdout.strip()}"
        return "" if done.returncode == 0 else done.stderr.strip()

    def kill(self) -> None:
        os.kill(self._pid(), signal.SIGKILL)
        # its threads die one after the other, and its port is taken until the last has
        while running(self._state) is not None or listens(self._port):
            time.sleep(0.01)

    def restart(self) -> None:
        """Start it again after a kill."""
        trouble = self.start()
        assert not trouble, trouble

    def freeze(self) -> None:
        os.kill(self._pid(), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    def stop(self) -> None:
        self._run("--stop")

    def _pid(self) -> int:
        return int((self._state / "kafka.pid").read_text())

    def _run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.local.kafka", "--state", str(self._state), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
