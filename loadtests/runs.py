"""Runs Locust, as a process of its own, and reads what it found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from loadtests.options import arguments_of

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "load"
INTERRUPTED: Final = 130


class RunFailed(RuntimeError):
    """Locust said nothing, or that nothing could be measured."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; `finished` is the run that it cut short, when there is anything to tell of it."""

    def __init__(self, finished: Finished | None) -> None:
        super().__init__()
        self.finished = finished


@dataclass(frozen=True, slots=True)
class Finished:
    """A run: its summary, and the folder with summary.json, report.html and locust.log."""

    summary: dict[str, Any]
    folder: Path


def end_cleanly() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what it started is stopped."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off for what runs in the background
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def require_locust() -> None:
    """Raises RunFailed when Locust is not installed."""
    if find_spec("locust") is None:
        raise RunFailed("locust is not installed: `make load` installs it, or pip install -r requirements/load.txt")


def run(given: Namespace, name: str = "") -> Finished:
    """Run Locust without its page. Raises RunFailed, Interrupted."""
    folder = _folder(name or given.shape)
    given = Namespace(**vars(given) | {"summary": folder / "summary.json"})
    command = [*_locust(given), "--headless", "--only-summary", "--html", str(folder / "report.html")]
    log = folder / "locust.log"
    with log.open("wb") as out:
        # In a session of its own Ctrl-C reaches it once, from here.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        interrupted = _wait(process)
    summary = json.loads(given.summary.read_text()) if given.summary.exists() else None
    if interrupted:
        raise Interrupted(Finished(summary, folder) if summary else None)
    if summary is None or summary["error"]:
        why = summary["error"] if summary else log.read_text(errors="replace").strip()[-2000:]
        raise RunFailed(f"the run failed: {why or 'without a word'} ({log})")
    return Finished(summary, folder)


def run_page(given: Namespace, port: int) -> None:
    """Run Locust with its page on 127.0.0.1 until Ctrl-C."""
    command = [*_locust(given), "--web-host", "127.0.0.1", "--web-port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True)
    _wait(process)


def environment() -> dict[str, str]:
    """Of Locust: gevent patches nothing (loadtests.generator says why), and a key of the caller's own is not sent."""
    mine = {name: value for name, value in os.environ.items() if name != "HEADWATER_API_KEY"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return mine | {"LOCUST_SKIP_MONKEY_PATCH": "1", "PYTHONPATH": path}


def _locust(given: Namespace) -> list[str]:
    locustfile = str(Path(__file__).with_name("locustfile.py"))
    return [sys.executable, "-m", "locust", "-f", locustfile, *arguments_of(given)]


def _wait(process: subprocess.Popen[bytes]) -> bool:
    """Wait for the end; whether Ctrl-C came first."""
    interrupted = False
    while True:
        try:
            process.wait()
            return interrupted
        except KeyboardInterrupt:
            # Once is enough for it to sum up and end; whoever asks again does not want to wait.
            process.send_signal(signal.SIGKILL if interrupted else signal.SIGINT)
            interrupted = True


def _folder(name: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        folder = RESULTS / f"{stamp}-{name}{f'-{number}' if number else ''}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RunFailed(f"no free name for a folder in {RESULTS}")
