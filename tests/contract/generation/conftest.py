"""Every engine, alone and behind gRPC; for `openai` a small server in this process that speaks the protocol."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from headwater.generation.v1 import generation_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from services.generation.engines import Generator, open_engine
from services.generation.scheduler import Scheduler
from services.generation.servicer import GenerationServicer
from services.generation.settings import GenerationSettings
from serving.channels import open_channel
from serving.server import Registration, Server, ServerSettings

ENGINES = ["fake", "extractive", "openai", pytest.param("openvino", marks=pytest.mark.models)]
API_KEY = "a-key"


class ModelServer:
    """Echoes the last message word by word, as `chat.completion.chunk`s; stops when its caller hangs up."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.refusal: Response | None = None
        self.breaks_off = False
        self.sends_usage = True
        self.hung_up = asyncio.Event()
        self.url = ""

    async def complete(self, request: Request) -> Response:
        if self.refusal is not None:
            return self.refusal
        if request.headers.get("Authorization") != f"Bearer {API_KEY}":
            return JSONResponse({"error": {"message": "no such key"}}, 401)
        body = await request.json()
        self.bodies.append(body)
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        said = body["messages"][-1]["content"].split(" ")
        words = [word if place == 0 else f" {word}" for place, word in enumerate(said)]
        kept = words[: body["max_tokens"]]
        for stop in body.get("stop") or ():
            if stop in "".join(kept):
                words = kept = ["".join(kept).partition(stop)[0]]
        ended = False
        try:
            yield ": a comment\n\n"
            yield _event({"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]})
            for word in kept:
                await asyncio.sleep(0.001)
                yield _event({"choices": [{"delta": {"content": word}, "finish_reason": None}]})
            if self.breaks_off:
                ended = True
                return
            reason = "stop" if len(kept) == len(words) else "length"
            yield _event({"choices": [{"delta": {}, "finish_reason": reason}]})
            if self.sends_usage:
                usage = {
                    "prompt_tokens": 7,
                    "completion_tokens": len(kept),
                    "prompt_tokens_details": {"cached_tokens": 3},
                }
                yield _event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
            ended = True
        finally:
            if not ended:
                self.hung_up.set()


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps({'object': 'chat.completion.chunk', **chunk})}\n\n"


@asynccontextmanager
async def _running_model_server() -> AsyncIterator[ModelServer]:
    server = ModelServer()
    app = Starlette(routes=[Route("/v1/chat/completions", server.complete, methods=["POST"])])
    http = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        task = asyncio.create_task(http.serve(sockets=[listening]))
        yield server
        http.should_exit = True
        await task


@pytest.fixture
async def model_server() -> AsyncIterator[ModelServer]:
    """A model server of the test's own, on a free port."""
    async with _running_model_server() as server:
        yield server


def settings_of(kind: str, server: ModelServer, folder: Path) -> GenerationSettings:
    """Settings of an engine that answers slowly enough to be interrupted."""
    return GenerationSettings.model_validate(
        {
            "engine": kind,
            "openai": {"base_url": server.url, "model": "echo", "api_key": API_KEY},
            "openvino": {"models_folder": folder},
            "fake": {"token_delay_ms": 1},
        }
    )


@pytest_asyncio.fixture(params=ENGINES, scope="module", loop_scope="module")
async def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Generator]:
    """Each engine, opened once a module."""
    async with _running_model_server() as server:
        settings = settings_of(request.param, server, tmp_path_factory.mktemp("models"))
        async with open_engine(settings) as opened:
            yield opened


@asynccontextmanager
async def _served(engine: Generator) -> AsyncIterator[generation_pb2_grpc.GenerationServiceAsyncStub]:
    scheduler = Scheduler(engine, GenerationSettings().scheduling)
    registration = Registration(
        generation_pb2_grpc.add_GenerationServiceServicer_to_server,
        GenerationServicer(scheduler),
        "headwater.generation.v1.GenerationService",
    )
    async with AsyncExitStack() as stack:
        settings = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0.0, drain_seconds=1.0)
        server = await stack.enter_async_context(Server("generation", settings, registration))
        await server.serving()
        channel = await stack.enter_async_context(open_channel(server.address))
        yield generation_pb2_grpc.GenerationServiceStub(channel)


@pytest_asyncio.fixture(loop_scope="module")
async def stub(engine: Generator) -> AsyncIterator[generation_pb2_grpc.GenerationServiceAsyncStub]:
    """Each engine behind gRPC, in this process."""
    async with _served(engine) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def fake_stub() -> AsyncIterator[generation_pb2_grpc.GenerationServiceAsyncStub]:
    """The fake engine behind gRPC."""
    async with open_engine(GenerationSettings(engine="fake")) as engine, _served(engine) as served:
        yield served
