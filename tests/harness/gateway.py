"""A gateway on a real log, over gRPC, with scripted services behind it: each behaves until it is told otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import xxhash
from grpc_health.v1 import health_pb2_grpc
from headwater.cache.v1 import cache_pb2, cache_pb2_grpc
from headwater.common.v1 import common_pb2
from headwater.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from headwater.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from headwater.generation.v1 import generation_pb2, generation_pb2_grpc
from headwater.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from headwater.log.v1 import log_pb2
from headwater.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc

from services.gateway.authentication import open_authenticator
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import open_gateway
from serving.errors import HeadwaterError, NotFound
from serving.eventlog import EventLog, LogSettings, Topic, init_log, open_log
from serving.eventlog.catalog import Catalog
from serving.eventlog.keys import partition_of
from serving.health import Health
from serving.interceptors import server_interceptors
from serving.limits import MAX_MESSAGE_BYTES

PARTITIONS = 4
DIMENSIONS = 64
FINGERPRINT = "words-64"
Context = Any


def embed(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Texts that share words are near each other."""
    row = np.zeros(DIMENSIONS, dtype=np.float32)
    for word in text.lower().replace("?", " ").replace(".", " ").split():
        row[xxhash.xxh3_64_intdigest(word.encode()) % DIMENSIONS] += 1
    return row / max(float(np.linalg.norm(row)), 1e-9)


@dataclass
class Scripted:
    """A service that can be told to fail, or to take its time."""

    error: HeadwaterError | None = None
    """Raised by every call."""
    gate: asyncio.Event | None = None
    """Waited for by every call, when there is one."""
    calls: int = 0
    cancelled: int = 0

    async def begin(self) -> None:
        self.calls += 1
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error


class ScriptedEmbedding(Scripted, embedding_pb2_grpc.EmbeddingServiceServicer):
    error_for_documents: HeadwaterError | None = None
    texts: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.texts = []

    async def Embed(self, request: embedding_pb2.EmbedRequest, context: Context) -> embedding_pb2.EmbedResponse:
        await self.begin()
        if request.kind == embedding_pb2.TEXT_KIND_DOCUMENT and self.error_for_documents is not None:
            raise self.error_for_documents
        self.texts += request.texts
        rows = np.stack([embed(text) for text in request.texts])
        vectors = common_pb2.Vectors(data=rows.tobytes(), dimensions=DIMENSIONS, count=len(rows))
        return embedding_pb2.EmbedResponse(vectors=vectors, fingerprint=FINGERPRINT)

    async def GetModel(
        self, request: embedding_pb2.GetModelRequest, context: Context
    ) -> embedding_pb2.GetModelResponse:
        await self.begin()
        return embedding_pb2.GetModelResponse(
            fingerprint=FINGERPRINT, name="words", dimensions=DIMENSIONS, engine="scripted"
        )


@dataclass(frozen=True)
class Stored:
    """A document as a shard holds it."""

    status: common_pb2.DocumentStatus
    hits: tuple[common_pb2.Hit, ...] = ()
    vectors: tuple[np.ndarray[Any, np.dtype[np.float32]], ...] = ()


