"""Real cache processes over gRPC, with one Valkey and one log."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from headwater.cache.v1 import cache_pb2, cache_pb2_grpc
from headwater.common.v1 import common_pb2

from tests.harness.cache import COLLECTION, PARTITIONS, CacheWorld, until
from tests.harness.valkey import Valkey

KEY = cache_pb2.CacheKey(
    scope=common_pb2.Scope(tenant="acme", collection_id=COLLECTION), generation=1, question="how much leave?"
)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Process:
    """`python -m services.cache`, as it is deployed."""

    def __init__(self, world: CacheWorld, output: Path) -> None:
        self._world = world
        self._output = output
        self._port, self._metrics_port = _free_port(), _free_port()
        self._channels = AsyncExitStack()

    async def start(self) -> None:
        """Start it, and return when it serves."""
        self._spawn()
        channel = await self._channels.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{self._port}"))
        self.stub: cache_pb2_grpc.CacheServiceAsyncStub = cache_pb2_grpc.CacheServiceStub(channel)
        await until(self._serves, "it serves")

    def _spawn(self) -> None:
        settings = {
            "SERVER__GRPC_PORT": self._port,
            "SERVER__METRICS_PORT": self._metrics_port,
            "LOG__PATH": self._world.log_settings.path,
            "CACHE__REDIS_URL": self._world.cache_settings.redis_url.get_secret_value(),
            # the machine may be busy with other tests
            "CACHE__READ_BUDGET_MS": 5000,
            "CACHE__WRITE_BUDGET_MS": 5000,
        }
        environment = {**os.environ, **{f"HEADWATER_{name}": str(value) for name, value in settings.items()}}
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cache"], env=environment, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        self._process.terminate()
        return self._process.wait(timeout=20)

    async def close(self) -> None:
        """Kill it if it runs, and let go of its channels."""
        self.kill()
        await self._channels.aclose()

    async def lookup(self, wait_ms: int = 0) -> cache_pb2.LookupResponse:
        request = cache_pb2.LookupRequest(key=KEY, partitions=PARTITIONS, wait_ms=wait_ms)
        return await self.stub.Lookup(request, timeout=30, wait_for_ready=True)

    async def store(self, lease_id: bytes) -> cache_pb2.StoreResponse:
        offsets = await self._world.writer.index_offsets()
        request = cache_pb2.StoreRequest(
            key=KEY,
            lease_id=lease_id,
            answer=cache_pb2.CachedAnswer(payload=b"25 days"),
            progress=[common_pb2.PartitionProgress(partition=p, index_offset=offset) for p, offset in offsets.items()],
            log_id=self._world.log.log_id,
        )
        return await self.stub.Store(request, timeout=30, wait_for_ready=True)

    async def hits(self) -> bool:
        return (await self.lookup()).HasField("answer")

    async def misses(self) -> bool:
        return not await self.hits()

    async def _serves(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(self._output.read_text())
        # ready only once it has followed the log to its end
        response = await self.stub.GetStatistics(cache_pb2.GetStatisticsRequest(), timeout=30, wait_for_ready=True)
        return len(response.progress) == len(PARTITIONS)


@pytest.fixture
async def processes(valkey_world: CacheWorld, tmp_path: Path) -> AsyncIterator[tuple[Process, Process]]:
    one, two = (Process(valkey_world, tmp_path / f"{name}.log") for name in ("one", "two"))
    try:
        await asyncio.gather(one.start(), two.start())
        yield one, two
    finally:
        await one.close()
        await two.close()


async def test_question_asked_of_two_processes_is_worked_out_once(processes: tuple[Process, Process]) -> None:
    one, two = processes
    leader = await one.lookup()
    assert (await two.lookup()).lease_id == b""
    waiting = asyncio.create_task(two.lookup(wait_ms=20_000))
    assert (await one.store(leader.lease_id)).stored
    assert (await waiting).answer.payload == b"25 days"


async def test_killed_process_finds_its_answers_again_unless_they_changed(
    valkey_world: CacheWorld, valkey: Valkey, processes: tuple[Process, Process]
) -> None:
    one, two = processes
    leader = await one.lookup()
    assert (await one.store(leader.lease_id)).stored
    await until(two.hits, "announced, or found")
    one.kill()
    await one.start()
    await until(one.hits, "found at start")
    two.kill()
    await valkey_world.writer.change()
    await until(one.misses, "dropped by the one that runs")
    await two.start()
    assert await two.misses(), "never taken in by the one that was away"


async def test_process_drains_and_exits_when_asked(processes: tuple[Process, Process]) -> None:
    assert processes[0].terminate() == 0
