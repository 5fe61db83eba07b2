"""Documents, collections, search and status: over gRPC."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2

from serving.errors import ErrorCode, Unavailable
from tests.harness.calls import failure, until
from tests.harness.gateway import World, embed
from tests.harness.gateway import world as open_world


def searching(*texts: str, **more: Any) -> gateway_pb2.SearchRequest:
    queries = [gateway_pb2.Query(id=f"q{n}", text=text) for n, text in enumerate(texts)]
    return gateway_pb2.SearchRequest(**{"collection": "handbook", "queries": queries, "k": 10, **more})


async def watch(world: World, *ids: str, after: str = "", seconds: float = 20) -> dict[str, int]:
    request = gateway_pb2.WatchDocumentsRequest(collection="handbook", document_ids=ids, after=after)
    told = [one.document async for one in world.stub.WatchDocuments(request, timeout=seconds)]
    assert len(told) == len({one.document_id for one in told})
    return {one.document_id: one.state for one in told}


async def test_hits_of_all_shards_come_merged_by_score(world: World) -> None:
    await world.put({str(n): f"leave {'and more ' * n}" for n in range(8)})
    response = await world.stub.Search(searching("leave", "car park places", k=5), timeout=10)
    assert [result.id for result in response.results] == ["q0", "q1"]
    for result in response.results:
        ranked = [(-hit.score, hit.document_id, hit.chunk) for hit in result.hits]
        assert ranked == sorted(ranked)
        assert len(ranked) == 5
    assert len({hit.partition * 2 // 4 for hit in response.results[0].hits}) == 2
    assert response.results[1].hits[0].document_id == "park"
    assert response.coverage.partitions_answered == 4
    assert {timing.stage for timing in response.timings} == {"embed", "retrieve", "total"}


async def test_texts_are_embedded_in_one_call_and_vectors_not_at_all(world: World) -> None:
    vector = embed("car park places").tobytes()
    queries = [gateway_pb2.Query(text=text) for text in ("days of leave", "the office in Oslo")]
    queries.insert(1, gateway_pb2.Query(vector=vector))
    response = await world.stub.Search(searching(queries=queries, k=1), timeout=10)
    assert [result.hits[0].document_id for result in response.results] == ["leave", "park", "leave"]
    assert world.embedding.texts == ["days of leave", "the office in Oslo"]


async def test_vectors_are_searched_for_without_the_embedding_service(world: World) -> None:
    world.embedding.error = Unavailable("down")
    queries = [gateway_pb2.Query(vector=embed("car park").tobytes())]
    response = await world.stub.Search(searching(queries=queries, k=1), timeout=10)
    assert response.results[0].hits[0].document_id == "park"
    error = await failure(world.stub.Search(searching("car park"), timeout=10))
    assert (error.code, error.reason) == (ErrorCode.UNAVAILABLE, "EMBEDDING_UNAVAILABLE")


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (searching(), "INVALID_ARGUMENT", "queries"),
        (searching(*["x"] * 257), "INVALID_ARGUMENT", "queries"),
        (searching("x", k=0), "INVALID_ARGUMENT", "k"),
        (searching("x", k=100_000), "INVALID_ARGUMENT", "k"),
        (searching(""), "INVALID_ARGUMENT", "queries[0].text"),
        (searching("x" * 8193), "INVALID_ARGUMENT", "queries[0].text"),
        (searching(queries=[gateway_pb2.Query()]), "INVALID_ARGUMENT", "queries[0]"),
        (searching(queries=[gateway_pb2.Query(vector=b"123")]), "INVALID_ARGUMENT", "queries[0].vector"),
        (searching(queries=[gateway_pb2.Query(vector=b"1234")]), "INVALID_ARGUMENT", "queries[0].vector"),
        (
            searching(queries=[gateway_pb2.Query(vector=np.full(64, np.nan, np.float32).tobytes())]),
            "INVALID_ARGUMENT",
            "queries[0].vector",
        ),
        (searching("x", collection="nobodys"), "NOT_FOUND", "collection"),
        (searching("x", after="bad"), "INVALID_ARGUMENT", "after"),
        (searching("x", mode=common_pb2.SEARCH_MODE_LEXICAL), "UNIMPLEMENTED", "mode"),
        (searching("x", filter=common_pb2.Filter()), "UNIMPLEMENTED", "filter"),
    ],
)
async def test_a_bad_search_is_refused_naming_its_field(
    world: World, request_: gateway_pb2.SearchRequest, code: str, field: str
) -> None:
    error = await failure(world.stub.Search(request_, timeout=10))
    assert (error.code, error.field) == (ErrorCode(code), field)


async def test_a_search_with_a_shard_lost_is_marked_or_refused(world: World) -> None:
    await world.stop("retrieval/0")
    response = await world.stub.Search(searching("leave"), timeout=10)
    assert list(response.coverage.partitions_missing) == [0, 1]
    assert [one.kind for one in response.degradations] == [common_pb2.DEGRADATION_KIND_PARTIAL_COVERAGE]
    error = await failure(world.stub.Search(searching("leave", strict=True), timeout=10))
    assert error.code is ErrorCode.UNAVAILABLE


async def test_a_deadline_of_a_millisecond_is_a_clear_error(world: World) -> None:
    error = await failure(world.stub.Search(searching("leave"), timeout=0.001))
    assert error.code is ErrorCode.DEADLINE_EXCEEDED


async def test_pages_go_over_all_shards_by_id(world: World) -> None:
    ids = [f"d{n:02}" for n in range(25)]
    await world.put(dict.fromkeys(ids, "Some text."))
    found: list[str] = []
    token, pages = "", 0
    while True:
        request = gateway_pb2.ListDocumentsRequest(collection="handbook", page_size=9, page_token=token)
        page = await world.stub.ListDocuments(request, timeout=10)
        found += [one.document_id for one in page.documents]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert (found, pages) == ([*ids, "leave", "park"], 3)


async def test_only_a_pages_own_token_goes_on(world: World) -> None:
    for token in ("nonsense!", "AAAA", "\u00e9"):
        request = gateway_pb2.ListDocumentsRequest(collection="handbook", page_token=token)
        error = await failure(world.stub.ListDocuments(request, timeout=10))
        assert (error.code, error.field) == (ErrorCode.INVALID_ARGUMENT, "page_token")


async def test_rejected_documents_are_listed_with_their_reason(world: World) -> None:
    await world.put({"bad": "unreadable"})
    request = gateway_pb2.ListDocumentsRequest(collection="handbook", state=common_pb2.DOCUMENT_STATE_REJECTED)
    [document] = (await world.stub.ListDocuments(request, timeout=10)).documents
    assert (document.document_id, document.reason) == ("bad", "UNREADABLE")


async def test_watched_documents_are_each_told_once_their_partition_is_there(world: World) -> None:
    world.ingestion.held = []
    token = await world.put({"new": "Some text.", "bad": "unreadable", "leave": "Newer text."})
    watching = asyncio.create_task(watch(world, "new", "bad", "leave", "nobody", "new", after=token))
    await until(lambda: world.shards[0].calls + world.shards[1].calls >= 1)
    assert not watching.done()
    await world.ingestion.apply_held()
    told = await watching
    nobody = told.pop("nobody", common_pb2.DOCUMENT_STATE_UNKNOWN)
    assert nobody == common_pb2.DOCUMENT_STATE_UNKNOWN
    assert told == {
        "new": common_pb2.DOCUMENT_STATE_INDEXED,
        "bad": common_pb2.DOCUMENT_STATE_REJECTED,
        "leave": common_pb2.DOCUMENT_STATE_INDEXED,
    }


async def test_without_a_token_a_document_is_watched_until_it_is_known(world: World) -> None:
    watching = asyncio.create_task(watch(world, "late"))
    await until(lambda: world.shards[0].calls + world.shards[1].calls >= 2)
    await world.put({"late": "Some text."})
    assert await watching == {"late": common_pb2.DOCUMENT_STATE_INDEXED}


async def test_a_watch_outlives_a_shard_that_fails(world: World) -> None:
    for shard in world.shards:
        shard.error = Unavailable("restarting")
    watching = asyncio.create_task(watch(world, "leave"))
    await until(lambda: world.shards[0].calls + world.shards[1].calls >= 2)
    for shard in world.shards:
        shard.error = None
    assert await watching == {"leave": common_pb2.DOCUMENT_STATE_INDEXED}


async def test_a_watch_ends_at_its_deadline(world: World) -> None:
    assert (await failure(watch(world, "nobody", seconds=0.3))).code is ErrorCode.DEADLINE_EXCEEDED


async def test_collections_are_made_found_listed_and_deleted(world: World) -> None:
    got = await world.stub.GetCollection(gateway_pb2.GetCollectionRequest(name="handbook"), timeout=10)
    assert (got.documents, got.chunks, got.rejected) == (2, 3, 0)
    assert got.coverage.partitions_answered == 4
    await world.collection("archive")
    listed = await world.stub.ListCollections(gateway_pb2.ListCollectionsRequest(), timeout=10)
    assert [one.name for one in listed.collections] == ["archive", "handbook"]
    deleted = await world.stub.DeleteCollection(gateway_pb2.DeleteCollectionRequest(name="handbook"), timeout=10)
    request = gateway_pb2.GetCollectionRequest(name="handbook", after=deleted.write_token)
    assert (await failure(world.stub.GetCollection(request, timeout=10))).code is ErrorCode.NOT_FOUND
    await world.collection()
    fresh = await world.stub.GetCollection(gateway_pb2.GetCollectionRequest(name="handbook"), timeout=10)
    assert fresh.documents == 0
    assert fresh.collection.collection_id != got.collection.collection_id


async def test_dead_letters_are_not_there_yet(world: World) -> None:
    for call in (
        world.stub.ListDeadLetters(gateway_pb2.ListDeadLettersRequest(), timeout=10),
        world.stub.ReplayDeadLetters(gateway_pb2.ReplayDeadLettersRequest(), timeout=10),
    ):
        assert (await failure(call)).code is ErrorCode.UNIMPLEMENTED


async def test_the_status_names_every_service_and_who_is_down(world: World) -> None:
    await world.stop("embedding")
    status = await world.stub.GetStatus(gateway_pb2.GetStatusRequest(), timeout=10)
    assert {one.name: one.ready for one in status.services} == {
        "gateway": True,
        "ingestion": True,
        "embedding": False,
        "retrieval/0": True,
        "retrieval/1": True,
        "generation": True,
        "cache": True,
    }
    assert status.services[0].name == "gateway"
    assert all(one.detail for one in status.services)
    assert status.tenant == "default"


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@pytest.fixture
def keys_path(tmp_path: Path) -> Path:
    keys = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": key.split("-")[0], **more}
        for key, more in {
            "acme-hr": {"access_groups": ["hr"]},
            "acme-all": {},
            "globex": {},
            "slow-1": {"requests_per_second": 0.001},
        }.items()
    ]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    return path


async def test_tenants_and_groups_see_their_own_alone(tmp_path: Path, keys_path: Path) -> None:
    settings = {"auth": "keys", "keys_path": keys_path}
    async with open_world(tmp_path, settings=settings) as world:
        acme, hr, globex = bearer("acme-all"), bearer("acme-hr"), bearer("globex")
        await world.collection(metadata=acme)
        await world.put({"open": "Staff get 25 days.", "same": "Acme canary."}, metadata=acme)
        await world.put({"secret": "Board canary."}, access_groups=("hr",), metadata=hr)
        missing = await failure(world.stub.Search(searching("canary"), metadata=globex, timeout=10))
        assert missing.code is ErrorCode.NOT_FOUND
        await world.collection(metadata=globex)
        await world.put({"same": "Globex canary."}, metadata=globex)

        async def seen(metadata: tuple[tuple[str, str], ...]) -> set[str]:
            response = await world.stub.Search(searching("canary"), metadata=metadata, timeout=10)
            return {hit.text for hit in response.results[0].hits}

        assert await seen(acme) == {"Staff get 25 days.", "Acme canary."}
        assert await seen(hr) == {"Staff get 25 days.", "Acme canary.", "Board canary."}
        assert await seen(globex) == {"Globex canary."}
        get = gateway_pb2.GetDocumentRequest(collection="handbook", document_id="secret")
        assert (await failure(world.stub.GetDocument(get, metadata=acme, timeout=10))).code is ErrorCode.NOT_FOUND
        world.generation.says = ["Staff get 25 days."]
        for metadata in (hr, acme, globex):
            [*_, done] = await world.ask(metadata=metadata)
            assert done.done.cache == gateway_pb2.CACHE_OUTCOME_MISS


@pytest.mark.parametrize("metadata", [(), bearer("wrong"), (("authorization", "Basic acme"),)])
async def test_without_a_known_key_nothing_is_told(
    tmp_path: Path, keys_path: Path, metadata: tuple[tuple[str, str], ...]
) -> None:
    async with open_world(tmp_path, settings={"auth": "keys", "keys_path": keys_path}) as world:
        for call in (
            world.stub.Search(searching(), metadata=metadata, timeout=10),
            world.ask(metadata=metadata),
            world.put({"a": "text"}, metadata=metadata),
            world.stub.GetStatus(gateway_pb2.GetStatusRequest(), metadata=metadata, timeout=10),
        ):
            error = await failure(call)
            assert error.code is ErrorCode.UNAUTHENTICATED
            assert "authorization" in error.message or "key" in error.message


async def test_a_key_beyond_its_rate_is_told_when_to_come_back(tmp_path: Path, keys_path: Path) -> None:
    async with open_world(tmp_path, settings={"auth": "keys", "keys_path": keys_path}) as world:
        request = gateway_pb2.ListCollectionsRequest()
        await world.stub.ListCollections(request, metadata=bearer("slow-1"), timeout=10)
        error = await failure(world.stub.ListCollections(request, metadata=bearer("slow-1"), timeout=10))
        assert error.code is ErrorCode.RESOURCE_EXHAUSTED
        assert error.retry_after_ms > 100_000
        await world.stub.ListCollections(request, metadata=bearer("acme-all"), timeout=10)
