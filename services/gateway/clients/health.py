"""Any service's health, by grpc.health.v1."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.errors import DeadlineExceeded

from . import translated


class HealthProbe:
    """Asks one service how it is. `detail` asks what it runs, where it can say."""

    def __init__(
        self, name: str, channel: grpc.aio.Channel, detail: Callable[[], Awaitable[str]] | None = None
    ) -> None:
        self.name = name
        self._stub = health_pb2_grpc.HealthStub(channel)
        self._detail = detail

    async def ready(self, timeout_seconds: float) -> bool:
        with translated():
            response = await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def detail(self, timeout_seconds: float) -> str:
        if self._detail is None:
            return "serving"
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._detail()
        except TimeoutError as error:
            raise DeadlineExceeded("it did not answer in time") from error
