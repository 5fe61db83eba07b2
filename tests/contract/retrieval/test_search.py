"""Search, through gRPC."""

import asyncio
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from headwater.common.v1 import common_pb2
from headwater.retrieval.v1 import retrieval_pb2

from serving.errors import (
    DeadlineExceeded,
    ErrorCode,
    FailedPrecondition,
    HeadwaterError,
    InvalidArgument,
    Unimplemented,
)
from serving.eventlog.keys import partition_of
from serving.status import from_rpc_error
from tests.harness.retrieval import COLLECTION, SPREAD, IndexWriter, LocalShard, search_request

AXES = np.eye(4, dtype=np.float32)


async def error_of(shard: LocalShard, request: retrieval_pb2.SearchRequest, seconds: float = 20) -> HeadwaterError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shard.stub.Search(request, timeout=seconds)
    return from_rpc_error(caught.value)


def found(response: retrieval_pb2.SearchResponse, query: int = 0) -> list[tuple[str, int]]:
    return [(hit.document_id, hit.chunk) for hit in response.results[query].dense]


async def test_a_hit_carries_all_that_is_shown_of_its_chunk(writer: IndexWriter, shard: LocalShard) -> None:
    metadata = {
        "team": common_pb2.MetadataValue(string_value="hr"),
        "year": common_pb2.MetadataValue(number_value=2024),
    }
    token = await writer.put("leave", AXES[:2] * 0.5, texts=["ten days", "twenty"], title="Leave", metadata=metadata)

    response = await shard.stub.Search(search_request(AXES[:1], after=token))

    partition = partition_of(COLLECTION, "leave", spread=SPREAD, partitions=4)
    assert response.log_id == writer.log.log_id
    assert response.results[0].dense[0] == common_pb2.Hit(
        document_id="leave",
        chunk=0,
        score=0.5,
        text="ten days",
        title="Leave",
        start=0,
        end=8,
        metadata=metadata,
        version=token.documents_offsets[partition],
        partition=partition,
    )
    assert found(response) == [("leave", 0), ("leave", 1)]
    assert {timing.stage for timing in response.timings} == {"wait", "search", "fetch"}


async def test_several_queries_are_answered_in_order(writer: IndexWriter, shard: LocalShard) -> None:
    for number in range(4):
        await writer.put(f"d{number}", AXES[number : number + 1])

    response = await shard.stub.Search(search_request(AXES[[2, 0, 3]], k=1, after=writer.token()))

    assert [found(response, query) for query in range(3)] == [[("d2", 0)], [("d0", 0)], [("d3", 0)]]


async def test_equal_scores_are_ordered_by_document_and_chunk(writer: IndexWriter, shard: LocalShard) -> None:
    for name in ("b", "c", "a"):
        await writer.put(name, AXES[[0, 0]])

    response = await shard.stub.Search(search_request(AXES[:1], after=writer.token()))

    assert found(response) == [(name, chunk) for name in "abc" for chunk in (0, 1)]


async def test_a_replaced_document_is_found_by_its_new_text_alone(writer: IndexWriter, shard: LocalShard) -> None:
    await writer.put("d", AXES[:3], texts=["old 0", "old 1", "old 2"])
    await shard.stub.Search(search_request(AXES[:1], after=writer.token()))

    token = await writer.put("d", AXES[1:2], texts=["new"])
    response = await shard.stub.Search(search_request(AXES[:1], after=token))

    assert [hit.text for hit in response.results[0].dense] == ["new"]


@pytest.mark.parametrize("end", ["delete", "reject"])
async def test_a_deleted_or_rejected_document_is_not_found(writer: IndexWriter, shard: LocalShard, end: str) -> None:
    await writer.put("d", AXES[:1])
    token = await (writer.delete("d") if end == "delete" else writer.reject("d"))

    response = await shard.stub.Search(search_request(AXES[:1], after=token))

    assert found(response) == []


