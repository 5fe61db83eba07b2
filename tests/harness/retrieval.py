"""A retrieval shard under a test's control: the test writes the index log; shards run here or as processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw
import grpc
import numpy as np
import numpy.typing as npt
from headwater.common.v1 import common_pb2
from headwater.log.v1 import log_pb2
from headwater.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc

from services.retrieval.answerer import Answerer
from services.retrieval.batcher import Batcher
from services.retrieval.follower import Follower
from services.retrieval.publication import Publication
from services.retrieval.servicer import RetrievalServicer
from services.retrieval.settings import RetrievalSettings
from serving.eventlog import EventLog, LogSettings, OwnedPartition, Topic, open_log
from serving.eventlog.keys import PROGRESS_KEY, index_key, partition_of, partitions_of
from serving.server import Registration, Server, ServerSettings

Vectors = npt.NDArray[np.float32]
COLLECTION = "c0ffee" + "0" * 26
SPREAD = 4


def pb_vectors(vectors: Vectors) -> common_pb2.Vectors:
    """(count, dimensions) as they travel."""
    data = np.ascontiguousarray(vectors, "<f4").tobytes()
    return common_pb2.Vectors(data=data, dimensions=vectors.shape[1], count=vectors.shape[0])


class IndexWriter:
    """Writes the index log as the ingestion workers do. Documents offsets are counted here, from 1. Close it."""

    def __init__(self, log: EventLog, owned: list[OwnedPartition]) -> None:
        self.log = log
        self._owned = owned
        self._documents_offsets = [0] * len(owned)

    @classmethod
    async def open(cls, log: EventLog) -> Self:
        """Take every partition; goes on from the offsets found there."""
        writer = cls(log, [await log.take(Topic.INDEX, partition) for partition in range(log.partitions)])
        for partition, owned in enumerate(writer._owned):
            if owned.last is not None and owned.last.value is not None:
                last = log_pb2.IndexRecord.FromString(owned.last.value)
                writer._documents_offsets[partition] = last.documents_offset
        return writer

    async def put(
        self,
        document_id: str,
        vectors: Vectors,
        *,
        texts: Sequence[str] = (),
        groups: Sequence[str] = (),
        title: str = "",
        metadata: Mapping[str, common_pb2.MetadataValue] | None = None,
        tenant: str = "acme",
        collection_id: str = COLLECTION,
        fingerprint: str = "model-1",
        held: bool = False,
    ) -> common_pb2.WriteToken:
        """Append an indexed document, one chunk a vector; the token that sees it."""
        texts = texts or [f"{document_id} {number}" for number in range(len(vectors))]
        indexed = log_pb2.IndexedDocument(
            title=title,
            metadata=metadata,
            access_groups=groups,
            content_hash=b"hash",
            embedding_fingerprint=fingerprint,
            characters=sum(map(len, texts)),
            chunks=[log_pb2.Chunk(text=text, start=at, end=at + len(text)) for at, text in enumerate(texts)],
            vectors=pb_vectors(vectors),
        )
        record = log_pb2.IndexRecord(indexed=indexed, progress_held=held)
        return await self.append(record, document_id, tenant=tenant, collection_id=collection_id)

    async def delete(self, document_id: str, *, collection_id: str = COLLECTION) -> common_pb2.WriteToken:
        """Append a deletion."""
        record = log_pb2.IndexRecord(deleted=log_pb2.Deletion())
        return await self.append(record, document_id, collection_id=collection_id)

    async def reject(self, document_id: str, reason: str = "PDF_ENCRYPTED") -> common_pb2.WriteToken:
        """Append a rejection."""
        return await self.append(log_pb2.IndexRecord(rejected=log_pb2.Rejection(reason=reason)), document_id)

    async def append(
        self, record: log_pb2.IndexRecord, document_id: str, *, tenant: str = "acme", collection_id: str = COLLECTION
    ) -> common_pb2.WriteToken:
        """Append a document's record under the next documents offset of its partition."""
        partition = partition_of(collection_id, document_id, spread=SPREAD, partitions=self.log.partitions)
        record.tenant, record.collection_id, record.document_id = tenant, collection_id, document_id
        record.generation = 1
        return await self._append(partition, index_key(collection_id, 1, document_id), record)

    async def progress(self, partition: int) -> common_pb2.WriteToken:
        """Append a progress record that covers one more documents offset."""
        return await self._append(partition, PROGRESS_KEY, log_pb2.IndexRecord(progress=log_pb2.Progress()))

    async def append_null(self, partition: int, key: bytes) -> None:
        """Append a null, as for a key of a retired collection."""
        await self._owned[partition].append([(key, None)])

    async def _append(self, partition: int, key: bytes, record: log_pb2.IndexRecord) -> common_pb2.WriteToken:
        record.schema_version = record.schema_version or 1
        offset = self._documents_offsets[partition] + 1
        record.documents_offset = record.documents_offset or offset
        record.write_id = record.documents_offset.to_bytes(16, "little")
        await self._owned[partition].append([(key, record.SerializeToString())])
        self._documents_offsets[partition] = record.documents_offset
        return common_pb2.WriteToken(
            log_id=self.log.log_id, documents_offsets={partition: self._documents_offsets[partition]}
        )

    async def close(self) -> None:
        """Let go of the partitions."""
        for owned in self._owned:
            await owned.close()

    def token(self) -> common_pb2.WriteToken:
        """One that sees everything so far."""
        offsets = {partition: offset for partition, offset in enumerate(self._documents_offsets) if offset}
        return common_pb2.WriteToken(log_id=self.log.log_id, documents_offsets=offsets)


