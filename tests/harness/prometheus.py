"""A real Prometheus and its promtool: from the path, else Debian's package, unpacked and not installed; and its API."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from deploy.local.stack import ROOT

_FOLDER = ROOT / ".headwater" / "prometheus"


class Api:
    """Of a Prometheus that listens at this address."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str, **parameters: str) -> Any:
        """The data of its answer; waits until it is there."""
        url = f"http://{self._address}/api/v1/{path}?{urlencode(parameters)}"
        deadline = time.monotonic() + 30
        while True:
            try:
                with urlopen(url, timeout=10) as page:
                    return json.load(page)["data"]
            except OSError:
                assert time.monotonic() < deadline, "Prometheus does not answer"
            time.sleep(0.2)

    def firing(self) -> set[tuple[str, str]]:
        """Alerts by name and component."""
        alerts = self.get("alerts")["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("component", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }


@functools.cache
def program(name: str) -> Path:
    """`prometheus` or `promtool`; skips the test where there is none."""
    if found := shutil.which(name):
        return Path(found)
    unpacked = _FOLDER / "usr" / "bin" / name
    if not unpacked.exists():
        _fetch()
    if not unpacked.exists():
        pytest.skip(f"no {name} here, and none could be fetched: install Prometheus (Debian's package prometheus)")
    return unpacked


def _fetch() -> None:
    """Unpack Debian's package below .headwater; leaves nothing when there is no apt or no network."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return
    _FOLDER.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "download", "prometheus"]
    if subprocess.run(download, cwd=_FOLDER, capture_output=True).returncode:
        subprocess.run(["apt-get", "update"], capture_output=True)  # it needs the lists, and making them needs root
        subprocess.run(download, cwd=_FOLDER, capture_output=True)
    for package in _FOLDER.glob("prometheus_*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(_FOLDER)], check=True)
        package.unlink()
