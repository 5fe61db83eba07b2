"""Every engine, alone and behind gRPC."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from headwater.embedding.v1 import embedding_pb2, embedding_pb2_grpc

from services.embedding.batcher import Batcher
from services.embedding.embedder import TextEmbedder
from services.embedding.engines import Embedder, open_engine
from services.embedding.servicer import registration
from services.embedding.settings import EmbeddingSettings
from serving.channels import open_channel
from serving.server import Server, ServerSettings

_TORCH = [pytest.mark.models, pytest.mark.torch]
REAL_ENGINES = [
    pytest.param(("openvino", "f32"), id="openvino-f32", marks=pytest.mark.models),
    pytest.param(("openvino", "auto"), id="openvino-auto", marks=pytest.mark.models),
    pytest.param(("sentence_transformers", "f32"), id="sentence-transformers", marks=_TORCH),
]
ENGINES = [pytest.param(("fake", "f32"), id="fake"), *REAL_ENGINES]


@pytest.fixture(scope="session")
def opened() -> Iterator[Callable[[str, str], Embedder]]:
    """Engines by name and precision, each loaded once."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def load(name: str, precision: str) -> Embedder:
            if name == "sentence_transformers":
                pytest.importorskip("sentence_transformers", reason="`make setup-torch` installs the reference engine")
            settings = EmbeddingSettings.model_validate({"engine": name, "precision": precision})
            return stack.enter_context(contextlib.closing(open_engine(settings)))

        yield load


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, opened: Callable[[str, str], Embedder]) -> Embedder:
    """Each engine."""
    return opened(*request.param)


@pytest.fixture(params=REAL_ENGINES)
def real_engine(request: pytest.FixtureRequest, opened: Callable[[str, str], Embedder]) -> Embedder:
    """Each engine that runs a model."""
    return opened(*request.param)


@dataclass
class Service:
    """The service over an engine, reached through gRPC."""

    stub: Any
    engine: Embedder

    async def embed(self, *texts: str, kind: int = embedding_pb2.TEXT_KIND_DOCUMENT, **more: Any) -> Any:
        return await self.stub.Embed(embedding_pb2.EmbedRequest(texts=texts, kind=kind, **more))

    @staticmethod
    def matrix(response: Any) -> np.ndarray:
        vectors = response.vectors
        return np.frombuffer(vectors.data, dtype="<f4").reshape(vectors.count, vectors.dimensions)


@pytest.fixture
async def service(engine: Embedder) -> AsyncIterator[Service]:
    settings = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0)
    async with Batcher(engine, max_batch_tokens=2048, max_queued_tokens=1 << 20) as batcher:
        embedder = TextEmbedder(engine.model, batcher, max_cached_queries=16)
        async with Server("embedding", settings, registration(embedder)) as server:
            await server.serving(embedder.warm_up)
            async with open_channel(server.address) as channel:
                yield Service(embedding_pb2_grpc.EmbeddingServiceStub(channel), engine)
