"""What every store must do: payloads, leases, announcements."""

import asyncio
from contextlib import aclosing

from services.cache.engines import Store
from services.cache.keys import Slot
from tests.harness.cache import until

SLOT = Slot("tenant", "c", "collection", b"key")
OTHER_KEY = Slot("tenant", "c", "collection", b"other")
OTHER_COLLECTION = Slot("tenant", "d", "other", b"key")
OTHER_TENANT = Slot("other", "c", "collection", b"key")
LONG_MS = 60_000


async def keep(store: Store, slot: Slot, entry: bytes, *, ttl_ms: int = LONG_MS) -> None:
    assert await store.acquire(slot, b"lease", lease_ms=LONG_MS)
    assert await store.put(slot, b"lease", entry, ttl_ms=ttl_ms, announcement=b"")


async def test_entry_is_given_back(store: Store) -> None:
    assert await store.get(SLOT) is None
    await keep(store, SLOT, b"\x00\xff entry")
    assert await store.get(SLOT) == b"\x00\xff entry"
    for other in (OTHER_KEY, OTHER_COLLECTION, OTHER_TENANT):
        assert await store.get(other) is None


async def test_entry_takes_the_place_of_the_former(store: Store) -> None:
    await keep(store, SLOT, b"former")
    await keep(store, SLOT, b"newer")
    assert await store.get(SLOT) == b"newer"


async def test_entry_ends_with_its_time_to_live(store: Store) -> None:
    await keep(store, SLOT, b"entry", ttl_ms=50)

    async def gone() -> bool:
        return await store.get(SLOT) is None

    await until(gone, "expired")


async def test_removed_entry_is_gone(store: Store) -> None:
    await keep(store, SLOT, b"entry")
    await store.remove(SLOT)
    await store.remove(SLOT)
    assert await store.get(SLOT) is None


async def test_removing_a_collection_leaves_the_others(store: Store) -> None:
    slots = [SLOT, OTHER_KEY, OTHER_COLLECTION, OTHER_TENANT]
    for slot in slots:
        await keep(store, slot, b"entry")
    await store.remove_collection("tenant", "collection")
    assert [await store.get(slot) for slot in slots] == [None, None, b"entry", b"entry"]


async def test_lease_has_one_holder(store: Store) -> None:
    assert await store.acquire(SLOT, b"first", lease_ms=LONG_MS)
    assert not await store.acquire(SLOT, b"second", lease_ms=LONG_MS)
    assert await store.acquire(OTHER_KEY, b"second", lease_ms=LONG_MS)
    assert await store.acquire(OTHER_TENANT, b"second", lease_ms=LONG_MS)


async def test_lease_is_one_for_all_that_come_at_once(store: Store) -> None:
    taken = await asyncio.gather(*(store.acquire(SLOT, bytes([number]), lease_ms=LONG_MS) for number in range(50)))
    assert sum(taken) == 1


async def test_only_its_holder_gives_a_lease_back(store: Store) -> None:
    await store.acquire(SLOT, b"holder", lease_ms=LONG_MS)
    await store.release(SLOT, b"other", announcement=b"")
    assert not await store.acquire(SLOT, b"other", lease_ms=LONG_MS)
    await store.release(SLOT, b"holder", announcement=b"")
    assert await store.acquire(SLOT, b"other", lease_ms=LONG_MS)


async def test_lease_runs_out(store: Store) -> None:
    await store.acquire(SLOT, b"dead", lease_ms=50)

    async def taken() -> bool:
        return await store.acquire(SLOT, b"heir", lease_ms=LONG_MS)

    await until(taken, "the lease")
    assert not await store.put(SLOT, b"dead", b"late", ttl_ms=LONG_MS, announcement=b"")
    assert await store.get(SLOT) is None


async def test_put_ends_the_lease(store: Store) -> None:
    await keep(store, SLOT, b"entry")
    assert not await store.put(SLOT, b"lease", b"twice", ttl_ms=LONG_MS, announcement=b"")
    assert await store.acquire(SLOT, b"next", lease_ms=LONG_MS)
    assert await store.get(SLOT) == b"entry"


async def test_put_and_release_are_announced_when_the_lease_was_held(store: Store) -> None:
    heard: list[bytes] = []

    async def listen() -> None:
        async with aclosing(store.announcements()) as announcements:
            async for announcement in announcements:
                heard.append(announcement)

    async def listening() -> bool:
        await store.announce(b"is anybody there?")
        return bool(heard)

    task = asyncio.create_task(listen())
    await until(listening, "subscribed")
    await store.acquire(SLOT, b"lease", lease_ms=LONG_MS)
    await store.put(SLOT, b"other", b"entry", ttl_ms=LONG_MS, announcement=b"not held")
    await store.put(SLOT, b"lease", b"entry", ttl_ms=LONG_MS, announcement=b"stored")
    await store.release(SLOT, b"lease", announcement=b"held no more")
    await store.acquire(SLOT, b"lease", lease_ms=LONG_MS)
    await store.release(SLOT, b"lease", announcement=b"released")
    await until(lambda: b"released" in heard, "heard")
    assert [announcement for announcement in heard if announcement != b"is anybody there?"] == [b"stored", b"released"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
