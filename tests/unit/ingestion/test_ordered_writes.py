"""The order of one stream's writes."""

from __future__ import annotations

import asyncio

import pytest

from services.ingestion.documents import Landed, Write
from services.ingestion.intake import OrderedWrites
from serving.errors import InvalidArgument, Unavailable
from serving.eventlog import OutcomeUnknown


def write(document_id: str, number: int) -> Write:
    return Write("tenant", "c" * 32, document_id, number.to_bytes(16, "big"), 0, 0, None)


async def test_writes_of_one_document_are_appended_in_order_while_others_go_ahead() -> None:
    appended: list[tuple[str, int]] = []
    first_may_land = asyncio.Event()

    async def accept(one: Write) -> Landed:
        if one.write_id == bytes(16):
            await first_may_land.wait()
        appended.append((one.document_id, one.write_id[-1]))
        return Landed(0, len(appended), 0)

    writes = OrderedWrites(accept)
    tasks = [
        asyncio.ensure_future(writes.submit(write(document_id, number))())
        for number, document_id in enumerate(["a", "a", "b", "a"])
    ]
    await tasks[2]
    first_may_land.set()
    await asyncio.gather(*tasks)

    assert appended == [("b", 2), ("a", 0), ("a", 1), ("a", 3)]


async def test_a_refused_write_does_not_hold_up_the_next() -> None:
    async def accept(one: Write) -> Landed:
        if one.write_id == bytes(16):
            raise InvalidArgument("no")
        return Landed(0, 1, 0)

    writes = OrderedWrites(accept)
    first, second = writes.submit(write("a", 0)), writes.submit(write("a", 1))

    with pytest.raises(InvalidArgument):
        await first()
    assert await second() == Landed(0, 1, 0)


async def test_after_an_unknown_outcome_the_documents_later_writes_are_refused() -> None:
    async def accept(one: Write) -> Landed:
        if one.write_id == bytes(16):
            raise OutcomeUnknown("who knows")
        return Landed(0, 1, 0)

    writes = OrderedWrites(accept)
    first, second, other = (
        writes.submit(write("a", 0)),
        writes.submit(write("a", 1)),
        writes.submit(write("b", 2)),
    )

    with pytest.raises(OutcomeUnknown):
        await first()
    for later in (second, writes.submit(write("a", 3))):
        with pytest.raises(Unavailable) as caught:
            await later()
        assert caught.value.reason == "EARLIER_WRITE_UNKNOWN"
        assert 0 < caught.value.retry_after_ms <= 10_000
    await other()
