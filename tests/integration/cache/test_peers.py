"""Several cache processes on one store: each serves only what it has checked itself. Over both stores."""

from collections.abc import Callable

import pytest

from services.cache import codec
from services.cache.answers import Hit, Miss, MissReason
from services.cache.entries import Header
from services.cache.keys import Question, Slot, slot_of
from tests.harness.cache import COLLECTION, CacheProcess, CacheWorld, question, until


async def test_announced_entry_is_served_by_a_peer_and_dropped_by_the_peer_itself(
    world: CacheWorld, process: CacheProcess
) -> None:
    peer = await world.start()
    await world.fill(process, question())
    await until(lambda: len(peer.admissions) == 1, "announced")
    assert isinstance(await peer.lookup(question()), Hit)
    process.hold_log()
    await world.writer.change()
    await peer.caught_up(await world.writer.index_offsets())
    assert isinstance(await peer.lookup(question()), Miss), "though the one that stored it has not heard of the change"


async def test_peer_that_knows_of_a_change_does_not_admit_what_it_overtook(
    world: CacheWorld, process: CacheProcess
) -> None:
    """The storing process is behind and takes the answer in; the peer is not, and must not."""
    peer = await world.start()
    miss = await process.lookup(question())
    retrieved_at = await world.writer.index_offsets()
    process.hold_log()
    await world.writer.change()
    await peer.caught_up(await world.writer.index_offsets())
    assert isinstance(miss, Miss)
    assert await process.offer(question(), miss.lease_id, retrieved_at) == ""
    assert isinstance(await peer.lookup(question()), Miss)
    assert len(peer.admissions) == 0


async def test_entry_found_at_start_is_served_after_the_same_check(world: CacheWorld, process: CacheProcess) -> None:
    await world.fill(process, question())
    await world.writer.progress()
    restarted = await world.start()
    assert len(restarted.admissions) == 0
    assert isinstance(await restarted.lookup(question()), Hit)
    await world.writer.change()
    again = await world.start()
    assert isinstance(await again.lookup(question()), Miss)


async def test_entry_older_than_what_a_started_process_read_back_is_not_served(
    world: CacheWorld, process: CacheProcess
) -> None:
    await world.fill(process, question())
    for _ in range(3):
        await world.writer.progress()
    assert isinstance(await process.lookup(question()), Hit)
    restarted = await world.start(backfill_records=2)
    assert isinstance(await restarted.lookup(question()), Miss)


def _damage(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _cut(data: bytes) -> bytes:
    return data[:5]


async def _replace(process: CacheProcess, slot: Slot, entry: bytes) -> None:
    """Put these bytes where the slot's entry lies."""
    await process.store.remove(slot)
    assert await process.store.acquire(slot, b"a test's lease", lease_ms=10_000)
    assert await process.store.put(slot, b"a test's lease", entry, ttl_ms=60_000, announcement=b"")


async def _stored(process: CacheProcess, slot: Slot) -> tuple[bytes, Header, bytes]:
    data = await process.store.get(slot)
    assert data is not None
    return data, *codec.decode_entry(data)


@pytest.mark.parametrize("damage", [_damage, _cut])
@pytest.mark.parametrize("admitted", [True, False])
async def test_damaged_payload_is_a_miss_and_is_removed(
    world: CacheWorld, process: CacheProcess, damage: Callable[[bytes], bytes], admitted: bool
) -> None:
    slot = slot_of(question())
    await world.fill(process, question())
    data, _, _ = await _stored(process, slot)
    await _replace(process, slot, damage(data))
    asked = process if admitted else await world.start()
    missed = await asked.lookup(question())
    assert isinstance(missed, Miss)
    assert missed.reason is MissReason.CORRUPT
    assert missed.lease_id
    assert await process.store.get(slot) is None


async def test_payload_with_another_id_is_a_miss(world: CacheWorld, process: CacheProcess) -> None:
    slot = slot_of(question())
    await world.fill(process, question(), b"true")
    _, header, _ = await _stored(process, slot)
    other = Header(
        b"another entry id", header.key_hash, COLLECTION, header.log_id, header.index_offsets, (), 0.0, 0.0, b"",
        header.stored_unix_ms,
    )  # fmt: skip
    await _replace(process, slot, codec.encode_entry(other, b"never admitted"))
    assert isinstance(await process.lookup(question()), Miss)


async def test_payload_of_another_key_is_a_miss(world: CacheWorld, process: CacheProcess) -> None:
    await world.fill(process, question("one"))
    data, _, _ = await _stored(process, slot_of(question("one")))
    await _replace(process, slot_of(question("two")), data)
    assert isinstance(await process.lookup(question("two")), Miss)


async def test_payload_that_the_store_let_go_of_is_a_miss(world: CacheWorld, process: CacheProcess) -> None:
    await world.fill(process, question())
    await process.store.remove(slot_of(question()))
    missed = await process.lookup(question())
    assert isinstance(missed, Miss)
    assert missed.lease_id


async def test_entry_that_is_too_long_is_refused(world: CacheWorld) -> None:
    process = await world.start(max_entry_bytes=2048)
    miss = await process.lookup(question())
    assert isinstance(miss, Miss)
    offsets = await world.writer.index_offsets()
    assert "2048" in await process.offer(question(), miss.lease_id, offsets, b"x" * 4096)


async def test_entries_end_with_their_time_to_live(world: CacheWorld) -> None:
    process = await world.start(entry_ttl_seconds=0.2)
    await world.fill(process, question())
    await until(lambda: process.admissions.get(slot_of(question()).key_hash) is None, "expired")
    assert isinstance(await process.lookup(question()), Miss)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (question(tenant="acme"), question(tenant="globex")),
        (question(groups=("hr",)), question(groups=("finance",))),
        (question(groups=("hr",)), question()),
        (question(groups=("a", "b")), question(groups=("ab",))),
        (question(collection_id="c" * 32), question(collection_id="d" * 32)),
    ],
)
async def test_answers_are_never_shared_between_scopes(
    world: CacheWorld, process: CacheProcess, one: Question, two: Question
) -> None:
    await world.fill(process, one)
    assert isinstance(await process.lookup(one), Hit)
    assert isinstance(await process.lookup(two), Miss)
