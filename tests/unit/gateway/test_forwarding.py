"""Writes in flight: bounded, each told about once, whatever becomes of the stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from services.gateway.forwarding import Acknowledged, Forwarder, Outcome, Refused, Reply, Unknown, Write
from services.gateway.settings import GatewaySettings
from services.gateway.values import Scope, WriteToken
from serving.errors import HeadwaterError, Unavailable

TOKEN = WriteToken(b"log", 0, {0: 1})


class Stream:
    """A stream whose other end is the test."""

    def __init__(self) -> None:
        self.sent: list[Write] = []
        self.cancelled = False
        self._replies: asyncio.Queue[Reply | HeadwaterError | None] = asyncio.Queue()
        self._finished = False

    async def send(self, scope: Scope, write: Write, collections_offset: int) -> None:
        self.sent.append(write)

    async def finish(self) -> None:
        self._finished = True
        self._replies.put_nowait(None)

    async def replies(self) -> AsyncIterator[Reply]:
        answered = 0
        while not (self._finished and answered == len(self.sent)):
            reply = await self._replies.get()
            if isinstance(reply, HeadwaterError):
                raise reply
            if reply is not None:
                answered += 1
                yield reply

    def cancel(self) -> None:
        self.cancelled = True

    def acknowledge(self, number: int) -> None:
        self._replies.put_nowait(Reply(self.sent[number].write_id, token=TOKEN))

    def break_off(self) -> None:
        self._replies.put_nowait(Unavailable("gone"))


class Ingestion:
    """Opens streams while it is up."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.up = True

    async def open_writes(self) -> Stream:
        if not self.up:
            raise Unavailable("down")
        self.streams.append(Stream())
        return self.streams[-1]


class Run:
    """A forwarder at work on writes that the test feeds."""

    def __init__(self, ingestion: Ingestion, **settings: int) -> None:
        self.outcomes: list[Outcome] = []
        self._writes: asyncio.Queue[Write | Refused | None] = asyncio.Queue()
        self._forwarder = Forwarder(ingestion, Scope("t", "c"), 0, GatewaySettings(**settings))  # type: ignore[arg-type]
        self.task = asyncio.create_task(self._run())

    def feed(self, *writes: Write | Refused | None) -> None:
        for write in writes:
            self._writes.put_nowait(write)

    async def _run(self) -> None:
        async for outcome in self._forwarder.forward(self._feeding()):
            self.outcomes.append(outcome)

    async def _feeding(self) -> AsyncGenerator[Write | Refused, None]:
        while (write := await self._writes.get()) is not None:
            yield write


def write(number: int, size_bytes: int = 0) -> Write:
    return Write(number.to_bytes(16, "big"), f"d{number}", 0, size_bytes)


async def settle() -> None:
    """Let every task run until all of them wait."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"max_writes_in_flight": 2}, [0, 0, 0, 0]),
        ({"max_write_bytes_in_flight": 2048}, [1024, 1024, 1024, 1024]),
    ],
)
async def test_no_more_than_the_bound_is_in_flight(settings: dict[str, int], sizes: list[int]) -> None:
    ingestion = Ingestion()
    run = Run(ingestion, **settings)
    run.feed(*(write(n, size) for n, size in enumerate(sizes)), None)
    await settle()
    [stream] = ingestion.streams
    for answered in range(len(sizes)):
        assert len(stream.sent) == min(answered + 2, len(sizes))
        stream.acknowledge(answered)
        await settle()
    await run.task
    assert [type(outcome) for outcome in run.outcomes] == [Acknowledged] * len(sizes)


async def test_a_document_above_the_bytes_in_flight_goes_alone() -> None:
    ingestion = Ingestion()
    run = Run(ingestion, max_write_bytes_in_flight=1024)
    run.feed(write(1, 5000), write(2, 1), None)
    await settle()
    [stream] = ingestion.streams
    assert [one.document_id for one in stream.sent] == ["d1"]
    stream.acknowledge(0)
    await settle()
    stream.acknowledge(1)
    await run.task
    assert len(run.outcomes) == 2


async def test_what_was_in_flight_when_the_stream_broke_is_unknown_once_and_the_rest_goes_on() -> None:
    ingestion = Ingestion()
    run = Run(ingestion)
    run.feed(write(1), write(2), write(3))
    await settle()
    ingestion.streams[0].acknowledge(1)
    ingestion.streams[0].break_off()
    await settle()
    ingestion.up = False
    run.feed(write(4))
    await settle()
    ingestion.up = True
    run.feed(write(5), None)
    await settle()
    ingestion.streams[1].acknowledge(0)
    await run.task
    assert {outcome.write.document_id: type(outcome) for outcome in run.outcomes} == {
        "d1": Unknown,
        "d2": Acknowledged,
        "d3": Unknown,
        "d4": Refused,
        "d5": Acknowledged,
    }
    assert len(run.outcomes) == 5


async def test_a_write_that_waited_for_room_on_a_broken_stream_takes_the_next() -> None:
    ingestion = Ingestion()
    run = Run(ingestion, max_writes_in_flight=1)
    run.feed(write(1), write(2), None)
    await settle()
    ingestion.streams[0].break_off()
    await settle()
    ingestion.streams[1].acknowledge(0)
    await run.task
    assert [(one.write.document_id, type(one)) for one in run.outcomes] == [("d1", Unknown), ("d2", Acknowledged)]


async def test_what_was_refused_before_passes_through() -> None:
    ingestion = Ingestion()
    run = Run(ingestion)
    run.feed(Refused(write(1), Unavailable("no")), None)
    await run.task
    assert [type(outcome) for outcome in run.outcomes] == [Refused]
    assert ingestion.streams == []


async def test_giving_up_gives_up_the_stream() -> None:
    ingestion = Ingestion()
    run = Run(ingestion, max_writes_in_flight=1)
    run.feed(write(1), write(2))
    await settle()
    run.task.cancel()
    await asyncio.gather(run.task, return_exceptions=True)
    await settle()
    assert ingestion.streams[0].cancelled
