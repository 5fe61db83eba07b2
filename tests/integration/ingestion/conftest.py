"""Ingestion as it runs: processes of its own around a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from deploy.local.kafka import free_port
from serving.eventlog import LogSettings

ROOT = Path(__file__).resolve().parents[3]
READY_SECONDS = 60


class Processes:
    """The fake embedding service, and as many ingestion processes as a test wants; all killed at the end."""

    def __init__(self, log: LogSettings, folder: Path) -> None:
        self.log = log
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {"embedding": (free_port(), free_port())}

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self._ports[name][0]}"

    def start(self, name: str, *module: str, **environment: str) -> None:
        """Start a process and return once it is ready; it keeps its ports over its lives."""
        grpc_port, metrics_port = self._ports.setdefault(name, (free_port(), free_port()))
        common = {
            "HEADWATER_SERVER__GRPC_PORT": str(grpc_port),
            "HEADWATER_SERVER__METRICS_PORT": str(metrics_port),
            "HEADWATER_SERVER__DRAIN_PAUSE_SECONDS": "0",
            "HEADWATER_LOG__KIND": self.log.kind,
            "HEADWATER_LOG__PATH": str(self.log.path),
            "HEADWATER_LOG__BOOTSTRAP_SERVERS": self.log.bootstrap_servers,
            "HEADWATER_LOG__TOPIC_PREFIX": self.log.topic_prefix,
            "HEADWATER_LOG__SESSION_SECONDS": str(self.log.session_seconds),
            "HEADWATER_EMBEDDING__ENGINE": "fake",
            "HEADWATER_INGESTION__EMBEDDING_ADDRESS": self.address("embedding"),
            # no shard runs here: what is unchanged is known from what a worker itself appended
            "HEADWATER_INGESTION__RETRIEVAL_ADDRESSES": '["127.0.0.1:1"]',
            "HEADWATER_INGESTION__MEMBER": name,
            "HEADWATER_INGESTION__TOKENIZER": "",
        }
        with (self._folder / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *module], cwd=ROOT, env=os.environ | common | environment, stderr=out
            )
        self._wait_ready(name, metrics_port)

    def api(self, **environment: str) -> None:
        self.start("api", "services.ingestion", "api", **environment)

    def worker(self, name: str = "worker", **environment: str) -> None:
        self.start(name, "services.ingestion", "worker", **environment)

    def signal(self, name: str, which: signal.Signals) -> None:
        self._running[name].send_signal(which)

    def is_running(self, name: str) -> bool:
        return self._running[name].poll() is None

    def exit_status(self, name: str) -> int:
        """Wait for a process to end by itself."""
        return self._running.pop(name).wait(READY_SECONDS)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.send_signal(signal.SIGCONT)
        process.wait(READY_SECONDS)

    def kill_all(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def said(self, name: str) -> str:
        return (self._folder / f"{name}.out").read_text(errors="replace")

    def lags(self, name: str) -> bool:
        """Whether a worker says that it has documents in flight."""
        with urlopen(f"http://127.0.0.1:{self._ports[name][1]}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return any(line.startswith("headwater_ingestion_lag_records{") and not line.endswith(" 0.0") for line in lines)

    def _wait_ready(self, name: str, metrics_port: int) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{metrics_port}/ready", timeout=5):
                    return
            except (URLError, OSError):
                if not self.is_running(name) or time.monotonic() > deadline:
                    raise AssertionError(f"{name} is not ready:\n{self.said(name)[-3000:]}") from None
                time.sleep(0.05)


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def log_settings(request: pytest.FixtureRequest, tmp_path: Path) -> LogSettings:
    """Settings of a log that is not there yet."""
    if request.param == "sqlite":
        return LogSettings(path=tmp_path / "log.sqlite3", partitions=2, session_seconds=2)
    return LogSettings(
        kind="kafka",
        bootstrap_servers=request.getfixturevalue("kafka_bootstrap_servers"),
        topic_prefix=f"test-{uuid.uuid4().hex[:8]}.",
        partitions=2,
        session_seconds=6,
    )


@pytest.fixture
def processes(log_settings: LogSettings, tmp_path: Path) -> Iterator[Processes]:
    """With the embedding service running."""
    opened = Processes(log_settings, tmp_path)
    try:
        yield opened
    finally:
        opened.kill_all()
