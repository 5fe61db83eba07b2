"""Bind, warm up, serve, drain; and every way of not getting there says why."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.channels import open_channel
from serving.errors import FailedPrecondition
from serving.server import Server, ServerSettings, serve

SETTINGS = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def _fine(request: bytes, context: Any) -> bytes:
    return b"fine"


async def _page(server: Server, path: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def _health(server: Server, service: str = "") -> int:
    async with grpc.aio.insecure_channel(server.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)


async def test_a_server_is_ready_only_after_it_warmed_up(register: Any) -> None:
    warmed = asyncio.Event()
    async with Server("echo", SETTINGS, register(_fine)) as server:
        starting = asyncio.create_task(server.serving(warmed.wait))
        assert await _health(server) == NOT_SERVING
        assert await _health(server, "headwater.test.v1.EchoService") == NOT_SERVING
        assert (await _page(server, "/live"))[0] == 200
        assert (await _page(server, "/ready"))[0] == 503
        warmed.set()
        await starting
        assert await _health(server) == SERVING
        assert await _health(server, "headwater.test.v1.EchoService") == SERVING
        assert (await _page(server, "/ready"))[0] == 200


async def test_the_metrics_page_is_prometheus(echoing: Any) -> None:
    async with echoing(_fine) as echo:
        await echo.call("UnaryUnary")
        status, text = await _page(echo.server, "/metrics")
    assert status == 200
    assert 'grpc_server_handled_total{grpc_code="OK",grpc_method="UnaryUnary"' in text


async def test_reflection_names_the_services(echoing: Any) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async with echoing(_fine) as echo:
        stub = reflection_pb2_grpc.ServerReflectionStub(echo.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"headwater.test.v1.EchoService", "grpc.health.v1.Health"} <= names


async def test_draining_ends_the_calls_in_flight_and_says_so_to_balancers(register: Any) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        began.set()
        await go.wait()
        return b"done"

    server = Server("echo", SETTINGS, register(wait))
    await server.__aenter__()
    await server.serving()
    async with open_channel(server.address) as channel:
        call = channel.unary_unary("/headwater.test.v1.EchoService/UnaryUnary")(b"")
        await began.wait()
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == SERVING
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        assert (await watching.read()).status == NOT_SERVING
        watching.cancel()
        go.set()
        assert await call == b"done"
        await leaving


@pytest.mark.parametrize("port", ["grpc_port", "metrics_port"])
async def test_a_port_in_use_is_named_with_its_setting(port: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(FailedPrecondition) as caught:
            async with Server("echo", SETTINGS.model_copy(update={port: number})):
                pass
    assert str(number) in caught.value.message
    assert f"HEADWATER_SERVER__{port.upper()}" in caught.value.message


async def test_two_servers_cannot_share_a_port() -> None:
    async with Server("first", SETTINGS) as first:
        with pytest.raises(FailedPrecondition):
            async with Server("second", SETTINGS.model_copy(update={"grpc_port": first.grpc_port})):
                pass


async def test_a_watched_task_that_fails_ends_the_server_with_its_error() -> None:
    async def fail() -> None:
        raise RuntimeError("the follower fell over")

    async def end() -> None:
        return

    with pytest.raises(RuntimeError, match="fell over"):
        await serve("echo", SETTINGS, watch=[asyncio.create_task(end()), asyncio.create_task(fail())])


async def test_a_warm_up_that_fails_ends_the_server_with_its_error() -> None:
    async def fail() -> None:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        await serve("echo", SETTINGS, warm_up=fail)


async def test_a_server_is_ready_when_its_service_says_so_and_only_then() -> None:
    said: asyncio.Queue[bool] = asyncio.Queue()

    async def readiness() -> AsyncIterator[bool]:
        while True:
            yield await said.get()

    async with Server("echo", SETTINGS) as server, grpc.aio.insecure_channel(server.address) as channel:
        following = asyncio.create_task(server.follow(readiness()))
        states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await states.read()).status == NOT_SERVING
        for ready, status in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
            said.put_nowait(ready)
            assert (await states.read()).status == status
            assert (await _page(server, "/ready"))[0] == (200 if ready else 503)
        following.cancel()


PROGRAM = """
import asyncio, sys
from pydantic_settings import BaseSettings, SettingsConfigDict
from serving.crashpoints import crash_point
from serving.errors import FailedPrecondition
from serving.server import ServerSettings, run, serve
from serving.telemetry import TelemetrySettings

class Settings(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, env_prefix="HEADWATER_", env_nested_delimiter="__")
    server: ServerSettings = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0)
    telemetry: TelemetrySettings = TelemetrySettings()

async def main(settings):
    if sys.argv[1] == "refuse":
        raise FailedPrecondition("the log is missing; make one")
    if sys.argv[1] == "bug":
        raise ValueError("a secret sentence")
    async def warm_up():
        crash_point("program.warm")
        print("warm", flush=True)
        if sys.argv[1] == "slow":
            await asyncio.Event().wait()
    await serve("program", settings.server, warm_up=warm_up)

run("program", Settings, main)
"""


def _start(how: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["serve", "slow"])
def test_a_signal_ends_the_process_cleanly_even_while_it_warms_up(how: str, number: signal.Signals) -> None:
    with _start(how) as process:
        assert process.stdout
        assert process.stdout.readline() == "warm\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_bad_settings_are_said_in_words() -> None:
    with _start("serve", HEADWATER_SERVER__GRPC_PORT="99999", HEADWATER_SERVER__DRAIN_SECONDS="soon") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "HEADWATER_SERVER__GRPC_PORT: input should be less than or equal to 65535" in errors
    assert "HEADWATER_SERVER__DRAIN_SECONDS: input should be a valid number" in errors
    assert "Traceback" not in errors


def test_a_refusal_is_said_in_words_and_a_bug_without_its_text() -> None:
    with _start("refuse") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "program: the log is missing; make one" in errors
    with _start("bug") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "builtins.ValueError" in errors
    assert "secret" not in errors


def test_a_crash_point_kills_the_process_where_it_stands() -> None:
    with _start("serve", HEADWATER_SERVER__CRASH_POINT="program.warm") as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert output == ""
