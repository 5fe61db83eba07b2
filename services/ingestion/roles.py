"""The two roles, wired: nested context managers, so that the order of teardown is visible."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from pathlib import Path

from headwater.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc

from serving.eventlog import open_log
from serving.eventlog.catalog import Catalog
from serving.models import resolve_model
from serving.server import Registration, serve

from .budget import Budget
from .clients import EmbeddingClient, Shards
from .intake import Intake
from .parsers.pool import ParserLimits, ParserPool
from .processor import Processor
from .registry import Registry
from .servicer import IngestionServicer
from .settings import Settings
from .tenure import Tenure, TenureLimits
from .worker import Worker

_SERVICE = ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"].full_name


async def serve_api(settings: Settings) -> None:
    """Accept writes."""
    own = settings.ingestion
    async with (
        open_log(settings.log) as log,
        Catalog(log) as catalog,
        EmbeddingClient(own.embedding_address, embed_seconds=own.embed_seconds) as embedding,
    ):
        intake = Intake(log, catalog, append_seconds=own.append_seconds, catalog_seconds=own.catalog_seconds)
        servicer = IngestionServicer(
            intake,
            Registry(log, catalog, embedding),
            max_stream_writes=own.max_stream_writes,
            budget=Budget(own.max_writes, own.max_write_bytes),
        )
        registration = Registration(ingestion_pb2_grpc.add_IngestionServiceServicer_to_server, servicer, _SERVICE)
        await serve("ingestion-api", settings.server, registration, watch=[catalog.task])


async def serve_worker(settings: Settings) -> None:
    """Turn writes into what is searched."""
    own = settings.ingestion
    tokenizer_file = _tokenizer_file(own.tokenizer)
    parser_limits = ParserLimits(own.parser_memory_bytes, own.parser_cpu_seconds, own.parser_wall_seconds)
    tenure_limits = TenureLimits(
        own.max_partition_documents, own.max_partition_bytes, own.remembered_documents, own.compaction_seconds
    )
    async with (
        open_log(settings.log) as log,
        Catalog(log) as catalog,
        EmbeddingClient(own.embedding_address, embed_seconds=own.embed_seconds) as embedding,
        Shards(own.retrieval_addresses, log_id=log.log_id, partitions=log.partitions) as shards,
        ParserPool(own.parser_processes, parser_limits, tokenizer_file) as parsers,
    ):
        processor = Processor(
            parsers,
            embedding,
            tokenizer_fingerprint=_fingerprint(tokenizer_file),
            max_embed_calls=own.max_embed_calls,
        )

        def open_tenure(partition: int) -> Tenure:
            return Tenure(partition, log, catalog, processor, shards, tenure_limits)

        worker = Worker(log, open_tenure, member=own.member or socket.gethostname(), report_seconds=own.report_seconds)
        working = asyncio.create_task(worker.run())
        try:
            await serve("ingestion-worker", settings.server, warm_up=worker.joined, watch=[catalog.task, working])
            await worker.hand_over()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


def _tokenizer_file(reference: str) -> Path | None:
    if not reference:
        return None
    path = resolve_model(reference)
    return path / "tokenizer.json" if path.is_dir() else path


def _fingerprint(tokenizer_file: Path | None) -> str:
    return "" if tokenizer_file is None else hashlib.sha256(tokenizer_file.read_bytes()).hexdigest()
