"""The life of a server: bind, start, warm up, serve, drain. `run` is every service's process, `serve` its last line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, TypeVar

import grpc
import uvloop
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import SettingsError

from serving import crashpoints, limits, telemetry
from serving.errors import FailedPrecondition, HeadwaterError
from serving.health import Health, Pages
from serving.interceptors import server_interceptors

_log = telemetry.get_logger(__name__)


class ServerSettings(BaseModel):
    """Where a process listens and how it lets go."""

    model_config = ConfigDict(frozen=True)

    host: str = Field(
        default="127.0.0.1", description="address listened on; anything but loopback is your choice alone"
    )
    grpc_port: int = Field(default=50051, ge=0, le=65535, description="port of the gRPC server; 0 takes a free one")
    metrics_port: int = Field(
        default=9464,
        ge=0,
        le=65535,
        description="port of the HTTP page with /metrics, /live and /ready; 0 takes a free one",
    )
    max_concurrent_calls: int = Field(
        default=256, ge=1, le=100_000, description="calls worked on at once; more are refused with RESOURCE_EXHAUSTED"
    )
    drain_seconds: float = Field(
        default=10.0, ge=0, le=600, description="time that calls get to end after SIGTERM, in seconds"
    )
    drain_pause_seconds: float = Field(
        default=0.2,
        ge=0,
        le=60,
        description="time between not being ready and refusing calls, in seconds, for load balancers to notice",
    )
    max_connection_age_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="age at which clients are made to reconnect, in seconds, to see new replicas",
    )
    max_connection_age_grace_seconds: float = Field(
        default=float(limits.MAX_DEADLINE_SECONDS),
        gt=0,
        le=86_400,
        description="time that calls on an aged connection get to end, in seconds",
    )
    crash_point: str = Field(default="", description="tests only: the point at which this process kills itself")


class ServiceSettings(Protocol):
    """What `run` needs of a service's settings."""

    @property
    def server(self) -> ServerSettings: ...

    @property
    def telemetry(self) -> telemetry.TelemetrySettings: ...


@dataclass(frozen=True, slots=True)
class Registration:
    """A servicer and how it is added to a server."""

    add: Callable[[Any, Any], None]
    """`add_XServiceServicer_to_server`."""
    servicer: object
    service: str
    """The service's full proto name."""


