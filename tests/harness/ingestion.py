"""Ingestion in one process, on a real log, with an embedder that a test can delay, fail and watch."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy as np
from headwater.log.v1 import log_pb2

from services.ingestion.documents import CollectionSpec, Content, Landed, Vectors, Write
from services.ingestion.intake import Intake
from services.ingestion.newest import NOTHING_SAID, Word
from services.ingestion.parsers.pool import ParserLimits, ParserPool
from services.ingestion.processor import Embedded, Processor
from services.ingestion.registry import Model, Registry, Wishes
from services.ingestion.tenure import Tenure, TenureLimits
from serving.eventlog import EventLog, LogSettings, Record, Topic, open_log
from serving.eventlog.catalog import Catalog
from serving.eventlog.keys import partition_of
from tests.harness.eventlog import read_all

DIMENSIONS = 8
FINGERPRINT = "hashes-8"
LIMITS = TenureLimits(max_documents=64, max_bytes=1 << 24, remembered_documents=1000, compaction_seconds=6 * 86_400)


class HashEmbedder:
    """Vectors that depend on the text alone. `before` runs first, and may wait or raise."""

    def __init__(self) -> None:
        self.asked = 0
        self.texts: list[str] = []
        self.before: Callable[[Sequence[str]], AsyncIterator[None]] | None = None

    async def model(self) -> Model:
        return Model(FINGERPRINT, 256)

    async def embed(self, texts: Sequence[str], fingerprint: str) -> Embedded:
        assert fingerprint == FINGERPRINT
        self.asked += 1
        if self.before is not None:
            async for _ in self.before(texts):
                pass
        self.texts += texts
        data = b"".join(vector_of(text) for text in texts)
        return Embedded(Vectors(data, DIMENSIONS, len(texts)), 0)


def vector_of(text: str) -> bytes:
    numbers = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=DIMENSIONS).digest(), np.uint8)
    return numbers.astype("<f4").tobytes()


class Shard:
    """A retrieval shard that says what it is told to."""

    def __init__(self) -> None:
        self.word = NOTHING_SAID
        self.asked: list[str] = []

    async def ask(self, partition: int, tenant: str, collection_id: str, document_ids: Sequence[str]) -> Word:
        self.asked += document_ids
        return self.word


@dataclass
class Bench:
    """A log with a collection, its API, and what tenures are made of."""

    log: EventLog
    catalog: Catalog
    intake: Intake
    registry: Registry
    embedder: HashEmbedder
    shard: Shard
    parsers: ParserPool
    collection: CollectionSpec
    limits: TenureLimits = field(default=LIMITS)

    async def put(self, document_id: str, text: str = "text", **changes: object) -> Landed:
        content = Content(text.encode(), "text/plain", "", {}, ())
        return await self.intake.accept(self.write(document_id, replace(content, **changes)))  # type: ignore[arg-type]

    async def delete(self, document_id: str) -> Landed:
        return await self.intake.accept(self.write(document_id, None))

    def write(self, document_id: str, content: Content | None) -> Write:
        return Write(self.collection.tenant, self.collection.collection_id, document_id, os.urandom(16), 0, 0, content)

    def partition(self, document_id: str) -> int:
        return partition_of(
            self.collection.collection_id,
            document_id,
            spread=self.collection.spread,
            partitions=self.log.partitions,
        )

    def tenure(self, partition: int) -> Tenure:
        processor = Processor(self.parsers, self.embedder, tokenizer_fingerprint="", max_embed_calls=100)
        return Tenure(partition, self.log, self.catalog, processor, self.shard, self.limits)

    @asynccontextmanager
    async def owner(self, partition: int) -> AsyncIterator[Owner]:
        """Own the partition meanwhile."""
        tenure = self.tenure(partition)
        task = asyncio.create_task(tenure.run())
        try:
            yield Owner(tenure, task)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def index(self, partition: int) -> list[log_pb2.IndexRecord]:
        """The partition's index records, without nulls."""
        records = await read_all(self.log, Topic.INDEX, partition)
        return [log_pb2.IndexRecord.FromString(record.value) for record in records if record.value is not None]

    async def nulls(self, topic: Topic, partition: int) -> list[Record]:
        return [record for record in await read_all(self.log, topic, partition) if record.value is None]


@dataclass(frozen=True)
class Owner:
    """A running tenure."""

    tenure: Tenure
    task: asyncio.Task[None]

    async def done(self, landed: Landed, timeout_seconds: float = 30) -> None:
        """Return once the write is in the index; raises what ended the tenure instead."""
        await until(lambda: self.task.done() or self.tenure.next_offset > landed.offset, timeout_seconds)
        if self.task.done():
            self.task.result()


async def until(holds: Callable[[], bool], timeout_seconds: float = 30) -> None:
    """Return once it holds."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            if holds():
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def bench(settings: LogSettings) -> AsyncIterator[Bench]:
    """On an initialised log, with a collection."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(settings))
        catalog = await stack.enter_async_context(Catalog(log))
        parsers = await stack.enter_async_context(ParserPool(2, ParserLimits(1 << 31, 20, 60), None))
        embedder = HashEmbedder()
        registry = Registry(log, catalog, embedder)
        intake = Intake(log, catalog, append_seconds=5, catalog_seconds=5)
        collection, offset = await registry.create("tenant", "documents", Wishes("", 0, 0, 0))
        await catalog.wait_for(offset, 10)
        yield Bench(log, catalog, intake, registry, embedder, Shard(), parsers, collection)