async def test_access_groups_are_applied_before_the_best_are_chosen(writer: IndexWriter, shard: LocalShard) -> None:
    for number in range(30):
        await writer.put(f"secret{number}", AXES[:1] * 2, groups=["law", "hr"])
    await writer.put("public", AXES[:1])
    after = writer.token()

    async def names(*groups: str) -> set[str]:
        response = await shard.stub.Search(search_request(AXES[:1], k=31, groups=groups, after=after))
        return {hit.document_id for hit in response.results[0].dense}

    assert await names() == {"public"}
    assert await names("it") == {"public"}
    assert await names("it", "hr") == {"public", *(f"secret{number}" for number in range(30))}
    assert found(await shard.stub.Search(search_request(AXES[:1], k=1, after=after))) == [("public", 0)]


async def test_another_tenant_finds_nothing_under_the_same_collection_id(
    writer: IndexWriter, shard: LocalShard
) -> None:
    token = await writer.put("d", AXES[:1], texts=["canary"])

    response = await shard.stub.Search(search_request(AXES[:1], tenant="other", after=token))

    assert found(response) == []


async def test_an_unknown_collection_has_no_hits_and_its_progress_is_told(
    writer: IndexWriter, shard: LocalShard
) -> None:
    response = await shard.stub.Search(search_request(AXES[:2], collection_id="f" * 32, partitions=[1]))

    assert [list(result.dense) for result in response.results] == [[], []]
    assert [progress.partition for progress in response.progress] == [1]


async def test_only_the_partitions_asked_and_owned_are_answered(writer: IndexWriter, shard: LocalShard) -> None:
    names = [f"d{number}" for number in range(12)]
    for name in names:
        await writer.put(name, AXES[:1])

    response = await shard.stub.Search(search_request(AXES[:1], k=50, after=writer.token(), partitions=[2, 3, 9]))

    in_them = [name for name in names if partition_of(COLLECTION, name, spread=SPREAD, partitions=4) in (2, 3)]
    assert sorted(hit.document_id for hit in response.results[0].dense) == sorted(in_them)
    assert [progress.partition for progress in response.progress] == [2, 3]


async def test_progress_is_that_of_the_searcher_that_answered(writer: IndexWriter, shard: LocalShard) -> None:
    token = await writer.put("d", AXES[:1])
    ((partition, offset),) = token.documents_offsets.items()
    token = await writer.progress(partition)

    response = await shard.stub.Search(search_request(AXES[:1], after=token, partitions=[partition]))

    (progress,) = response.progress
    assert progress.documents_offset == offset + 2
    assert progress.index_offset == (await writer.log.bounds("headwater.index", partition))[1]  # type: ignore[arg-type]


async def test_a_record_that_holds_progress_is_searchable_and_seen_by_no_token(
    writer: IndexWriter, shard: LocalShard
) -> None:
    held = await writer.put("d", AXES[:1], held=True)
    (partition,) = held.documents_offsets

    error = await error_of(shard, search_request(AXES[:1], after=held), seconds=0.3)
    assert isinstance(error, DeadlineExceeded)
    assert found(await shard.stub.Search(search_request(AXES[:1]))) == [("d", 0)]

    await writer.progress(partition)
    assert found(await shard.stub.Search(search_request(AXES[:1], after=held))) == [("d", 0)]


async def test_a_search_waits_for_its_write_token(writer: IndexWriter, shard: LocalShard) -> None:
    token = await writer.put("d", AXES[:1], texts=["old"])
    ((partition, offset),) = token.documents_offsets.items()
    ahead = common_pb2.WriteToken(log_id=token.log_id, documents_offsets={partition: offset + 1})

    waiting = asyncio.ensure_future(shard.stub.Search(search_request(AXES[:1], after=ahead), timeout=60))
    # answered meanwhile, so the one that waits has certainly arrived too
    old = await shard.stub.Search(search_request(AXES[:1], after=token))
    assert [hit.text for hit in old.results[0].dense] == ["old"]
    await writer.put("d", AXES[:1], texts=["new"])

    assert [hit.text for hit in (await waiting).results[0].dense] == ["new"]


