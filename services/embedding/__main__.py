"""`python -m services.embedding`."""

from __future__ import annotations

import asyncio
import contextlib

from services.embedding.batcher import Batcher
from services.embedding.embedder import TextEmbedder
from services.embedding.engines import open_engine
from services.embedding.servicer import registration
from services.embedding.settings import Settings
from serving.server import run, serve


async def main(settings: Settings) -> None:
    """Load the model, serve it."""
    own = settings.embedding
    with contextlib.closing(await asyncio.to_thread(open_engine, own)) as engine:
        async with Batcher(
            engine, max_batch_tokens=own.max_batch_tokens, max_queued_tokens=own.max_queued_tokens
        ) as batcher:
            embedder = TextEmbedder(engine.model, batcher, max_cached_queries=own.max_cached_queries)
            await serve(
                "embedding", settings.server, registration(embedder), warm_up=embedder.warm_up, watch=[batcher.task]
            )


if __name__ == "__main__":
    run("embedding", Settings, main)
