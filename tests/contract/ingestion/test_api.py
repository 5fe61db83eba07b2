"""The API through gRPC, on either log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from headwater.common.v1 import common_pb2
from headwater.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc

from services.ingestion import records
from services.ingestion.budget import Budget
from services.ingestion.registry import Registry, Wishes
from services.ingestion.servicer import IngestionServicer
from serving.errors import ErrorCode, HeadwaterError
from serving.eventlog import LogSettings, LogUnavailable, OutcomeUnknown, Topic, open_log
from serving.eventlog.catalog import Catalog
from serving.server import Registration, Server, ServerSettings
from serving.status import from_rpc_error
from tests.harness.eventlog import now_ms, read_all
from tests.harness.ingestion import Bench, HashEmbedder

if TYPE_CHECKING:
    Api = ingestion_pb2_grpc.IngestionServiceAsyncStub

SERVICE = "headwater.ingestion.v1.IngestionService"


@pytest.fixture
async def api(ingestion: Bench) -> AsyncIterator[Api]:
    servicer = IngestionServicer(
        ingestion.intake, ingestion.registry, max_stream_writes=8, budget=Budget(100, 64 << 20)
    )
    registration = Registration(ingestion_pb2_grpc.add_IngestionServiceServicer_to_server, servicer, SERVICE)
    settings = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0, drain_seconds=1)
    async with (
        Server("ingestion-api", settings, registration) as server,
        grpc.aio.insecure_channel(server.address, options=[("grpc.max_send_message_length", 64 << 20)]) as channel,
    ):
        yield ingestion_pb2_grpc.IngestionServiceStub(channel)


def scope(ingestion: Bench) -> common_pb2.Scope:
    return common_pb2.Scope(tenant="tenant", collection_id=ingestion.collection.collection_id)


def put(ingestion: Bench, document_id: str, body: bytes, **changes: object) -> ingestion_pb2.WriteRequest:
    request = ingestion_pb2.WriteRequest(
        scope=scope(ingestion),
        write_id=os.urandom(16),
        put=ingestion_pb2.Document(id=document_id, body=body),
    )
    for field, value in changes.items():
        setattr(request, field, value)
    return request


async def write(api: Api, requests: Sequence[ingestion_pb2.WriteRequest]) -> dict[bytes, ingestion_pb2.WriteResponse]:
    async def requesting() -> AsyncIterator[ingestion_pb2.WriteRequest]:
        for request in requests:
            yield request

    return {response.write_id: response async for response in api.Write(requesting())}


async def failure(call: Awaitable[Any]) -> HeadwaterError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_an_acknowledged_write_is_in_the_log_where_its_token_says(ingestion: Bench, api: Api) -> None:
    requests = [put(ingestion, f"d{number}", b"text") for number in range(50)]
    responses = await write(api, requests)

    for request in requests:
        token = responses[request.write_id].token
        ((partition, offset),) = token.documents_offsets.items()
        assert token.log_id == ingestion.log.log_id
        (record,) = (await ingestion.log.read(Topic.DOCUMENTS, partition, offset, max_records=1)).records
        assert record.value is not None
        landed = records.decode_write(record.value)
        assert landed.write_id == request.write_id
        assert landed.accepted_ms == record.timestamp_ms
        assert landed.collections_offset == token.collections_offset == ingestion.catalog.applied - 1


async def test_writes_of_one_document_keep_their_order(ingestion: Bench, api: Api) -> None:
    requests = [put(ingestion, "one", b"%d" % number) for number in range(40)]
    responses = await write(api, requests)

    offsets = [responses[one.write_id].token.documents_offsets[ingestion.partition("one")] for one in requests]
    assert offsets == sorted(offsets)


async def test_a_bad_write_is_refused_in_the_stream_and_the_stream_goes_on(ingestion: Bench, api: Api) -> None:
    good, spaces, broken = put(ingestion, "a", b"text"), put(ingestion, "b", b" "), put(ingestion, "c", b"a\xff")
    large = put(ingestion, "d", b"a" * (16 * 1024 * 1024 + 1))
    elsewhere = put(ingestion, "e", b"text", write_id=os.urandom(16))
    elsewhere.scope.collection_id = "0" * 32
    foreign = put(ingestion, "f", b"text")
    foreign.scope.tenant = "another"
    nothing = ingestion_pb2.WriteRequest(scope=scope(ingestion), write_id=os.urandom(16))

    responses = await write(api, [spaces, broken, large, elsewhere, foreign, nothing, good])

    assert responses[good.write_id].HasField("token")
    assert responses[spaces.write_id].refused.reason == "DOCUMENT_EMPTY"
    assert responses[broken.write_id].refused.reason == "NOT_UTF8"
    assert "byte 1" in responses[broken.write_id].refused.message
    assert responses[large.write_id].refused.reason == "DOCUMENT_TOO_LARGE"
    assert "16777216" in responses[large.write_id].refused.message
    assert responses[elsewhere.write_id].refused.code == "NOT_FOUND"
    assert responses[foreign.write_id].refused == responses[elsewhere.write_id].refused
    assert responses[nothing.write_id].refused.field == "id"


async def test_a_write_that_is_too_old_is_refused_for_good(ingestion: Bench, api: Api) -> None:
    old = put(ingestion, "a", b"text", accepted_unix_ms=now_ms() - 30_000)

    (response,) = (await write(api, [old])).values()

    assert response.refused.reason == "WRITE_TOO_OLD"
    assert response.refused.retry_after_ms == 0
    assert await read_all(ingestion.log, Topic.DOCUMENTS, ingestion.partition("a")) == []


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (LogUnavailable("down"), "refused", "LOG_UNAVAILABLE"),
        (OutcomeUnknown("perhaps"), "unknown", "UNAVAILABLE"),
        (RuntimeError("a fault of ours"), "unknown", "INTERNAL"),
    ],
)
async def test_what_the_log_says_of_an_append_is_what_the_writer_hears(
    ingestion: Bench,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    outcome: str,
    reason: str,
) -> None:
    attempts = 0

    async def failing(*_: object, **__: object) -> int:
        nonlocal attempts
        attempts += 1
        raise error

    monkeypatch.setattr(ingestion.log, "append", failing)
    (response,) = (await write(api, [put(ingestion, "a", b"text")])).values()

    assert response.WhichOneof("outcome") == outcome
    assert getattr(response, outcome).reason == reason
    assert attempts == 1


async def test_a_write_waits_for_the_collection_that_its_caller_knows_of(ingestion: Bench, api: Api) -> None:
    ahead = put(ingestion, "a", b"text", collections_offset=ingestion.catalog.applied)
    writing = asyncio.create_task(write(api, [ahead]))
    await ingestion.registry.create("tenant", "another", Wishes("", 0, 0, 0))

    (response,) = (await writing).values()
    assert response.token.collections_offset >= ahead.collections_offset


async def test_writes_are_found_whether_they_landed_or_not(ingestion: Bench, api: Api) -> None:
    accepted_ms = now_ms()
    landed = [put(ingestion, f"d{number}", b"text", accepted_unix_ms=accepted_ms) for number in range(20)]
    responses = await write(api, landed)
    queries = [
        ingestion_pb2.WriteQuery(document_id=one.put.id, write_id=one.write_id, accepted_unix_ms=accepted_ms)
        for one in landed
    ]
    queries.append(ingestion_pb2.WriteQuery(document_id="d0", write_id=os.urandom(16), accepted_unix_ms=accepted_ms))
    queries.append(
        ingestion_pb2.WriteQuery(document_id="d0", write_id=os.urandom(16), accepted_unix_ms=accepted_ms - 11_000)
    )

    found = (await api.FindWrites(ingestion_pb2.FindWritesRequest(scope=scope(ingestion), writes=queries))).writes

    assert [one.token for one in found[:20]] == [responses[one.write_id].token for one in landed]
    assert [(one.landed, one.settled) for one in found[20:]] == [(False, False), (False, True)]


class TestCollections:
    async def test_defaults_are_filled_in(self, ingestion: Bench, api: Api) -> None:
        created = await api.CreateCollection(
            ingestion_pb2.CreateCollectionRequest(tenant="tenant", name="new"), timeout=30
        )
        settings = created.collection.settings
        model = await ingestion.embedder.model()

        assert len(created.collection.collection_id) == 32
        assert (settings.max_chunk_tokens, settings.chunk_overlap_tokens, settings.spread) == (254, 0, 2)
        assert settings.embedding_fingerprint == model.fingerprint
        assert created.collection.generation == 1
        await ingestion.catalog.wait_for(created.token.collections_offset, 10)
        assert ingestion.catalog.by_name("tenant", "new") == created.collection

    @pytest.mark.parametrize(
        ("settings", "code", "field"),
        [
            ({"max_chunk_tokens": 15}, ErrorCode.INVALID_ARGUMENT, "settings.max_chunk_tokens"),
            ({"max_chunk_tokens": 255}, ErrorCode.INVALID_ARGUMENT, "settings.max_chunk_tokens"),
            ({"chunk_overlap_tokens": 128}, ErrorCode.INVALID_ARGUMENT, "settings.chunk_overlap_tokens"),
            ({"spread": 3}, ErrorCode.INVALID_ARGUMENT, "settings.spread"),
            ({"embedding_fingerprint": "x"}, ErrorCode.FAILED_PRECONDITION, "settings.embedding_fingerprint"),
            ({"policies": ["p"]}, ErrorCode.UNIMPLEMENTED, "settings.policies"),
            ({"semantic_cache_error_bound": 0.1}, ErrorCode.UNIMPLEMENTED, "settings.semantic_cache_error_bound"),
        ],
    )
    async def test_bad_settings_are_refused_by_their_field(
        self,
        api: Api,
        settings: dict[str, object],
        code: ErrorCode,
        field: str,
    ) -> None:
        request = ingestion_pb2.CreateCollectionRequest(
            tenant="tenant",
            name="new",
            settings=common_pb2.CollectionSettings(**settings),  # type: ignore[arg-type]
        )
        error = await failure(api.CreateCollection(request))
        assert (error.code, error.field) == (code, field)

    async def test_a_deleted_name_can_be_created_anew_under_another_id(self, ingestion: Bench, api: Api) -> None:
        deleted = await api.DeleteCollection(ingestion_pb2.DeleteCollectionRequest(scope=scope(ingestion)))
        again = await api.CreateCollection(
            ingestion_pb2.CreateCollectionRequest(tenant="tenant", name=ingestion.collection.name)
        )

        assert again.collection.collection_id != ingestion.collection.collection_id
        assert again.token.collections_offset > deleted.token.collections_offset
        await ingestion.catalog.wait_for(again.token.collections_offset, 10)
        (response,) = (await write(api, [put(ingestion, "a", b"text")])).values()
        assert response.refused.code == "NOT_FOUND"

    async def test_one_that_is_not_there_or_another_tenants_cannot_be_deleted(self, ingestion: Bench, api: Api) -> None:
        foreign = common_pb2.Scope(tenant="another", collection_id=ingestion.collection.collection_id)

        error = await failure(api.DeleteCollection(ingestion_pb2.DeleteCollectionRequest(scope=foreign)))

        assert error.code is ErrorCode.NOT_FOUND
        assert ingestion.catalog.by_id(ingestion.collection.collection_id) is not None

    async def test_of_several_that_create_one_name_at_once_one_wins(
        self, ingestion: Bench, log_settings: LogSettings
    ) -> None:
        async def create() -> str:
            async with open_log(log_settings) as log, Catalog(log) as catalog:
                try:
                    collection, _ = await Registry(log, catalog, HashEmbedder()).create(
                        "tenant", "contested", Wishes("", 0, 0, 0)
                    )
                except HeadwaterError as error:
                    return error.reason
                return collection.collection_id

        results = await asyncio.gather(*(create() for _ in range(4)))

        (winner,) = (result for result in results if result != "COLLECTION_EXISTS")
        async with open_log(log_settings) as log, Catalog(log) as catalog:
            found = catalog.by_name("tenant", "contested")
            assert found is not None
            assert found.collection_id == winner
            assert len([one for one in catalog.list("tenant") if one.name == "contested"]) == 1

    async def test_an_append_of_unknown_outcome_is_settled_before_another(
        self, ingestion: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It landed, and only the answer was lost: the name must be there once, and the caller hears that it is."""
        take = ingestion.log.take
        lost = 0

        async def losing_one_answer(topic: Topic, partition: int) -> object:
            owned = await take(topic, partition)
            append = owned.append

            async def appending(appended: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
                nonlocal lost
                offsets = await append(appended)
                if not lost:
                    lost += 1
                    raise OutcomeUnknown("the answer was lost")
                return offsets

            owned.append = appending  # type: ignore[method-assign,assignment]
            return owned

        monkeypatch.setattr(ingestion.log, "take", losing_one_answer)
        collection, offset = await ingestion.registry.create("tenant", "new", Wishes("", 0, 0, 0))

        assert lost == 1
        await ingestion.catalog.wait_for(offset, 10)
        found = ingestion.catalog.by_name("tenant", "new")
        assert found is not None
        assert found.collection_id == collection.collection_id
        written = await read_all(ingestion.log, Topic.COLLECTIONS, 0)
        assert [record.key for record in written].count(collection.collection_id.encode()) == 1
