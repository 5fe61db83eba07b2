"""A real Prometheus and its promtool: from the path, else Debian's package, unpacked and not installed."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.local.stack import ROOT

_FOLDER = ROOT / ".headwater" / "prometheus"


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
