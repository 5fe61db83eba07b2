"""Valkey killed, frozen, or slow to connect to: misses at once, and recovery without help."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from services.cache.answers import Hit, Miss, MissReason
from tests.harness.cache import CacheProcess, CacheWorld, question, until
from tests.harness.valkey import Valkey

UNAVAILABLE = Miss(MissReason.STORE_UNAVAILABLE)
MANY = 2000
"""Lookups that would outlast the test's time if each waited for its budget."""


async def _gets_a_lease(process: CacheProcess, text: str) -> bool:
    missed = await process.lookup(question(text))
    return isinstance(missed, Miss) and missed.lease_id != b""


async def _started_and_filled(world: CacheWorld) -> CacheProcess:
    process = await world.start()
    await until(lambda: _gets_a_lease(process, "warm"), "connected")
    # the machine may be busy: an answer counts as kept when it was, within the budget of real use
    texts = iter(range(100))

    async def filled() -> bool:
        asked = question(f"filled {next(texts)}")
        missed = await process.lookup(asked)
        assert isinstance(missed, Miss)
        offsets = await world.writer.index_offsets()
        return missed.lease_id != b"" and await process.offer(asked, missed.lease_id, offsets) == ""

    await until(filled, "an answer kept")
    return process


async def test_killed_store_means_misses_without_lease_until_it_is_back(
    valkey_world: CacheWorld, valkey: Valkey
) -> None:
    process = await _started_and_filled(valkey_world)
    valkey.kill()
    async with asyncio.timeout(20):
        for number in range(MANY):
            assert await process.lookup(question(f"{number}"), wait_seconds=20) == UNAVAILABLE
    valkey.start()
    await until(lambda: _gets_a_lease(process, "after"), "asked again")


async def test_frozen_store_means_misses_without_lease_until_it_goes_on(
    valkey_world: CacheWorld, valkey: Valkey
) -> None:
    process = await _started_and_filled(valkey_world)
    valkey.freeze()
    async with asyncio.timeout(20):
        for number in range(MANY):
            assert await process.lookup(question(f"{number}"), wait_seconds=20) == UNAVAILABLE
    valkey.thaw()
    await until(lambda: _gets_a_lease(process, "after"), "asked again")


async def test_callers_at_once_do_not_wait_for_a_frozen_store(valkey_world: CacheWorld, valkey: Valkey) -> None:
    process = await _started_and_filled(valkey_world)
    valkey.freeze()
    outcomes = await asyncio.gather(*(process.lookup(question(f"{number}")) for number in range(200)))
    assert set(outcomes) == {UNAVAILABLE}
    valkey.thaw()


async def test_lease_granted_after_its_caller_went_on_is_given_back(valkey_world: CacheWorld, valkey: Valkey) -> None:
    process = await _started_and_filled(valkey_world)
    valkey.freeze()
    assert await process.lookup(question()) == UNAVAILABLE
    valkey.thaw()
    await until(lambda: _gets_a_lease(process, question().text), "the lease, long before it would run out")


async def test_waiters_do_not_outlast_the_store(valkey_world: CacheWorld, valkey: Valkey) -> None:
    process = await _started_and_filled(valkey_world)
    await until(lambda: _gets_a_lease(process, question().text), "led")
    waiting = asyncio.create_task(process.lookup(question(), wait_seconds=60))
    await until(lambda: len(process.answers.waiters) == 1, "waits")
    valkey.kill()
    assert await waiting == UNAVAILABLE


async def test_offer_to_a_dead_store_is_refused(valkey_world: CacheWorld, valkey: Valkey) -> None:
    process = await _started_and_filled(valkey_world)
    missed = Miss(MissReason.ABSENT)

    async def led() -> bool:
        nonlocal missed
        found = await process.lookup(question())
        assert isinstance(found, Miss)
        missed = found
        return missed.lease_id != b""

    await until(led, "led")
    offsets = await valkey_world.writer.index_offsets()
    valkey.kill()
    assert "the store" in await process.offer(question(), missed.lease_id, offsets)
    assert len(process.admissions) == 1, "nothing but what was kept before"


async def test_peers_hear_of_each_other_again_after_the_store_was_down(
    valkey_world: CacheWorld, valkey: Valkey
) -> None:
    process = await _started_and_filled(valkey_world)
    peer = await valkey_world.start()
    valkey.kill()
    valkey.start()
    texts = iter(range(1000))
    offsets = await valkey_world.writer.index_offsets()
    before = len(peer.admissions)

    async def heard() -> bool:
        asked = question(f"after {next(texts)}")
        missed = await process.lookup(asked)
        assert isinstance(missed, Miss)
        if missed.lease_id:
            await process.offer(asked, missed.lease_id, offsets)
        return len(peer.admissions) > before

    await until(heard, "announced")


async def test_connections_slower_than_the_budget_do_not_shut_the_store_off(
    valkey_world: CacheWorld, valkey: Valkey
) -> None:
    """Each connection takes five budgets to be made; those that were given up must be there for the next ones."""
    async with _slow_to_connect(valkey.port) as port:
        url = SecretStr(f"redis://127.0.0.1:{port}/0")
        process = await valkey_world.start(redis_url=url, breaker_cooldown_seconds=0.1)
        assert await process.lookup(question("first")) == UNAVAILABLE
        await until(lambda: _gets_a_lease(process, "later"), "connected")


@asynccontextmanager
async def _slow_to_connect(port: int) -> AsyncIterator[int]:
    """A way to the port on which the first bytes take 100 ms."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(0.1)
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
            finally:
                inner_writer.close()
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(carry(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_filled_answers_are_served(valkey_world: CacheWorld) -> None:
    process = await valkey_world.start()
    await until(lambda: _gets_a_lease(process, "warm"), "connected")

    async def served() -> bool:
        found = await process.lookup(question())
        if isinstance(found, Miss) and found.lease_id:
            await process.offer(question(), found.lease_id, await valkey_world.writer.index_offsets())
        return isinstance(found, Hit)

    await until(served, "a hit, on the budget of real use")