class ScriptedShard(Scripted, retrieval_pb2_grpc.RetrievalServiceServicer):
    def __init__(self, number: int, shards: int, log_id: bytes) -> None:
        super().__init__()
        self.number = number
        self.shards = shards
        self.log_id = log_id
        self.documents: dict[tuple[str, str], dict[str, Stored]] = {}
        self.progress = {p: 1 for p in range(PARTITIONS) if p * shards // PARTITIONS == number}
        self._moved = asyncio.Condition()

    async def apply(self, scope: common_pb2.Scope, stored: Stored) -> None:
        status = stored.status
        async with self._moved:
            self.documents.setdefault((scope.tenant, scope.collection_id), {})[status.document_id] = stored
            self.progress[status.partition] = max(self.progress[status.partition], status.version + 1)
            self._moved.notify_all()

    async def Search(self, request: retrieval_pb2.SearchRequest, context: Context) -> retrieval_pb2.SearchResponse:
        await self.begin()
        await self._wait(request.after)
        queries = np.frombuffer(request.vectors.data, dtype="<f4").reshape(request.vectors.count, -1)
        results = []
        for query in queries:
            hits = []
            for stored in self._visible(request.scope):
                if stored.status.partition in request.partitions:
                    for hit, vector in zip(stored.hits, stored.vectors, strict=True):
                        scored = common_pb2.Hit()
                        scored.CopyFrom(hit)
                        scored.score = float(query @ vector)
                        hits.append(scored)
            hits.sort(key=lambda hit: (-hit.score, hit.document_id, hit.chunk))
            results.append(retrieval_pb2.QueryHits(dense=hits[: request.k]))
        return retrieval_pb2.SearchResponse(
            results=results, progress=self._progress(request.partitions), log_id=self.log_id
        )

    async def GetDocuments(
        self, request: retrieval_pb2.GetDocumentsRequest, context: Context
    ) -> retrieval_pb2.GetDocumentsResponse:
        await self.begin()
        await self._wait(request.after)
        visible = {stored.status.document_id: stored.status for stored in self._visible(request.scope)}
        unknown = common_pb2.DOCUMENT_STATE_UNKNOWN
        return retrieval_pb2.GetDocumentsResponse(
            documents=[
                visible.get(one, common_pb2.DocumentStatus(document_id=one, state=unknown))
                for one in request.document_ids
            ],
            log_id=self.log_id,
        )

    async def ListDocuments(
        self, request: retrieval_pb2.ListDocumentsRequest, context: Context
    ) -> retrieval_pb2.ListDocumentsResponse:
        await self.begin()
        await self._wait(request.after)
        listed = {common_pb2.DOCUMENT_STATE_INDEXED, common_pb2.DOCUMENT_STATE_REJECTED}
        wanted = {request.state} if request.state else listed
        found = sorted(
            (
                stored.status
                for stored in self._visible(request.scope)
                if stored.status.state in wanted and stored.status.document_id > request.after_document_id
            ),
            key=lambda status: status.document_id,
        )
        return retrieval_pb2.ListDocumentsResponse(documents=found[: request.page_size])

    async def GetStatus(
        self, request: retrieval_pb2.GetStatusRequest, context: Context
    ) -> retrieval_pb2.GetStatusResponse:
        await self.begin()
        states = [stored.status for stored in self._visible(request.scope)]
        indexed = [status for status in states if status.state == common_pb2.DOCUMENT_STATE_INDEXED]
        return retrieval_pb2.GetStatusResponse(
            shard=self.number,
            shards=self.shards,
            partitions=PARTITIONS,
            progress=self._progress(self.progress),
            documents=len(indexed),
            rejected=sum(status.state == common_pb2.DOCUMENT_STATE_REJECTED for status in states),
            chunks=sum(status.chunks for status in indexed),
            log_id=self.log_id,
            ready=True,
        )

    def _visible(self, scope: common_pb2.Scope) -> list[Stored]:
        held = self.documents.get((scope.tenant, scope.collection_id), {})
        groups = set(scope.access_groups)
        return [one for one in held.values() if not one.status.access_groups or groups & set(one.status.access_groups)]

    def _progress(self, partitions: Any) -> list[common_pb2.PartitionProgress]:
        return [
            common_pb2.PartitionProgress(partition=p, documents_offset=self.progress[p], index_offset=self.progress[p])
            for p in partitions
            if p in self.progress
        ]

    async def _wait(self, after: common_pb2.WriteToken) -> None:
        wanted = {p: offset for p, offset in after.documents_offsets.items() if p in self.progress}
        async with self._moved:
            await self._moved.wait_for(lambda: all(self.progress[p] > offset for p, offset in wanted.items()))


class ScriptedGeneration(Scripted, generation_pb2_grpc.GenerationServiceServicer):
    """Says what it is told to, in the pieces it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.says: list[str] = []
        self.error_after_pieces: HeadwaterError | None = None
        self.hangs_after_pieces = False
        self.finish_reason = generation_pb2.FINISH_REASON_STOP
        self.prompt_style = generation_pb2.PROMPT_STYLE_PASSAGES
        self.requests: list[generation_pb2.GenerateRequest] = []
        self.spoke = asyncio.Event()

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        await self.begin()
        self.requests.append(request)
        for piece in self.says:
            yield generation_pb2.GenerateResponse(delta=generation_pb2.Delta(text=piece, tokens=1))
        self.spoke.set()
        if self.error_after_pieces is not None:
            raise self.error_after_pieces
        if self.hangs_after_pieces:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        usage = common_pb2.Usage(prompt_tokens=100, completion_tokens=len(self.says))
        timing = common_pb2.StageTiming(stage="first_token", milliseconds=1)
        yield generation_pb2.GenerateResponse(
            done=generation_pb2.Done(
                finish_reason=self.finish_reason, usage=usage, timings=[timing], model=request.model or "scripted"
            )
        )

    async def ListModels(
        self, request: generation_pb2.ListModelsRequest, context: Context
    ) -> generation_pb2.ListModelsResponse:
        if self.error is not None:
            raise self.error
        model = generation_pb2.Model(
            name="scripted", engine="scripted", context_tokens=8192, prompt_style=self.prompt_style
        )
        return generation_pb2.ListModelsResponse(models=[model])


class ScriptedCache(Scripted, cache_pb2_grpc.CacheServiceServicer):
    """Keeps answers until `forget`; leases as the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[bytes, cache_pb2.StoreRequest] = {}
        self.leases: dict[bytes, bytes] = {}
        self.miss_reason = cache_pb2.MISS_REASON_ABSENT
        self.lookups: list[cache_pb2.LookupRequest] = []
        self.released = 0
        self.loses_replies = False
        """Lookups are worked on, and never answered."""
        self.background_seconds = 0.0
        """What Store and Release take."""
        self.changed = asyncio.Condition()

    async def Lookup(self, request: cache_pb2.LookupRequest, context: Context) -> cache_pb2.LookupResponse:
        await self.begin()
        self.lookups.append(request)
        key = request.key.SerializeToString(deterministic=True)
        if self.miss_reason != cache_pb2.MISS_REASON_ABSENT:
            return cache_pb2.LookupResponse(miss_reason=self.miss_reason)
        waited = False
        async with self.changed:
            if key not in self.entries and key in self.leases and request.wait_ms:
                waited = True
                settled = self.changed.wait_for(lambda: key in self.entries or key not in self.leases)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(settled, request.wait_ms / 1000)
            if key in self.entries:
                return cache_pb2.LookupResponse(answer=self.entries[key].answer, waited=waited)
            lease = b"" if key in self.leases else self.leases.setdefault(key, request.lease_id)
        if self.loses_replies:
            await asyncio.Event().wait()
        reason = cache_pb2.MISS_REASON_WAITED if waited and not lease else cache_pb2.MISS_REASON_ABSENT
        return cache_pb2.LookupResponse(lease_id=lease, miss_reason=reason)

    async def Store(self, request: cache_pb2.StoreRequest, context: Context) -> cache_pb2.StoreResponse:
        await self.begin()
        await asyncio.sleep(self.background_seconds)
        key = request.key.SerializeToString(deterministic=True)
        async with self.changed:
            if self.leases.pop(key, b"") != request.lease_id:
                return cache_pb2.StoreResponse(reason="the lease was lost")
            self.entries[key] = request
            self.changed.notify_all()
        return cache_pb2.StoreResponse(stored=True)

    async def Release(self, request: cache_pb2.ReleaseRequest, context: Context) -> cache_pb2.ReleaseResponse:
        await asyncio.sleep(self.background_seconds)
        key = request.key.SerializeToString(deterministic=True)
        async with self.changed:
            if self.leases.get(key) == request.lease_id:
                del self.leases[key]
            self.released += 1
            self.changed.notify_all()
        return cache_pb2.ReleaseResponse()

    async def GetStatistics(
        self, request: cache_pb2.GetStatisticsRequest, context: Context
    ) -> cache_pb2.GetStatisticsResponse:
        await self.begin()
        return cache_pb2.GetStatisticsResponse(entries=len(self.entries))


class ScriptedIngestion(Scripted, ingestion_pb2_grpc.IngestionServiceServicer):
    """Applies what it acknowledges to the shards at once, unless told to hold it back."""

    def __init__(self, log: EventLog, shards: list[ScriptedShard]) -> None:
        super().__init__()
        self._log = log
        self._shards = shards
        self._offsets = dict.fromkeys(range(PARTITIONS), 0)
        self.held: list[tuple[common_pb2.Scope, Stored]] | None = None
        self.refuses: dict[str, common_pb2.Error] = {}
        self.dies_at = ""
        """Document id: its write is read and never answered, and the stream breaks."""
        self.answers = asyncio.Event()
        self.answers.set()
        self.received: list[ingestion_pb2.WriteRequest] = []
        self.spread: Mapping[str, int] = {}

    async def Write(
        self, request_iterator: AsyncIterator[ingestion_pb2.WriteRequest], context: Context
    ) -> AsyncIterator[ingestion_pb2.WriteResponse]:
        await self.begin()
        async for request in request_iterator:
            self.received.append(request)
            document_id = request.put.id or request.delete_document_id
            if document_id == self.dies_at:
                raise HeadwaterError("died")
            await self.answers.wait()
            if document_id in self.refuses:
                yield ingestion_pb2.WriteResponse(write_id=request.write_id, refused=self.refuses[document_id])
                continue
            yield ingestion_pb2.WriteResponse(write_id=request.write_id, token=await self._land(request))

    async def _land(self, request: ingestion_pb2.WriteRequest) -> common_pb2.WriteToken:
        document_id = request.put.id or request.delete_document_id
        partition = partition_of(
            request.scope.collection_id,
            document_id,
            spread=self.spread[request.scope.collection_id],
            partitions=PARTITIONS,
        )
        self._offsets[partition] += 1
        stored = _stored(request, document_id, partition, self._offsets[partition])
        if self.held is None:
            await self._shard(partition).apply(request.scope, stored)
        else:
            self.held.append((request.scope, stored))
        return common_pb2.WriteToken(log_id=self._log.log_id, documents_offsets={partition: self._offsets[partition]})

    async def apply_held(self) -> None:
        """Let the shards have what was held back."""
        held, self.held = self.held or [], None
        for scope, stored in held:
            await self._shard(stored.status.partition).apply(scope, stored)

    def _shard(self, partition: int) -> ScriptedShard:
        return self._shards[partition * len(self._shards) // PARTITIONS]

    async def FindWrites(
        self, request: ingestion_pb2.FindWritesRequest, context: Context
    ) -> ingestion_pb2.FindWritesResponse:
        await self.begin()
        landed = {one.write_id for one in self.received if (one.put.id or one.delete_document_id) != self.dies_at}
        token = common_pb2.WriteToken(log_id=self._log.log_id, documents_offsets={0: 1})
        return ingestion_pb2.FindWritesResponse(
            writes=[
                ingestion_pb2.FoundWrite(landed=True, settled=True, token=token)
                if one.write_id in landed
                else ingestion_pb2.FoundWrite(settled=True)
                for one in request.writes
            ]
        )

    async def CreateCollection(
        self, request: ingestion_pb2.CreateCollectionRequest, context: Context
    ) -> ingestion_pb2.CreateCollectionResponse:
        await self.begin()
        collection = common_pb2.Collection(
            name=request.name,
            collection_id=secrets.token_hex(16),
            tenant=request.tenant,
            generation=1,
            created_unix_ms=int(time.time() * 1000),
            settings=common_pb2.CollectionSettings(
                embedding_fingerprint=FINGERPRINT, spread=request.settings.spread or PARTITIONS
            ),
        )
        self.spread = {**self.spread, collection.collection_id: collection.settings.spread}
        token = await self._record(log_pb2.CollectionRecord(schema_version=1, collection=collection))
        return ingestion_pb2.CreateCollectionResponse(collection=collection, token=token)

    async def DeleteCollection(
        self, request: ingestion_pb2.DeleteCollectionRequest, context: Context
    ) -> ingestion_pb2.DeleteCollectionResponse:
        await self.begin()
        if request.scope.collection_id not in self.spread:
            raise NotFound("there is no such collection")
        collection = common_pb2.Collection(collection_id=request.scope.collection_id, tenant=request.scope.tenant)
        record = log_pb2.CollectionRecord(schema_version=1, collection=collection, retired=True)
        return ingestion_pb2.DeleteCollectionResponse(token=await self._record(record))

    async def _record(self, record: log_pb2.CollectionRecord) -> common_pb2.WriteToken:
        owned = await self._log.take(Topic.COLLECTIONS, 0)
        try:
            [offset] = await owned.append([(record.collection.collection_id.encode(), record.SerializeToString())])
        finally:
            await owned.close()
        return common_pb2.WriteToken(log_id=self._log.log_id, collections_offset=offset)


def _stored(request: ingestion_pb2.WriteRequest, document_id: str, partition: int, version: int) -> Stored:
    put = request.put
    sentences = put.body.decode().split("\n\n") if request.HasField("put") else []
    state = common_pb2.DOCUMENT_STATE_INDEXED if sentences else common_pb2.DOCUMENT_STATE_DELETED
    if "unreadable" in sentences:
        state, sentences = common_pb2.DOCUMENT_STATE_REJECTED, []
    status = common_pb2.DocumentStatus(
        document_id=document_id,
        state=state,
        reason="UNREADABLE" if state == common_pb2.DOCUMENT_STATE_REJECTED else "",
        title=put.title,
        access_groups=put.access_groups,
        chunks=len(sentences),
        version=version,
        partition=partition,
        write_id=request.write_id,
    )
    hits = tuple(
        common_pb2.Hit(
            document_id=document_id, chunk=n, text=text, title=put.title, version=version, partition=partition
        )
        for n, text in enumerate(sentences)
    )
    return Stored(status, hits, tuple(embed(hit.text) for hit in hits))


@dataclass
class World:
    """The gateway and all behind it."""

    address: str
    stub: gateway_pb2_grpc.GatewayServiceStub
    log: EventLog
    catalog: Catalog
    embedding: ScriptedEmbedding
    shards: list[ScriptedShard]
    generation: ScriptedGeneration
    cache: ScriptedCache
    ingestion: ScriptedIngestion
    metadata: tuple[tuple[str, str], ...] = ()
    _stop: dict[str, Any] = field(default_factory=dict)

    async def stop(self, name: str) -> None:
        """Take a service ("embedding", "retrieval/0", …) away for good."""
        await self._stop.pop(name).stop(None)

    async def collection(self, name: str = "handbook", *, metadata: tuple[tuple[str, str], ...] = ()) -> str:
        """Create a collection; its write token."""
        request = gateway_pb2.CreateCollectionRequest(name=name)
        return (await self.stub.CreateCollection(request, metadata=metadata)).write_token

    async def put(
        self,
        texts: Mapping[str, str],
        collection: str = "handbook",
        *,
        access_groups: tuple[str, ...] = (),
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> str:
        """Put documents, each of chunks parted by empty lines; the newest write token."""
        requests = [
            gateway_pb2.PutDocumentsRequest(
                collection=collection if n == 0 else "",
                document=gateway_pb2.Document(id=one, body=text.encode(), access_groups=access_groups),
            )
            for n, (one, text) in enumerate(texts.items())
        ]
        token = ""
        async for response in self.stub.PutDocuments(iter(requests), metadata=metadata):
            if response.WhichOneof("event") != "opened":
                assert response.WhichOneof("event") == "acknowledged", response
                token = response.acknowledged.write_token
        return token

    async def ask(
        self, question: str = "How many days of leave?", collection: str = "handbook", **options: Any
    ) -> list[gateway_pb2.AskResponse]:
        """All events of an answer."""
        metadata = options.pop("metadata", ())
        timeout = options.pop("timeout", 20)
        request = gateway_pb2.AskRequest(collection=collection, question=question, **options)
        return [event async for event in self.stub.Ask(request, metadata=metadata, timeout=timeout)]


async def open_world(
    folder: Path, *, shards: int = 2, settings: Mapping[str, Any] | None = None, stack: AsyncExitStack
) -> World:
    """Everything in this process; the stack closes it."""
    log_settings = LogSettings(path=folder / "log.sqlite3", partitions=PARTITIONS)
    await init_log(log_settings)
    log = await stack.enter_async_context(open_log(log_settings))
    catalog = await stack.enter_async_context(Catalog(log))
    embedding, generation, cache = ScriptedEmbedding(), ScriptedGeneration(), ScriptedCache()
    scripted_shards = [ScriptedShard(n, shards, log.log_id) for n in range(shards)]
    ingestion = ScriptedIngestion(log, scripted_shards)
    servers: dict[str, Any] = {}

    async def address(name: str, add: Any, servicer: Any) -> str:
        server, port = await _start(add, servicer)
        servers[name] = server
        stack.push_async_callback(server.stop, None)
        return f"127.0.0.1:{port}"

    shard_addresses = [
        await address(f"retrieval/{n}", retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server, one)
        for n, one in enumerate(scripted_shards)
    ]
    gateway_settings = GatewaySettings(
        retrieval_addresses=tuple(shard_addresses),
        embedding_address=await address(
            "embedding", embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, embedding
        ),
        generation_address=await address(
            "generation", generation_pb2_grpc.add_GenerationServiceServicer_to_server, generation
        ),
        cache_address=await address("cache", cache_pb2_grpc.add_CacheServiceServicer_to_server, cache),
        ingestion_address=await address(
            "ingestion", ingestion_pb2_grpc.add_IngestionServiceServicer_to_server, ingestion
        ),
        **{"cache_timeout_ms": 5000, **(settings or {})},
    )
    authenticator = open_authenticator(gateway_settings, "127.0.0.1")
    servicer = await stack.enter_async_context(open_gateway(gateway_settings, authenticator, log, catalog))
    gateway = await address("gateway", gateway_pb2_grpc.add_GatewayServiceServicer_to_server, servicer)
    channel = await stack.enter_async_context(
        grpc.aio.insecure_channel(
            gateway,
            options=(
                ("grpc.max_send_message_length", 2 * MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ),
        )
    )
    stub = gateway_pb2_grpc.GatewayServiceStub(channel)
    return World(gateway, stub, log, catalog, embedding, scripted_shards, generation, cache, ingestion, _stop=servers)


async def _start(add: Any, servicer: Any) -> tuple[Any, int]:
    server = grpc.aio.server(
        interceptors=server_interceptors(1000),
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ),
    )
    add(servicer, server)
    health = Health([])
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    await health.serving()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


@asynccontextmanager
async def world(folder: Path, **options: Any) -> AsyncIterator[World]:
    """Everything in this process, for a while."""
    async with AsyncExitStack() as stack:
        yield await open_world(folder, stack=stack, **options)
