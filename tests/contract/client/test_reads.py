"""Reading over a real channel: results, errors, retries, streams, and reading one's own writes."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import grpc
import pytest
from headwater import (
    AlreadyExists,
    AsyncClient,
    CacheOutcome,
    Client,
    DeadlineExceeded,
    Document,
    DocumentState,
    Done,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Query,
    ResourceExhausted,
    Retrieved,
    Token,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

Status = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Status.INVALID_ARGUMENT, InvalidArgument),
        (Status.NOT_FOUND, NotFound),
        (Status.UNAUTHENTICATED, Unauthenticated),
        (Status.FAILED_PRECONDITION, FailedPrecondition),
        (Status.RESOURCE_EXHAUSTED, ResourceExhausted),
        (Status.DEADLINE_EXCEEDED, DeadlineExceeded),
        (Status.UNIMPLEMENTED, Unimplemented),
    ],
)
def test_errors_carry_reason_field_and_message(client: Client, gateway: Any, code: Any, kind: Any) -> None:
    gateway.failures.append((code, "k must be 1 to 1,000", {"reason": "K_OUT_OF_RANGE", "field": "k"}))
    with pytest.raises(kind) as caught:
        client.search("c", "q")
    error = caught.value
    assert (error.code, error.reason, error.field) == (code.name, "K_OUT_OF_RANGE", "k")
    assert str(error) == "k must be 1 to 1,000"
    assert error.retry_after is None


async def test_the_asynchronous_client_raises_the_same(async_client: AsyncClient, gateway: Any) -> None:
    gateway.failures.append((Status.INVALID_ARGUMENT, "k must be 1 to 1,000", {"reason": "K", "field": "k"}))
    with pytest.raises(InvalidArgument) as caught:
        await async_client.search("c", "q")
    assert (caught.value.reason, caught.value.field) == ("K", "k")


def test_reads_are_tried_again_while_the_gateway_is_unavailable(client: Client, gateway: Any) -> None:
    gateway.failures.extend([(Status.UNAVAILABLE, "restarting", {})] * 2)
    assert client.search("c", "q").coverage.complete
    assert len(gateway.calls_of("Search")) == 3


def test_a_read_that_a_gateway_drops_as_it_goes_is_tried_again(client: Client, gateway: Any) -> None:
    gateway.failures.append((Status.CANCELLED, "CANCELLED", {}))
    assert client.search("c", "q").coverage.complete
    assert len(gateway.calls_of("Search")) == 2


def test_a_hint_of_when_to_come_back_is_followed_only_if_time_allows(client: Client, gateway: Any) -> None:
    gateway.failures.append((Status.RESOURCE_EXHAUSTED, "busy", {"retry_ms": 20}))
    client.search("c", "q")
    gateway.failures.append((Status.RESOURCE_EXHAUSTED, "busy", {"retry_ms": 60_000}))
    with pytest.raises(ResourceExhausted) as caught:
        client.search("c", "q")
    assert caught.value.retry_after == 60.0
    assert len(gateway.calls_of("Search")) == 3


def test_creating_is_not_tried_again_by_itself(client: Client, gateway: Any) -> None:
    gateway.failures.append((Status.UNAVAILABLE, "restarting", {}))
    with pytest.raises(Unavailable):
        client.create_collection("c")
    assert len(gateway.calls_of("CreateCollection")) == 1


def test_a_client_reads_its_own_writes(client: Client, gateway: Any) -> None:
    client.search("c", "q")
    first = client.put("c", [Document("a", text="x")])
    client.search("c", "q")
    client.search("other", "q")
    client.search("c", "q", after=None)
    client.search("c", "q", after="mine")
    client.search("c", "q", after=first)
    second = client.put("c", [Document("b", text="y")])
    client.search("c", "q", after=first | second)
    client.search("c", "q")
    assert [request.after for request in gateway.calls_of("Search")] == [
        "",
        "1",
        "",
        "",
        "mine",
        "1",
        "1,2",
        "2",  # the newer token includes the one it was sent with, so one is kept
    ]


def test_a_deletion_and_a_new_collection_are_own_writes_too(client: Client, gateway: Any) -> None:
    client.create_collection("c")
    client.list_collections()
    client.delete("c", ["a"])
    client.get_collection("c")
    assert gateway.calls_of("ListCollections")[0].after == "1"
    assert gateway.calls_of("GetCollection")[0].after == "2"


def test_a_token_of_a_replaced_log_fails_once(client: Client, gateway: Any) -> None:
    client.put("c", [Document("a", text="x")])
    gateway.failures.append((Status.FAILED_PRECONDITION, "another log", {"reason": "LOG_REPLACED"}))
    with pytest.raises(FailedPrecondition):
        client.search("c", "q")
    client.search("c", "q")
    assert gateway.calls_of("Search")[-1].after == ""


def test_many_queries_go_64_a_call(client: Client, gateway: Any) -> None:
    queries = [Query(f"text {number}", id=str(number)) for number in range(130)]
    assert [result.id for result in client.search_many("c", queries)] == [query.id for query in queries]
    assert [len(request.queries) for request in gateway.calls_of("Search")] == [64, 64, 2]


def test_a_vector_goes_as_little_endian_float32(client: Client, gateway: Any) -> None:
    client.search("c", Query(vector=[1.0, -2.0]))
    assert gateway.calls_of("Search")[0].queries[0].vector == bytes.fromhex("0000803f000000c0")


@pytest.mark.parametrize("k", [-1, 2**40])
def test_what_a_message_cannot_hold_is_an_invalid_argument(client: Client, gateway: Any, k: int) -> None:
    with pytest.raises(InvalidArgument):
        client.search("c", "q", k=k)
    with pytest.raises(InvalidArgument):
        client.ask("c", "\ud800")
    with pytest.raises(InvalidArgument, match="timeout"):
        client.search("c", "q", timeout=0)
    assert not gateway.calls


def test_an_answer_comes_as_events_in_order(client: Client) -> None:
    with client.ask("c", "how much leave?") as events:
        retrieved, *tokens, done = list(events)
    assert isinstance(retrieved, Retrieved)
    assert retrieved.passages[0].hit.title == "Leave"
    assert retrieved.coverage.partitions_missing == (2,)
    assert tokens == [Token("30 "), Token("days [1].")]
    assert isinstance(done, Done)
    assert done.cache is CacheOutcome.MISS
    assert done.degradations[0].kind == "partial_coverage"
    assert done.timings_ms == {"total": 12.5}


def test_an_answer_at_once_has_what_the_events_have(client: Client, gateway: Any) -> None:
    answer = client.answer("c", "how much leave?", cache=False)
    assert answer.text == "30 days [1]."
    assert answer.citations[0].evidence == "Leave is 30 days."
    assert answer.passages[0].number == 1
    assert not answer.coverage.complete
    assert gateway.calls_of("Ask")[0].cache == 2
    assert gateway.finished.wait(5)


def test_a_question_is_asked_again_only_before_anything_was_answered(client: Client, gateway: Any) -> None:
    gateway.failures.append((Status.UNAVAILABLE, "restarting", {}))
    assert client.answer("c", "q").text
    with pytest.raises(Unavailable, match="going away"):
        client.answer("c", "break")
    assert len(gateway.calls_of("Ask")) == 3


def test_a_failure_told_in_the_stream_is_raised(client: Client) -> None:
    events = client.ask("c", "fail")
    assert isinstance(next(events), Retrieved)
    with pytest.raises(Unavailable) as caught:
        next(events)
    assert caught.value.reason == "NO_GENERATOR"
    assert list(events) == []


@pytest.mark.parametrize("how", ["close", "with", "drop"])
def test_a_question_given_up_is_cancelled_at_the_gateway(client: Client, gateway: Any, how: str) -> None:
    events: Any = client.ask("c", "endless")
    if how == "with":
        with events:
            next(events)
    else:
        next(events)
    if how == "close":
        events.close()
        assert list(events) == []
    del events
    gc.collect()
    assert gateway.cancelled.wait(5)


@pytest.mark.parametrize("how", ["close", "with", "break", "cancel"])
async def test_the_asynchronous_client_cancels_the_same(async_client: AsyncClient, gateway: Any, how: str) -> None:
    async def ask() -> None:
        events = async_client.ask("c", "endless")
        if how == "with":
            async with events:
                await anext(events)
        elif how == "break":
            async for _ in events:
                break
        elif how == "close":
            await anext(events)
            await events.close()
            assert [event async for event in events] == []
        else:
            async for _ in events:
                pass

    asking = asyncio.create_task(ask())
    if how == "cancel":
        await asyncio.to_thread(gateway.tokens_sent.wait, 5)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    else:
        await asking
    gc.collect()
    assert await asyncio.to_thread(gateway.cancelled.wait, 5)


def test_documents_are_listed_page_after_page(client: Client, gateway: Any) -> None:
    client.put("c", [Document(f"d{number}", text="x") for number in range(7)])
    assert [document.document_id for document in client.list_documents("c", page_size=3)] == [f"d{n}" for n in range(7)]
    assert len(gateway.calls_of("ListDocuments")) == 3


async def test_the_asynchronous_client_lists_the_same(async_client: AsyncClient) -> None:
    await async_client.put("c", [Document(f"d{number}", text="x") for number in range(7)])
    listed = [document.document_id async for document in async_client.list_documents("c", page_size=3)]
    assert listed == [f"d{number}" for number in range(7)]


def test_each_document_watched_is_told_once_even_when_the_stream_breaks(client: Client, gateway: Any) -> None:
    gateway.actions.append("break after 2")
    gateway.rejects["d3"] = "it is encrypted"
    told = list(client.watch("c", [f"d{number}" for number in range(5)]))
    assert [status.document_id for status in told] == ["d0", "d1", "d2", "d3", "d4"]
    assert [status.state for status in told].count(DocumentState.REJECTED) == 1
    assert told[3].reason == "it is encrypted"
    assert [len(request.document_ids) for request in gateway.calls_of("WatchDocuments")] == [5, 3]


def test_a_collection_that_exists_is_returned_when_that_is_fine(client: Client) -> None:
    client.create_collection("c")
    with pytest.raises(AlreadyExists):
        client.create_collection("c")
    assert client.create_collection("c", exist_ok=True).name == "c"


def test_the_key_goes_with_every_call(served: Any) -> None:
    with Client(served.address, api_key="secret") as client:
        client.status()
        client.put("c", [Document("a", text="x")])
    assert [metadata["authorization"] for metadata in served.gateway.metadata] == ["Bearer secret"] * 2
    assert served.gateway.metadata[0]["user-agent"].startswith("headwater-python/")


def test_a_closed_client_says_so(client: Client) -> None:
    client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        client.status()