async def retire(log: EventLog, collection_id: str = COLLECTION) -> None:
    """Append to the collections that this one is no more."""
    record = log_pb2.CollectionRecord(
        schema_version=1, collection=common_pb2.Collection(collection_id=collection_id), retired=True
    )
    owned = await log.take(Topic.COLLECTIONS, 0)
    await owned.append([(collection_id.encode(), record.SerializeToString())])
    await owned.close()


def search_request(
    vectors: Vectors,
    *,
    k: int = 10,
    tenant: str = "acme",
    groups: Sequence[str] = (),
    after: common_pb2.WriteToken | None = None,
    collection_id: str = COLLECTION,
    partitions: Sequence[int] | None = None,
    log_partitions: int = 4,
    **more: Any,
) -> retrieval_pb2.SearchRequest:
    """A search in all partitions of the collection, unless some are named."""
    if partitions is None:
        partitions = partitions_of(collection_id, spread=SPREAD, partitions=log_partitions)
    return retrieval_pb2.SearchRequest(
        scope=common_pb2.Scope(tenant=tenant, collection_id=collection_id, access_groups=groups),
        vectors=pb_vectors(vectors),
        k=k,
        partitions=partitions,
        after=after,
        **more,
    )


class LocalShard:
    """A shard in this process, with its server on a free port."""

    def __init__(self, settings: RetrievalSettings, log: LogSettings) -> None:
        self.settings = settings
        self._log = log
        self._stack = AsyncExitStack()
        self.publication = Publication()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.follower = await stack.enter_async_context(Follower(self.settings, self._log, self.publication))
            self.batcher = await stack.enter_async_context(Batcher(self.publication, self.settings))
            self.answerer = Answerer(self.publication, self.batcher, self.follower)
            registration = Registration(
                retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server,
                RetrievalServicer(self.answerer, self.settings),
                "headwater.retrieval.v1.RetrievalService",
            )
            settings = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0, drain_seconds=0)
            self.server = await stack.enter_async_context(Server("retrieval", settings, registration))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(self.server.address))
            self.stub: retrieval_pb2_grpc.RetrievalServiceAsyncStub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            following = asyncio.create_task(self.server.follow(self.publication.readiness()))
            stack.callback(following.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def ready(self) -> Self:
        """Wait until it answers; raises what made it stop."""
        waiting = asyncio.create_task(self._answers())
        done, _ = await asyncio.wait({waiting, self.follower.task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done:
            await task
        return self

    async def _answers(self) -> None:
        async for ready in self.publication.readiness():
            if ready:
                return


class ShardProcess:
    """A shard as a real process. Leaving the context kills it."""

    def __init__(self, settings: RetrievalSettings, log: LogSettings, port: int, out: Path) -> None:
        self._environment = {
            "HEADWATER_LOG__KIND": log.kind,
            "HEADWATER_LOG__PATH": str(log.path),
            "HEADWATER_LOG__BOOTSTRAP_SERVERS": log.bootstrap_servers,
            "HEADWATER_LOG__TOPIC_PREFIX": log.topic_prefix,
            "HEADWATER_SERVER__GRPC_PORT": str(port),
            "HEADWATER_SERVER__METRICS_PORT": "0",
            "HEADWATER_SERVER__DRAIN_PAUSE_SECONDS": "0",
            "HEADWATER_RETRIEVAL__STATE_DIR": str(settings.state_dir),
            "HEADWATER_RETRIEVAL__SHARD": str(settings.shard),
            "HEADWATER_RETRIEVAL__SHARDS": str(settings.shards),
            "HEADWATER_RETRIEVAL__MAX_BATCH_RECORDS": str(settings.max_batch_records),
        }
        self.address = f"127.0.0.1:{port}"
        self._out = out
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self, crash_point: str = "") -> None:
        """Start it; it dies at the crash point, if one is named."""
        with self._out.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.retrieval"],
                env=os.environ | self._environment | {"HEADWATER_SERVER__CRASH_POINT": crash_point},
                stdout=out,
                stderr=out,
            )

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.send_signal(how)
            self.died()

    @property
    def pid(self) -> int:
        """Process id, while it runs."""
        assert self._process is not None
        return self._process.pid

    def died(self) -> int:
        """Wait for its end; the exit status."""
        assert self._process is not None
        status = self._process.wait(timeout=60)
        self._process = None
        return status

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[retrieval_pb2_grpc.RetrievalServiceAsyncStub]:
        """Calls to it, once it answers."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub: retrieval_pb2_grpc.RetrievalServiceAsyncStub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            while True:
                try:
                    status = await stub.GetStatus(retrieval_pb2.GetStatusRequest(), wait_for_ready=True, timeout=60)
                except grpc.aio.AioRpcError:
                    if self._process is None or self._process.poll() is not None:
                        raise
                    continue
                if status.ready:
                    break
            yield stub


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nothing can be awaited for."""
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def dump(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that a shard stores, but the ids that it gave."""
    with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        return {
            "progress": connection.execute("SELECT * FROM progress ORDER BY partition").fetchall(),
            "documents": [
                row[1:] for row in connection.execute("SELECT * FROM documents ORDER BY collection_id, document_id")
            ],
            "chunks": connection.execute(
                'SELECT collection_id, tenant, document_id, ordinal, text, start, "end", vector FROM chunks'
                " JOIN documents ON documents.id = chunks.document"
                " ORDER BY collection_id, document_id, ordinal"
            ).fetchall(),
        }


async def fill(
    log_settings: LogSettings, vectors: Vectors, *, chunks_a_document: int = 10, text: str = "text " * 40
) -> None:
    """Put many vectors into the index log quickly, in one transaction a thousand documents or so a partition."""
    async with open_log(log_settings) as log:
        by_partition: dict[int, list[tuple[bytes, bytes | None]]] = {}
        offsets: dict[int, int] = {}
        for number, start in enumerate(range(0, len(vectors), chunks_a_document)):
            rows = vectors[start : start + chunks_a_document]
            document_id = f"d{number:08}"
            partition = partition_of(COLLECTION, document_id, spread=SPREAD, partitions=log.partitions)
            offsets[partition] = offsets.get(partition, 0) + 1
            record = log_pb2.IndexRecord(
                schema_version=1,
                tenant="acme",
                collection_id=COLLECTION,
                generation=1,
                document_id=document_id,
                documents_offset=offsets[partition],
                write_id=bytes(16),
                indexed=log_pb2.IndexedDocument(
                    embedding_fingerprint="model-1",
                    chunks=[log_pb2.Chunk(text=text, end=len(text))] * len(rows),
                    vectors=pb_vectors(rows),
                ),
            )
            by_partition.setdefault(partition, []).append(
                (index_key(COLLECTION, 1, document_id), record.SerializeToString())
            )
        for partition, records in by_partition.items():
            owned = await log.take(Topic.INDEX, partition)
            for start in range(0, len(records), 1000):
                await owned.append(records[start : start + 1000])
