"""The gateway put together: its parts, and the channels to the services behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from serving.channels import open_channel
from serving.eventlog import EventLog
from serving.eventlog.catalog import Catalog

from .admission import Admission
from .answer_cache import AnswerCache
from .answerer import Answerer
from .authentication import KeyFile, OpenDoor
from .clients.cache import Cache
from .clients.embedding import Embedding
from .clients.generation import Generation
from .clients.health import HealthProbe
from .clients.ingestion import Ingestion
from .clients.retrieval import RetrievalShard
from .collection_desk import CollectionDesk
from .documents import Documents, DocumentShard
from .embedder import Embedder
from .models import ModelDirectory
from .overview import Probe
from .resolver import Resolver
from .retriever import Fanout, Retriever, Shard
from .searching import Searching
from .servicer import Desk, GatewayServicer
from .settings import GatewaySettings
from .tokens import TokenCodec
from .writer import Writer


@asynccontextmanager
async def open_gateway(
    settings: GatewaySettings, authenticator: OpenDoor | KeyFile, log: EventLog, catalog: Catalog
) -> AsyncIterator[GatewayServicer]:
    """The servicer, with its channels open."""
    async with AsyncExitStack() as stack:

        async def channel(address: str) -> grpc.aio.Channel:
            return await stack.enter_async_context(open_channel(address))

        channels = [await channel(address) for address in settings.retrieval_addresses]
        shards = [RetrievalShard(one) for one in channels]
        embedding_channel = await channel(settings.embedding_address)
        generation_channel = await channel(settings.generation_address)
        ingestion_channel = await channel(settings.ingestion_address)
        embedding = Embedding(embedding_channel, settings.embedding_timeout_ms / 1000)
        generation = Generation(generation_channel)
        ingestion = Ingestion(ingestion_channel)
        probes: list[Probe] = [
            HealthProbe("ingestion", ingestion_channel),
            HealthProbe("embedding", embedding_channel, embedding.detail),
            *(HealthProbe(f"retrieval/{n}", channels[n], shard.detail) for n, shard in enumerate(shards)),
            HealthProbe("generation", generation_channel, generation.detail),
        ]
        cache: Cache | None = None
        if settings.cache_address:
            cache_channel = await channel(settings.cache_address)
            cache = Cache(cache_channel)
            probes.append(HealthProbe("cache", cache_channel, cache.detail))

        resolver = Resolver(catalog, log.partitions, settings)
        embedder = Embedder(embedding, settings)
        retriever = Retriever(Fanout[Shard](shards, log.partitions, settings), log.log_id)
        documents = Documents(resolver, Fanout[DocumentShard](shards, log.partitions, settings), log.partitions)
        models = ModelDirectory(generation, settings)
        stack.push_async_callback(models.close)
        answers = AnswerCache(cache, settings)
        stack.push_async_callback(answers.close)
        admission = Admission(settings)
        desk = Desk(
            tokens=TokenCodec(log.log_id, log.partitions),
            answerer=Answerer(
                resolver, answers, embedder, retriever, generation, models, admission, settings, log.log_id
            ),
            searching=Searching(resolver, embedder, embedding, retriever),
            writer=Writer(resolver, ingestion, settings),
            documents=documents,
            collections=CollectionDesk(resolver, catalog, ingestion, documents),
            probes=probes,
            status_timeout_seconds=settings.status_timeout_ms / 1000,
        )
        yield GatewayServicer(authenticator, admission, desk)
