"""Putting, deleting and finding out: over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2

from serving.errors import ErrorCode, Unavailable
from serving.limits import MAX_DOCUMENT_BYTES
from tests.harness.calls import failure, until
from tests.harness.gateway import World


def put(document_id: str, body: bytes = b"Some text.", **more: Any) -> gateway_pb2.PutDocumentsRequest:
    return gateway_pb2.PutDocumentsRequest(document=gateway_pb2.Document(id=document_id, body=body), **more)


def opening(*requests: gateway_pb2.PutDocumentsRequest) -> list[gateway_pb2.PutDocumentsRequest]:
    return [gateway_pb2.PutDocumentsRequest(collection="handbook"), *requests]


async def outcomes(
    world: World, requests: Iterable[gateway_pb2.PutDocumentsRequest]
) -> list[gateway_pb2.PutDocumentsResponse]:
    """What a stream answers after `opened`."""
    opened, *rest = [response async for response in world.stub.PutDocuments(iter(requests), timeout=30)]
    assert opened.opened.now_unix_ms > 1_600_000_000_000
    return rest


async def test_a_stream_is_opened_before_any_document_is_sent(world: World) -> None:
    call = world.stub.PutDocuments(timeout=30)
    await call.write(gateway_pb2.PutDocumentsRequest(collection="handbook"))
    assert (await call.read()).WhichOneof("event") == "opened"
    await call.done_writing()


async def test_each_document_is_acknowledged_with_a_token_that_includes_those_before(world: World) -> None:
    tokens = [one.acknowledged.write_token for one in await outcomes(world, opening(put("a"), put("b"), put("c")))]
    world.ingestion.held = []
    [*_, last] = await outcomes(world, [put("d", collection="handbook", after=tokens[-1])])
    await world.ingestion.apply_held()
    for document_id in ("a", "b", "c", "d"):
        request = gateway_pb2.GetDocumentRequest(
            collection="handbook", document_id=document_id, after=last.acknowledged.write_token
        )
        found = await world.stub.GetDocument(request, timeout=10)
        assert found.document.state == common_pb2.DOCUMENT_STATE_INDEXED


async def test_write_ids_and_send_times_go_through_and_are_made_where_absent(world: World) -> None:
    requests = opening(put("a", write_id=b"1" * 16, sent_unix_ms=1_700_000_000_000), put("b"))
    answers = {one.acknowledged.document_id: one.acknowledged for one in await outcomes(world, requests)}
    first, second = world.ingestion.received[-2:]
    assert answers["a"].write_id == first.write_id == b"1" * 16
    assert first.accepted_unix_ms == 1_700_000_000_000
    assert answers["b"].write_id == second.write_id
    assert len(second.write_id) == 16
    assert second.accepted_unix_ms > first.accepted_unix_ms
    assert second.collections_offset == world.catalog.applied - 1


async def test_what_cannot_be_taken_is_refused_and_the_stream_goes_on(world: World) -> None:
    world.ingestion.refuses = {
        "odd": common_pb2.Error(code="INVALID_ARGUMENT", reason="CONTENT_TYPE_UNKNOWN", field="content_type")
    }
    refusals = [
        one.refused
        for one in await outcomes(
            world,
            opening(
                put("twice"),
                put("twice"),
                put(""),
                put("x" * 513),
                put("line\nbreak"),
                put("empty", b""),
                put("short-id", write_id=b"123"),
                put("same", write_id=b"1" * 16),
                put("other", write_id=b"1" * 16),
                put("odd"),
                put("last"),
            ),
        )
        if one.WhichOneof("event") == "refused"
    ]
    assert {(one.document_id[:9], one.error.code, one.error.reason, one.error.field) for one in refusals} == {
        ("twice", "ALREADY_EXISTS", "DUPLICATE_ID", "document.id"),
        ("", "INVALID_ARGUMENT", "DOCUMENT_ID_INVALID", "document.id"),
        ("x" * 9, "INVALID_ARGUMENT", "DOCUMENT_ID_INVALID", "document.id"),
        ("line\nbrea", "INVALID_ARGUMENT", "DOCUMENT_ID_INVALID", "document.id"),
        ("empty", "INVALID_ARGUMENT", "DOCUMENT_EMPTY", "document.body"),
        ("short-id", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "write_id"),
        ("other", "ALREADY_EXISTS", "DUPLICATE_WRITE_ID", "write_id"),
        ("odd", "INVALID_ARGUMENT", "CONTENT_TYPE_UNKNOWN", "document.content_type"),
    }
    assert {"twice", "same", "last"} <= {one.put.id for one in world.ingestion.received}


async def test_a_document_above_the_limit_is_refused_naming_it(world: World) -> None:
    [answer] = await outcomes(world, opening(put("large", b"x" * (MAX_DOCUMENT_BYTES + 1))))
    assert (answer.refused.error.reason, answer.refused.error.field) == ("DOCUMENT_TOO_LARGE", "document.body")
    assert str(MAX_DOCUMENT_BYTES) in answer.refused.error.message


async def test_a_message_above_the_limit_ends_the_stream_and_leaves_the_gateway_well(world: World) -> None:
    error = await failure(outcomes(world, opening(put("huge", b"x" * (40 * 1024 * 1024)))))
    assert error.code is ErrorCode.INVALID_ARGUMENT
    assert await outcomes(world, opening(put("small")))


async def test_an_unknown_collection_ends_the_stream(world: World) -> None:
    error = await failure(outcomes(world, [put("a", collection="nobodys")]))
    assert (error.code, error.field) == (ErrorCode.NOT_FOUND, "collection")


async def test_a_stream_is_for_one_collection(world: World) -> None:
    error = await failure(outcomes(world, opening(put("a", collection="another"))))
    assert (error.code, error.field) == (ErrorCode.INVALID_ARGUMENT, "collection")


async def test_an_empty_stream_is_no_error(world: World) -> None:
    assert await outcomes(world, opening()) == []


async def test_when_ingestion_dies_forwarded_writes_are_unknown_and_later_ones_go_on(world: World) -> None:
    world.ingestion.dies_at = "fatal"
    sent = asyncio.Event()

    async def requests() -> AsyncIterator[gateway_pb2.PutDocumentsRequest]:
        yield put("before", collection="handbook")
        yield put("fatal", write_id=b"f" * 16)
        await sent.wait()
        yield put("after")

    events: dict[str, str] = {}
    async for response in world.stub.PutDocuments(requests(), timeout=30):
        kind = response.WhichOneof("event")
        if kind == "unknown":
            assert response.unknown.error.reason == "OUTCOME_UNKNOWN"
            sent.set()
        if kind != "opened":
            events[getattr(response, kind).document_id] = kind
    assert events == {"before": "acknowledged", "fatal": "unknown", "after": "acknowledged"}
    query = gateway_pb2.WriteQuery(document_id="fatal", write_id=b"f" * 16, sent_unix_ms=1)
    request = gateway_pb2.FindWritesRequest(collection="handbook", writes=[query])
    [found] = (await world.stub.FindWrites(request, timeout=10)).writes
    assert (found.landed, found.settled, found.write_token) == (False, True, "")


async def test_without_ingestion_documents_are_refused_not_unknown(world: World) -> None:
    await world.stop("ingestion")
    answers = await outcomes(world, opening(put("a"), put("b")))
    assert [one.refused.error.code for one in answers] == ["UNAVAILABLE", "UNAVAILABLE"]
    assert all(one.refused.error.retry_after_ms for one in answers)
    assert (await failure(world.collection("other"))).code is ErrorCode.UNAVAILABLE


async def test_with_one_write_in_flight_a_stream_still_ends(narrow_world: World) -> None:
    assert len(await outcomes(narrow_world, opening(*(put(str(n)) for n in range(20))))) == 20


async def test_a_stream_takes_no_more_documents_than_its_bound(narrow_world: World) -> None:
    answers = await outcomes(narrow_world, opening(*(put(str(n)) for n in range(22))))
    refused = [one.refused for one in answers if one.WhichOneof("event") == "refused"]
    assert [one.error.reason for one in refused] == ["STREAM_FULL", "STREAM_FULL"]


async def test_a_caller_that_hangs_up_ends_the_stream_to_ingestion(world: World) -> None:
    world.ingestion.gate = asyncio.Event()
    call = world.stub.PutDocuments(iter(opening(put("a"))), timeout=30)
    await call.read()
    await until(lambda: world.ingestion.calls == 3)  # the collection's, the first documents', this one's
    call.cancel()
    await until(lambda: world.ingestion.cancelled == 1)


async def test_deleted_documents_are_gone_with_the_token(world: World) -> None:
    world.ingestion.refuses = {"odd": common_pb2.Error(code="DEADLINE_EXCEEDED", reason="TOO_LATE")}
    request = gateway_pb2.DeleteDocumentsRequest(
        collection="handbook", document_ids=["leave", "odd", "leave"], write_ids=[b"1" * 16, b"2" * 16, b"3" * 16]
    )
    response = await world.stub.DeleteDocuments(request, timeout=10)
    assert [(one.document_id, one.error.reason) for one in response.refused] in (
        [("odd", "TOO_LATE"), ("leave", "DUPLICATE_ID")],
        [("leave", "DUPLICATE_ID"), ("odd", "TOO_LATE")],
    )
    get = gateway_pb2.GetDocumentRequest(collection="handbook", document_id="leave", after=response.write_token)
    assert (await failure(world.stub.GetDocument(get, timeout=10))).code is ErrorCode.NOT_FOUND


async def test_a_deletions_token_includes_what_came_before(world: World) -> None:
    before = await world.put({"new": "Some text."})
    request = gateway_pb2.DeleteDocumentsRequest(collection="handbook", document_ids=["leave"], after=before)
    token = (await world.stub.DeleteDocuments(request, timeout=10)).write_token
    world.ingestion.error = Unavailable("down")
    get = gateway_pb2.GetDocumentRequest(collection="handbook", document_id="new", after=token)
    assert (await world.stub.GetDocument(get, timeout=10)).document.document_id == "new"


async def test_bad_deletions_name_their_field(world: World) -> None:
    for request, field in (
        (gateway_pb2.DeleteDocumentsRequest(collection="handbook"), "document_ids"),
        (gateway_pb2.DeleteDocumentsRequest(collection="handbook", document_ids=["a"] * 1001), "document_ids"),
        (
            gateway_pb2.DeleteDocumentsRequest(collection="handbook", document_ids=["a"], write_ids=[b"1"] * 2),
            "write_ids",
        ),
        (
            gateway_pb2.DeleteDocumentsRequest(collection="handbook", document_ids=["a"], sent_unix_ms=-1),
            "sent_unix_ms",
        ),
        (gateway_pb2.DeleteDocumentsRequest(document_ids=["a"]), "collection"),
    ):
        error = await failure(world.stub.DeleteDocuments(request, timeout=10))
        assert (error.code, error.field) == (ErrorCode.INVALID_ARGUMENT, field)


async def test_writes_that_landed_are_found_with_their_token(world: World) -> None:
    await outcomes(world, opening(put("a", write_id=b"a" * 16)))
    query = gateway_pb2.WriteQuery(document_id="a", write_id=b"a" * 16, sent_unix_ms=1)
    request = gateway_pb2.FindWritesRequest(collection="handbook", writes=[query])
    [found] = (await world.stub.FindWrites(request, timeout=10)).writes
    assert found.landed
    assert found.write_token
