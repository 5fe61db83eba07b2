"""The plan of a put, driven by hand in virtual time against a log that can be late."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Any

import pytest
from headwater import Document, HeadwaterError, Unavailable, WriteUnknown
from headwater._config import read_config
from headwater._core import Core
from headwater._plans import Call, Sleep
from headwater._put import Abort, Ended, HalfClose, NextDocument, Open, Receive, Send
from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

REFUSED_AFTER_SECONDS = 5.0
FATES = [
    "acknowledge",
    "refuse",
    "unknown lost",
    "unknown landed",
    "unknown late",
    "break lost",
    "break late",
    "silent late",
]


class World:
    """A log that takes a write up to five seconds after its stamp, a stream before it, and the time.

    fates: what becomes of the next attempts. A "late" one lands by itself just before the log would refuse it.
    """

    def __init__(self, fates: Iterable[str], *, clock_offset_ms: int = 123_456) -> None:
        self.now = 1000.0
        self.fates = deque(fates)
        self.offset_ms = clock_offset_ms
        self.log: list[tuple[str, bytes, bytes]] = []
        self.late: list[tuple[float, tuple[str, bytes, bytes]]] = []
        self.inbox: list[Any] = []
        self.calls: list[tuple[float, str]] = []
        self.stamps: list[tuple[str, int]] = []
        config = read_config(
            "127.0.0.1:1", api_key="", tls=None, root_certificates=None, insecure=False, timeout=60, retries=4
        )
        self.core = Core(config, now=lambda: self.now)

    def gateway_ms(self) -> float:
        return self.now * 1000 + self.offset_ms

    def advance(self, until: float) -> None:
        """Time passes; what is late lands."""
        for at, landing in sorted(self.late, key=lambda item: item[0]):
            if at <= until:
                self.late.remove((at, landing))
                self.log.append(landing)
        self.now = max(self.now, until)

    def put(self, documents: Iterable[Document], **arguments: Any) -> Any:
        source = iter(documents)
        options: dict[str, Any] = {
            "after": None, "on_error": "raise", "on_outcome": None, "timeout": None, "wake": lambda: None
        }  # fmt: skip
        plan = self.core.put("c", **options | arguments)
        try:
            step = next(plan)
            while True:
                try:
                    result = self.perform(step, source)
                except HeadwaterError as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(result)
        except StopIteration as stop:
            return stop.value

    def perform(self, step: Any, source: Any) -> Any:
        match step:
            case Open():
                opened = gateway_pb2.Opened(now_unix_ms=int(self.gateway_ms()))
                self.inbox = [gateway_pb2.PutDocumentsResponse(opened=opened)]
            case Send(attempt):
                attempt.stamp(self.core.clock, self.now)
                self.receive(attempt.put_request())
            case HalfClose():
                self.inbox.append(Ended(None))
            case Abort():
                self.inbox = []
            case Receive(timeout_seconds):
                if not self.inbox:
                    assert timeout_seconds < inf, "waits for good for a gateway that says nothing more"
                    self.advance(self.now + timeout_seconds)
                events, self.inbox = self.inbox, []
                return events
            case NextDocument():
                return next(source, None)
            case Sleep(seconds):
                self.advance(self.now + seconds)
            case Call("FindWrites", gateway_pb2.FindWritesRequest() as request):
                self.calls.append((self.now, "FindWrites"))
                landed = [any(query.write_id == one[1] for one in self.log) for query in request.writes]
                return gateway_pb2.FindWritesResponse(
                    writes=[
                        gateway_pb2.FoundWrite(
                            landed=found,
                            settled=self.gateway_ms() - query.sent_unix_ms > REFUSED_AFTER_SECONDS * 1000,
                            write_token="found" if found else "",
                        )
                        for query, found in zip(request.writes, landed, strict=True)
                    ]
                )

    def receive(self, request: gateway_pb2.PutDocumentsRequest) -> None:
        assert request.sent_unix_ms <= self.gateway_ms(), "stamped later than the gateway's true time"
        self.stamps.append((request.document.id, request.sent_unix_ms))
        names: dict[str, Any] = {"write_id": request.write_id, "document_id": request.document.id}
        landing = (request.document.id, request.write_id, request.document.body)
        fate = self.fates.popleft() if self.fates else "acknowledge"
        if fate == "acknowledge" or fate.endswith("landed"):
            self.log.append(landing)
        elif fate.endswith("late"):
            self.late.append((self.now + REFUSED_AFTER_SECONDS - 0.01, landing))
        error = common_pb2.Error(code="UNAVAILABLE", message="away")
        match fate.split()[0]:
            case "acknowledge":
                acknowledged = gateway_pb2.Acknowledged(**names, write_token=str(len(self.log)))
                self.inbox.append(gateway_pb2.PutDocumentsResponse(acknowledged=acknowledged))
            case "refuse":
                self.inbox.append(gateway_pb2.PutDocumentsResponse(refused=gateway_pb2.Refused(**names, error=error)))
            case "unknown":
                self.inbox.append(gateway_pb2.PutDocumentsResponse(unknown=gateway_pb2.Refused(**names, error=error)))
            case "break":
                self.inbox.append(Ended(Unavailable("away")))


@settings(max_examples=200)
@given(st.lists(st.sampled_from(FATES), max_size=12), st.integers(1, 6))
def test_whatever_happens_each_write_lands_once_and_in_order(fates: list[str], count: int) -> None:
    world = World(fates)
    documents = [Document(f"d{number}", text="x") for number in range(count)]
    result = world.put(documents, timeout=600)
    assert result.accepted == count
    world.advance(world.now + 60)  # whatever was late has landed by now, or never will
    assert sorted(document_id for document_id, _, _ in world.log) == [document.id for document in documents]


@given(st.lists(st.sampled_from(FATES), max_size=6))
def test_a_later_put_of_the_same_document_is_what_stays(fates: list[str]) -> None:
    world = World(fates)
    for version in range(3):
        world.put([Document("a", text=str(version))], timeout=600)
    world.advance(world.now + 60)
    assert [body for _, _, body in world.log] == [b"0", b"1", b"2"]


def test_nothing_is_sent_again_before_ten_seconds_have_settled_it() -> None:
    world = World(["unknown lost"])
    world.put([Document("a", text="x")])
    (_, first), (_, second) = world.stamps
    assert second - first >= 10_000


def test_what_landed_is_found_at_once() -> None:
    world = World(["unknown landed"])
    assert world.put([Document("a", text="x")]).token == "found"
    assert world.now == pytest.approx(1000.0)


def test_time_running_out_names_the_documents_and_keeps_their_order() -> None:
    world = World(["silent late"])
    with pytest.raises(WriteUnknown) as caught:
        world.put([Document("a", text="old")], timeout=3)
    assert caught.value.document_ids == ("a",)
    assert world.now <= 1003
    world.put([Document("a", text="new")])
    assert [body for _, _, body in world.log] == [b"old", b"new"]
    assert world.now >= 1010


def test_stamps_follow_the_gateways_clock_and_not_ours() -> None:
    world = World([], clock_offset_ms=-900_000)
    world.put([Document("a", text="x")])
    assert world.stamps == [("a", 100_000)]


def test_other_documents_do_not_wait_for_one_that_was_given_up_on() -> None:
    world = World(["silent late"])
    with pytest.raises(WriteUnknown):
        world.put([Document("a", text="old")], timeout=3)
    world.put([Document("b", text="x")])
    assert world.now <= 1003
