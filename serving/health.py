"""Whether this process lives and is ready: grpc.health.v1, and a page over HTTP with /metrics, /live and /ready.

Ready means warmed up. Neither page asks a dependency, or one outage would drain every server that depends on it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator

import uvicorn
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]  # the stubs lack it
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


class Health:
    """One readiness, told in both ways."""

    def __init__(self, services: Iterable[str]) -> None:
        self.servicer = health_aio.HealthServicer()
        self.ready = False
        self._services = ("", *services)

    async def not_serving(self) -> None:
        """Alive, not ready: before the warm-up, or while it cannot answer."""
        self.ready = False
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def serving(self) -> None:
        """Ready."""
        self.ready = True
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def shutting_down(self) -> None:
        """For good: nothing makes it ready again."""
        self.ready = False
        await self.servicer.enter_graceful_shutdown()

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in self._services:
            await self.servicer.set(service, status)


class Pages(uvicorn.Server):
    """The HTTP page, run in the loop of the server it belongs to, which keeps the signals to itself."""

    def __init__(self, health: Health) -> None:
        async def metrics(_: Request) -> Response:
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        async def live(_: Request) -> Response:
            return PlainTextResponse("live\n")

        async def ready(_: Request) -> Response:
            return PlainTextResponse(*(("ready\n", 200) if health.ready else ("not ready\n", 503)))

        routes = [Route("/metrics", metrics), Route("/live", live), Route("/ready", ready)]
        super().__init__(
            uvicorn.Config(
                Starlette(routes=routes),
                lifespan="off",
                ws="none",
                loop="none",
                log_config=None,
                log_level="warning",
                access_log=False,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve_on(self, listening: socket.socket) -> None:
        """Answer until `should_exit` is set."""
        await self.serve(sockets=[listening])