async def test_a_token_not_reached_by_the_deadline_is_an_error_and_never_the_old_answer(
    writer: IndexWriter, shard: LocalShard
) -> None:
    token = await writer.put("d", AXES[:1])
    ((partition, offset),) = token.documents_offsets.items()
    ahead = common_pb2.WriteToken(log_id=token.log_id, documents_offsets={partition: offset + 1})

    assert isinstance(await error_of(shard, search_request(AXES[:1], after=ahead), seconds=0.3), DeadlineExceeded)


async def test_a_token_of_another_log_is_refused(shard: LocalShard) -> None:
    token = common_pb2.WriteToken(log_id=bytes(16), documents_offsets={0: 1})

    error = await error_of(shard, search_request(AXES[:1], after=token))

    assert isinstance(error, FailedPrecondition)
    assert error.reason == "LOG_REPLACED"


Edit = Callable[[retrieval_pb2.SearchRequest], object]


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda r: r.scope.ClearField("tenant"), "scope.tenant"),
        (lambda r: r.scope.ClearField("collection_id"), "scope.collection_id"),
        (lambda r: setattr(r, "k", 0), "k"),
        (lambda r: setattr(r, "k", 1001), "k"),
        (lambda r: setattr(r.vectors, "count", 0), "vectors.count"),
        (lambda r: setattr(r.vectors, "count", 257), "vectors.count"),
        (lambda r: setattr(r.vectors, "dimensions", 0), "vectors.dimensions"),
        (lambda r: setattr(r.vectors, "data", b"123"), "vectors.data"),
        (lambda r: setattr(r.vectors, "data", np.array([np.nan, 0, 0, 0], "<f4").tobytes()), "vectors.data"),
        (lambda r: r.ClearField("partitions"), "partitions"),
        (lambda r: r.vectors.CopyFrom(common_pb2.Vectors(data=bytes(12), dimensions=3, count=1)), "vectors.dimensions"),
        (lambda r: r.after.documents_offsets.update({0: 1}), "after.log_id"),
    ],
)
async def test_a_bad_request_is_refused_by_its_field(
    writer: IndexWriter, shard: LocalShard, edit: Edit, field: str
) -> None:
    await shard.stub.Search(search_request(AXES[:1], after=await writer.put("d", AXES[:1])))
    request = search_request(AXES[:1])
    edit(request)

    error = await error_of(shard, request)

    assert isinstance(error, InvalidArgument)
    assert error.field == field


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda r: setattr(r, "mode", common_pb2.SEARCH_MODE_LEXICAL), "mode"),
        (lambda r: setattr(r, "mode", common_pb2.SEARCH_MODE_HYBRID), "mode"),
        (lambda r: r.filter.SetInParent(), "filter"),
        (lambda r: setattr(r, "generation", 2), "generation"),
    ],
)
async def test_what_is_not_there_yet_is_said_and_never_ignored(shard: LocalShard, edit: Edit, field: str) -> None:
    request = search_request(AXES[:1])
    edit(request)

    error = await error_of(shard, request)

    assert isinstance(error, Unimplemented)
    assert error.field == field


async def test_vectors_of_another_model_are_refused(writer: IndexWriter, shard: LocalShard) -> None:
    token = await writer.put("d", AXES[:1], fingerprint="model-1")

    error = await error_of(shard, search_request(AXES[:1], after=token, embedding_fingerprint="model-2"))

    assert error.code is ErrorCode.FAILED_PRECONDITION
    assert error.reason == "EMBEDDING_MISMATCH"
    assert found(await shard.stub.Search(search_request(AXES[:1], embedding_fingerprint="model-1"))) == [("d", 0)]


async def test_an_answer_too_large_to_send_is_refused_clearly(writer: IndexWriter, shard: LocalShard) -> None:
    token = await writer.put("d", AXES[:1], texts=["x" * 300_000])

    error = await error_of(shard, search_request(np.repeat(AXES[:1], 200, axis=0), after=token))

    assert isinstance(error, InvalidArgument)
    assert "ask for fewer" in error.message
