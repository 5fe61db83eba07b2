"""Putting documents over a real channel: what lands, in which order, whatever becomes of streams."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from headwater import (
    AsyncClient,
    Client,
    Document,
    InvalidArgument,
    NotFound,
    Unavailable,
    WriteFailed,
    WriteUnknown,
)


def documents(count: int) -> list[Document]:
    return [Document(f"d{number}", text=f"text {number}") for number in range(count)]


def test_every_document_lands_once_and_the_newest_token_covers_all(client: Client, gateway: Any) -> None:
    result = client.put("c", documents(200))
    assert result.accepted == 200
    assert result.token == "200"
    assert sorted(one.document_id for one in gateway.log) == sorted(d.id for d in documents(200))
    assert len(gateway.calls_of("PutDocuments")) == 1


def test_the_first_document_waits_for_the_gateways_clock(client: Client, gateway: Any) -> None:
    gateway.may_open.clear()
    gateway.clock_offset_ms = -3_600_000  # an hour behind ours
    done = threading.Thread(target=client.put, args=("c", documents(3)))
    done.start()
    while not gateway.calls_of("PutDocuments"):
        time.sleep(0.005)
    assert gateway.attempts == []
    gateway.may_open.set()
    done.join()
    arrived = gateway.now_unix_ms()
    for attempt in gateway.attempts:
        assert arrived - 5000 < attempt.sent_unix_ms <= arrived


def test_a_stamp_is_never_later_than_the_gateways_time(client: Client, gateway: Any) -> None:
    def slowly() -> Iterator[Document]:
        for document in documents(5):
            time.sleep(0.02)
            yield document

    client.put("c", slowly())
    stamps = [attempt.sent_unix_ms for attempt in gateway.attempts]
    assert stamps == sorted(stamps)
    assert stamps[-1] <= gateway.now_unix_ms()
    assert stamps[-1] > stamps[0]


def test_at_most_64_documents_are_on_their_way(client: Client, gateway: Any) -> None:
    gateway.may_answer.clear()
    taken = []

    def counted() -> Iterator[Document]:
        for document in documents(200):
            taken.append(document.id)
            yield document

    putting = threading.Thread(target=client.put, args=("c", counted()))
    putting.start()
    while len(taken) < 64:
        time.sleep(0.005)
    time.sleep(0.1)  # it would take more in this time if it did not stop
    assert len(taken) == 64
    gateway.may_answer.set()
    putting.join()
    assert len(gateway.log) == 200


def test_at_most_8_mib_are_on_their_way(client: Client, gateway: Any) -> None:
    gateway.may_answer.clear()
    taken = []

    def large() -> Iterator[Document]:
        for number in range(6):
            taken.append(number)
            yield Document(f"d{number}", body=b"x" * (3 << 20))

    putting = threading.Thread(target=client.put, args=("c", large()))
    putting.start()
    while len(taken) < 3:
        time.sleep(0.005)
    time.sleep(0.1)
    assert len(taken) == 3  # two are on their way, the third is held until it fits
    gateway.may_answer.set()
    putting.join()
    assert len(gateway.log) == 6


@pytest.mark.usefixtures("quickly_settled")
@pytest.mark.parametrize("landed", ["landed", ""])
@pytest.mark.parametrize("how", ["drop", "unknown"])
def test_an_unknown_outcome_is_settled_so_that_each_write_lands_once(
    client: Client, gateway: Any, how: str, landed: str
) -> None:
    gateway.actions.extend(["acknowledge", f"{how} {landed}".strip(), "acknowledge"])
    result = client.put("c", documents(5))
    assert result.accepted == 5
    assert sorted(one.document_id for one in gateway.log) == ["d0", "d1", "d2", "d3", "d4"]
    assert gateway.calls_of("FindWrites")
    write_ids = {attempt.document.id: attempt.write_id for attempt in gateway.attempts}
    assert all(one.write_id == write_ids[one.document_id] for one in gateway.log)


@pytest.mark.usefixtures("quickly_settled")
def test_a_write_that_did_not_land_is_sent_again_with_a_new_stamp_once_it_no_longer_can(
    client: Client, gateway: Any
) -> None:
    gateway.actions.append("unknown")
    client.put("c", documents(1))
    first, second = gateway.attempts
    assert second.write_id == first.write_id
    assert second.sent_unix_ms >= first.sent_unix_ms + 190


def test_a_write_that_was_late_is_sent_again_at_once(client: Client, gateway: Any) -> None:
    gateway.actions.append("refuse DEADLINE_EXCEEDED WRITE_TOO_OLD")
    assert client.put("c", documents(1)).accepted == 1
    assert not gateway.calls_of("FindWrites")


def test_a_write_refused_for_now_is_sent_again(client: Client, gateway: Any) -> None:
    gateway.actions.extend(["refuse UNAVAILABLE", "refuse UNAVAILABLE"])
    assert client.put("c", documents(3)).accepted == 3
    assert not gateway.calls_of("FindWrites")


def test_silence_ends_in_write_unknown_naming_the_documents(client: Client, gateway: Any) -> None:
    gateway.actions.append("silence")
    with pytest.raises(WriteUnknown) as caught:
        client.put("c", documents(1), timeout=0.4)
    assert caught.value.document_ids == ("d0",)
    assert caught.value.result.accepted == 0


@pytest.mark.usefixtures("quickly_settled")
def test_a_newer_put_waits_until_the_older_one_of_unknown_outcome_can_no_longer_land(
    client: Client, gateway: Any
) -> None:
    gateway.actions.append("silence")
    with pytest.raises(WriteUnknown):
        client.put("c", [Document("a", text="old")], timeout=0.1)
    client.put("c", [Document("a", text="new")])
    old, new = gateway.attempts
    assert new.sent_unix_ms >= old.sent_unix_ms + 190
    assert gateway.texts("a") == ["new"]


@pytest.mark.usefixtures("quickly_settled")
def test_a_resend_never_overtakes_a_newer_put_from_another_thread(client: Client, gateway: Any) -> None:
    gateway.actions.append("unknown")
    older = threading.Thread(target=client.put, args=("c", [Document("a", text="old")]))
    older.start()
    while not gateway.attempts:
        time.sleep(0.002)
    client.put("c", [Document("a", text="new")])
    older.join()
    assert gateway.texts("a") == ["old", "new"]


def test_the_first_refusal_is_raised_once_the_rest_is_settled(client: Client, gateway: Any) -> None:
    gateway.actions.extend(["acknowledge", "refuse INVALID_ARGUMENT DOCUMENT_EMPTY"])
    outcomes: dict[str, Any] = {}
    with pytest.raises(WriteFailed) as caught:
        client.put("c", documents(500), on_outcome=lambda document_id, error: outcomes.update({document_id: error}))
    error = caught.value
    assert (error.code, error.reason, error.field) == ("INVALID_ARGUMENT", "DOCUMENT_EMPTY", "document.body")
    assert [refusal.document_id for refusal in error.result.refused] == ["d1"]
    assert error.result.accepted == len(gateway.log) == len(outcomes) - 1
    assert client.own_writes("c") == error.result.token


def test_refusals_are_collected_on_request(client: Client, gateway: Any) -> None:
    gateway.actions.extend(["acknowledge", "refuse INVALID_ARGUMENT DOCUMENT_EMPTY"])
    result = client.put("c", documents(100), on_error="collect")
    assert result.accepted == 99
    assert [(r.document_id, type(r.error)) for r in result.refused] == [("d1", InvalidArgument)]


def test_what_cannot_be_sent_is_refused_without_ending_the_others(client: Client, gateway: Any) -> None:
    bad = [
        Document("large", body=b"x" * (16 * 1024 * 1024 + 1)),
        Document("half", text="\ud800"),
        Document("odd", text="x", metadata={"when": object()}),  # type: ignore[dict-item]
        Document("\ud800", text="x"),
    ]
    result = client.put("c", [*bad, Document("good", text="x")], on_error="collect")
    assert result.accepted == 1
    fields = {refusal.document_id: refusal.error.field for refusal in result.refused}
    assert fields == {"large": "body", "half": "text", "odd": "metadata.when", "\ud800": "document"}
    assert "16 MiB" in str(result.refused[0].error)


def test_an_unknown_collection_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        client.put("absent", documents(2))
    assert caught.value.reason == "COLLECTION_NOT_FOUND"


def test_what_the_iterable_raises_comes_out_after_what_was_sent_is_settled(client: Client, gateway: Any) -> None:
    def broken() -> Iterator[Document]:
        yield Document("a", text="x")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.put("c", broken())
    assert gateway.texts("a") == ["x"]
    assert client.own_writes("c") == "1"


def test_a_gateway_that_cannot_be_reached_is_unavailable() -> None:
    with Client("127.0.0.1:1", timeout=0.5) as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        client.put("c", documents(1))


def test_nothing_to_put_is_nothing_done(client: Client, gateway: Any) -> None:
    assert client.put("c", []).accepted == 0
    assert not gateway.calls


def test_a_deletion_carries_the_gateways_time_even_from_a_new_client(client: Client, gateway: Any) -> None:
    gateway.clock_offset_ms = 7_200_000
    result = client.delete("c", ["a", "b", "a"])
    assert result.accepted == 2
    (request,) = gateway.calls_of("DeleteDocuments")
    assert list(request.document_ids) == ["a", "b"]
    assert len(set(request.write_ids)) == 2
    assert abs(request.sent_unix_ms - gateway.now_unix_ms()) < 5000


@pytest.mark.usefixtures("quickly_settled")
def test_a_deletion_of_unknown_outcome_is_settled(client: Client, gateway: Any) -> None:
    import grpc

    gateway.failures.append((grpc.StatusCode.UNAVAILABLE, "going away", {}))
    assert client.delete("c", ["a"]).accepted == 1
    assert gateway.calls_of("FindWrites")
    assert gateway.texts("a") == [None]


async def test_the_asynchronous_client_puts_the_same(async_client: AsyncClient, gateway: Any) -> None:
    async def source() -> AsyncIterator[Document]:
        for document in documents(200):
            yield document

    result = await async_client.put("c", source())
    assert (result.accepted, result.token, len(gateway.log)) == (200, "200", 200)
    assert (await async_client.put("c", documents(100))).accepted == 100


@pytest.mark.usefixtures("quickly_settled")
@pytest.mark.parametrize("action", ["drop", "drop landed", "unknown", "unknown landed", "refuse UNAVAILABLE"])
async def test_the_asynchronous_client_settles_the_same(async_client: AsyncClient, gateway: Any, action: str) -> None:
    gateway.actions.extend(["acknowledge", action])
    assert (await async_client.put("c", documents(5))).accepted == 5
    assert sorted(one.document_id for one in gateway.log) == ["d0", "d1", "d2", "d3", "d4"]


async def test_the_asynchronous_client_deletes_the_same(async_client: AsyncClient, gateway: Any) -> None:
    assert (await async_client.delete("c", ["a"])).accepted == 1
    assert gateway.texts("a") == [None]
