"""The stack as real processes under a test's control: start, kill, freeze and restart each on its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

from deploy.local.stack import ROOT, Program, Stack, is_ready
from serving.eventlog import init_log


def free_port_base() -> int:
    """A base whose next 99 ports are free just now."""
    for base in range(20000 + (os.getpid() % 100) * 100, 60000, 100):
        with contextlib.ExitStack() as held:
            try:
                for number in (1, 2, 11, 12, 21, 22, 23, 24, 31, 32, 41, 42, 51, 52, 53, 54, 55, 56, 71):
                    held.enter_context(socket.create_server(("127.0.0.1", base + number)))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports")


class Processes:
    """A stack's programs as processes. Leaving the context kills whatever still runs."""

    def __init__(self, stack: Stack, only: Sequence[str] = ()) -> None:
        self.stack = stack
        self._programs = {program.name: program for program in stack.programs() if not only or program.name in only}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        (self.stack.state / "log").mkdir(parents=True, exist_ok=True)
        asyncio.run(init_log(self.stack.log_settings))
        for name in self._programs:
            self.start(name)
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._running):
            self.kill(name)

    @property
    def names(self) -> list[str]:
        """Every program, in the order of their start."""
        return list(self._programs)

    def log_file(self, name: str) -> Path:
        """What the program printed, over all its lives."""
        return self.stack.state / f"{name}.out"

    def add(self, name: str, like: str, number: int, **environment: str) -> None:
        """Another program that differs from one of the stack in its name, its ports (number, number + 1) and this."""
        port = self.stack.port(number)
        ports = {"HEADWATER_SERVER__GRPC_PORT": str(port), "HEADWATER_SERVER__METRICS_PORT": str(port + 1)}
        program = self._programs[like]
        self._programs[name] = replace(
            program,
            name=name,
            environment=program.environment | ports | environment,
            port=port,
            ready_url=f"http://127.0.0.1:{port + 1}/ready",
        )
        self.start(name)
        self.wait_ready(name)

    def start(self, name: str, **environment: str) -> None:
        """Start a program that does not run; the environment is added to its own, for this life only."""
        program: Program = self._programs[name]
        with self.log_file(name).open("ab") as out:
            self._running[name] = subprocess.Popen(
                program.command,
                cwd=ROOT,
                env=os.environ | program.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        process = self._running.pop(name)
        process.send_signal(how)
        if how == signal.SIGKILL:
            process.send_signal(signal.SIGCONT)
        process.wait(timeout=60)

    def signal(self, name: str, which: signal.Signals) -> None:
        """Send a signal and go on (SIGSTOP, SIGCONT)."""
        self._running[name].send_signal(which)

    def metrics(self, name: str) -> list[str]:
        """The lines of a running program's metrics page."""
        with urlopen(self._programs[name].ready_url.replace("/ready", "/metrics"), timeout=5) as page:
            return str(page.read().decode()).splitlines()

    def is_ready(self, name: str) -> bool:
        """Whether it says so just now."""
        return is_ready(self._programs[name])

    def said(self, name: str) -> str:
        """All that it printed."""
        return self.log_file(name).read_text(errors="replace")

    def has_ended(self, name: str) -> bool:
        """Whether a started program has ended by itself (a crash point); forgets it then."""
        process = self._running.get(name)
        if process is None or process.poll() is None:
            return process is None
        del self._running[name]
        return True

    def wait_end(self, name: str, timeout_seconds: float = 60) -> int:
        """Wait until a started program ends by itself; its exit status (negative: the signal)."""
        status = self._running[name].wait(timeout=timeout_seconds)
        del self._running[name]
        return status

    def wait_for_output(self, name: str, text: str, timeout_seconds: float = 60) -> None:
        """Wait until a program has printed this."""
        deadline = time.monotonic() + timeout_seconds
        while text not in self.log_file(name).read_text(errors="replace"):
            assert time.monotonic() < deadline, f"{name} has not printed {text!r}"
            time.sleep(0.05)

    def pid(self, name: str) -> int:
        """Process id of a running program."""
        return self._running[name].pid

    def wait_ready(self, *names: str, timeout_seconds: float = 90) -> None:
        """Wait until these (all, when none is named) are ready; fails with the end of a log when one is not."""
        deadline = time.monotonic() + timeout_seconds
        for name in names or self.names:
            while not is_ready(self._programs[name]):
                ended = self._running[name].poll()
                if ended is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{name} is not ready (exit status {ended}):\n{self.said(name)[-3000:]}")
                time.sleep(0.05)


@contextlib.contextmanager
def running_stack(state: Path, **options: object) -> Iterator[Processes]:
    """A fresh stack on free ports, ready."""
    with Processes(Stack(state=state, port_base=free_port_base(), **options)) as processes:  # type: ignore[arg-type]
        yield processes