class Server:
    """A running server: listens while entered, not ready until `serving` is called, drains when left."""

    def __init__(self, name: str, settings: ServerSettings, *registrations: Registration) -> None:
        self._name = name
        self._settings = settings
        self._registrations = registrations
        self.health = Health(registration.service for registration in registrations)
        self._pages = Pages(self.health)
        self.grpc_port = 0
        self.metrics_port = 0

    @property
    def address(self) -> str:
        """host:port of the gRPC server."""
        return f"{self._settings.host}:{self.grpc_port}"

    async def __aenter__(self) -> Self:
        settings = self._settings
        # Bound first: a page whose port is taken must not leave a gRPC server behind.
        listening = _listen(settings.host, settings.metrics_port, "server.metrics_port")
        self.metrics_port = listening.getsockname()[1]
        try:
            self._grpc = self._build()
            self.grpc_port = _bind(self._grpc, settings.host, settings.grpc_port)
            await self.health.not_serving()
            await self._grpc.start()
        except BaseException:
            listening.close()
            raise
        self._page_task = asyncio.create_task(self._pages.serve_on(listening))
        _log.info("listening", grpc=self.address, http=f"{settings.host}:{self.metrics_port}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.health.shutting_down()
        _log.info("draining")
        await asyncio.sleep(self._settings.drain_pause_seconds)
        await self._grpc.stop(self._settings.drain_seconds)
        self._pages.should_exit = True
        await self._page_task
        _log.info("stopped")

    async def serving(self, warm_up: Callable[[], Awaitable[None]] | None = None) -> None:
        """Warm up, then be ready."""
        if warm_up is not None:
            await warm_up()
        await self.health.serving()
        _log.info("serving")

    async def follow(self, readiness: AsyncIterator[bool]) -> None:
        """Be ready whenever that says so, and only then."""
        async for ready in readiness:
            if ready:
                await self.serving()
            else:
                await self.health.not_serving()
                _log.warning("not serving")

    def _build(self) -> grpc.aio.Server:
        settings = self._settings
        server = grpc.aio.server(
            interceptors=server_interceptors(settings.max_concurrent_calls),
            options=(
                ("grpc.so_reuseport", 0),  # or two processes would share a port and each get half of the calls
                ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
                ("grpc.max_metadata_size", limits.MAX_CALL_METADATA_BYTES),
                ("grpc.max_concurrent_streams", limits.MAX_STREAMS_PER_CONNECTION),
                ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
                ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace_seconds * 1000)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
            # The interceptor refuses first, and says when to come back; this one bounds what even refusing costs.
            maximum_concurrent_rpcs=2 * settings.max_concurrent_calls + 64,
        )
        for registration in self._registrations:
            registration.add(registration.servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, server)
        names = [registration.service for registration in self._registrations]
        reflection.enable_server_reflection([*names, "grpc.health.v1.Health", reflection.SERVICE_NAME], server)
        return server


async def serve(
    name: str,
    settings: ServerSettings,
    *registrations: Registration,
    warm_up: Callable[[], Awaitable[None]] | None = None,
    readiness: AsyncIterator[bool] | None = None,
    watch: Sequence[asyncio.Task[Any]] = (),
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Ready after the warm-up; a service that may cease to be ready gives its readiness instead, at each change. What a
    watched task (or the warm-up) raises is raised here, after draining; one that returns is no longer watched.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Server(name, settings, *registrations) as server:
            stopping = asyncio.create_task(stop.wait())
            starting = asyncio.create_task(server.follow(readiness) if readiness else server.serving(warm_up))
            try:
                await _until(stopping, {starting, *watch})
            finally:
                for task in (stopping, starting):
                    task.cancel()
                await asyncio.gather(stopping, starting, return_exceptions=True)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _until(stopping: asyncio.Task[Any], watched: set[asyncio.Task[Any]]) -> None:
    while not stopping.done():
        done, _ = await asyncio.wait({stopping, *watched}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            watched.discard(task)
            if not task.cancelled():
                task.result()


Settings = TypeVar("Settings", bound=ServiceSettings)


def run(
    name: str, settings_type: Callable[[], Settings], main: Callable[[Settings], Coroutine[Any, Any, None]]
) -> NoReturn:
    """Be the process of a service: read its settings, run `main`, exit.

    Exit codes: 0 ended as asked, 1 failed, 2 bad settings, 130 interrupted before it served.
    """
    try:
        settings = settings_type()
    except (ValidationError, SettingsError) as error:
        print(f"{name}: {_in_words(error)}", file=sys.stderr)
        sys.exit(2)
    telemetry.configure(name, settings.telemetry)
    crashpoints.arm(settings.server.crash_point)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(settings))
    except KeyboardInterrupt:
        sys.exit(130)
    except HeadwaterError as error:
        _log.error("failed", exc_info=error)
        print(f"{name}: {error.message}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        _log.error("failed", exc_info=error)
        sys.exit(1)
    finally:
        telemetry.shut_down()
    sys.exit(0)


def _in_words(error: ValidationError | SettingsError) -> str:
    """Bad settings as lines that name the variable, what is wrong, and the limit."""
    if isinstance(error, SettingsError):
        return f"settings: {error}"
    lines = []
    for problem in error.errors(include_url=False):
        variable = "HEADWATER_" + "__".join(str(part) for part in problem["loc"]).upper()
        lines.append(f"{variable}: {problem['msg'].lower()}")
    return "settings:\n  " + "\n  ".join(lines)


def _listen(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise _unusable(host, port, setting, error) from error
    return listening


def _bind(server: grpc.aio.Server, host: str, port: int) -> int:
    if port:
        # gRPC does not say why it cannot bind; a plain socket does.
        with contextlib.closing(_listen(host, port, "server.grpc_port")):
            pass
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise _unusable(host, port, "server.grpc_port", error) from error


def _unusable(host: str, port: int, setting: str, error: Exception) -> FailedPrecondition:
    variable = "HEADWATER_" + setting.replace(".", "__").upper()
    why = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else "it is in use"
    return FailedPrecondition(
        f"cannot listen on {host}:{port}: {why}; choose another port with {variable}", reason="PORT_UNUSABLE"
    )
