"""What comes while the store is being asked. (What comes before and after is in tests/integration/cache.)"""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from services.cache.admissions import AdmissionLimits, Admissions
from services.cache.answers import AnswerCache, Hit, Miss, MissReason, Offer, now_unix_ms
from services.cache.engines.fake import FakeStore
from services.cache.history import Advance, Change, History
from services.cache.keys import Question, Slot
from services.cache.settings import CacheSettings

LOG = b"log"
QUESTION = Question("acme", (), "c", 1, "why?", b"", "", "", b"")
OFFER = Offer(b"because", LOG, {0: 0}, (), 0.0, 0.0, b"")


class HeldStore(FakeStore):
    """A store whose answers can be held: it has done what it was asked, and nobody has heard of it yet."""

    def __init__(self) -> None:
        super().__init__()
        self.going = asyncio.Event()
        self.going.set()
        self.asked = asyncio.Event()

    async def get(self, slot: Slot) -> bytes | None:
        entry = await super().get(slot)
        await self._answer()
        return entry

    async def put(self, slot: Slot, lease_id: bytes, entry: bytes, *, ttl_ms: int, announcement: bytes) -> bool:
        held = await super().put(slot, lease_id, entry, ttl_ms=ttl_ms, announcement=announcement)
        await self._answer()
        return held

    async def _answer(self) -> None:
        self.asked.set()
        await self.going.wait()

    def hold(self) -> None:
        self.going.clear()
        self.asked.clear()


class Process:
    """An AnswerCache whose log the test writes by hand."""

    def __init__(self) -> None:
        self.store = HeldStore()
        self.admissions = Admissions(History(100), AdmissionLimits(100, 1_000_000, 60_000), now_unix_ms)
        self.answers = AnswerCache(self.store, self.admissions, CacheSettings(engine="fake"))
        self.admissions.follow(LOG, {0: 0})
        self.offset = 0
        self.see_end()

    def see_end(self, *, seconds_ago: float = 0.0, change: bool = False) -> None:
        """See the log's end, one change further on or not."""
        changes = [Change(0, self.offset, "c", "d")] if change else []
        self.offset += len(changes)
        asked_at = time.monotonic() - seconds_ago
        self.admissions.apply(Advance(0, changes, None, self.offset, self.offset, asked_at))

    async def lookup(self) -> Hit | Miss:
        return await self.answers.lookup(QUESTION, partitions=[0], token=None, wait_seconds=0)

    async def lease(self) -> bytes:
        missed = await self.lookup()
        assert isinstance(missed, Miss)
        assert missed.lease_id
        return missed.lease_id


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    process = Process()
    async with process.answers:
        yield process


async def test_change_while_the_answer_is_read_keeps_it_from_being_served(process: Process) -> None:
    await process.answers.store(QUESTION, await process.lease(), OFFER)
    process.store.hold()
    lookup = asyncio.create_task(process.lookup())
    await process.store.asked.wait()
    process.see_end(change=True)
    process.store.going.set()
    assert isinstance(await lookup, Miss)


async def test_process_that_falls_behind_while_the_answer_is_read_serves_it_later(process: Process) -> None:
    await process.answers.store(QUESTION, await process.lease(), OFFER)
    process.store.hold()
    lookup = asyncio.create_task(process.lookup())
    await process.store.asked.wait()
    process.admissions.history.start(LOG, {0: 0})
    process.store.going.set()
    assert await lookup == Miss(MissReason.BEHIND)
    process.see_end()
    assert isinstance(await process.lookup(), Hit)


async def test_change_while_the_answer_is_kept_keeps_it_out(process: Process) -> None:
    lease_id = await process.lease()
    process.store.hold()
    store = asyncio.create_task(process.answers.store(QUESTION, lease_id, OFFER))
    await process.store.asked.wait()
    process.see_end(change=True)
    process.store.going.set()
    assert "changed after" in await store
    assert isinstance(await process.lookup(), Miss)


async def test_caller_that_hangs_up_while_it_holds_the_lease_gives_it_back(process: Process) -> None:
    process.store.hold()
    lookup = asyncio.create_task(process.lookup())
    await process.store.asked.wait()
    lookup.cancel()
    await asyncio.gather(lookup, return_exceptions=True)
    process.store.going.set()
    assert await process.lease()


@pytest.mark.parametrize(("seconds_ago", "current"), [(1.5, True), (2.0, False)])
async def test_end_of_the_log_counts_for_two_seconds(seconds_ago: float, current: bool) -> None:
    process = Process()
    await process.answers.store(QUESTION, await process.lease(), OFFER)
    process.admissions.history.start(LOG, {0: 0})
    process.see_end(seconds_ago=seconds_ago)
    found = await process.lookup()
    assert isinstance(found, Hit) if current else found == Miss(MissReason.BEHIND)
