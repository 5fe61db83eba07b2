"""A server of its own for each test: one service, the four shapes of calls, whatever the test wants them to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from serving.channels import open_channel
from serving.server import Registration, Server, ServerSettings

SERVICE = "headwater.test.v1.EchoService"
SHAPES = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")

Behaviour = Callable[[bytes, Any], Awaitable[bytes]]


def registration(behave: Behaviour) -> Registration:
    """The four shapes over one behaviour: bytes in, bytes out."""

    async def joined(requests: AsyncIterator[bytes]) -> bytes:
        return b"".join([request async for request in requests])

    async def unary_unary(request: bytes, context: Any) -> bytes:
        return await behave(request, context)

    async def unary_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await behave(request, context)

    async def stream_unary(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await behave(await joined(requests), context)

    async def stream_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await behave(request, context)

    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary_unary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary),
        "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream),
    }

    def add(_: object, server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    return Registration(add, object(), SERVICE)


@dataclass
class Echo:
    """The server, and a channel to it as services open it."""

    server: Server
    channel: grpc.aio.Channel
    service: str = SERVICE

    async def call(self, shape: str, request: bytes = b"x", **options: Any) -> bytes:
        """Call one shape and take its first answer."""
        method = f"/{self.service}/{shape}"

        async def requests() -> AsyncIterator[bytes]:
            yield request

        match shape:
            case "UnaryUnary":
                return await self.channel.unary_unary(method)(request, **options)
            case "UnaryStream":
                return b"".join([part async for part in self.channel.unary_stream(method)(request, **options)])
            case "StreamUnary":
                return await self.channel.stream_unary(method)(requests(), **options)
            case _:
                return b"".join([part async for part in self.channel.stream_stream(method)(requests(), **options)])


@asynccontextmanager
async def _echoing(behave: Behaviour, **settings: Any) -> AsyncIterator[Echo]:
    own = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0, **settings)
    async with Server("echo", own, registration(behave)) as server:
        await server.serving()
        async with open_channel(server.address) as channel:
            yield Echo(server, channel)


@pytest.fixture
def echoing() -> Callable[..., AbstractAsyncContextManager[Echo]]:
    return _echoing


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    """Each of the four shapes of calls."""
    return str(request.param)


@pytest.fixture
def register() -> Callable[[Behaviour], Registration]:
    return registration
