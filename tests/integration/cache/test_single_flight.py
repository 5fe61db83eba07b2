"""One caller works an answer out, the others wait for it. Over both stores, in one process and in two."""

import asyncio

import pytest

from services.cache.answers import Hit, Miss, MissReason
from services.cache.waiters import Waiters
from tests.harness.cache import CacheProcess, CacheWorld, question, until

CALLERS = 50


async def _leader_of(lookups: list[asyncio.Task[Hit | Miss]]) -> Miss:
    done, _ = await asyncio.wait(lookups, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    (leader,) = (task.result() for task in done)
    assert isinstance(leader, Miss)
    assert leader.lease_id
    return leader


def _waiting(process: CacheProcess, callers: int) -> bool:
    return len(process.answers.waiters) == callers


async def test_fifty_callers_take_one_lease_and_the_others_get_its_answer(
    world: CacheWorld, process: CacheProcess
) -> None:
    lookups = [asyncio.create_task(process.lookup(question(), wait_seconds=20)) for _ in range(CALLERS)]
    leader = await _leader_of(lookups)
    await until(lambda: _waiting(process, CALLERS - 1), "all others wait")
    assert await process.offer(question(), leader.lease_id, await world.writer.index_offsets()) == ""
    outcomes = await asyncio.gather(*lookups)
    assert sum(isinstance(outcome, Miss) for outcome in outcomes) == 1
    served = [outcome for outcome in outcomes if isinstance(outcome, Hit)]
    assert len(served) == CALLERS - 1
    assert all(hit.waited and hit.payload == b"an answer" for hit in served)


async def test_waiters_of_another_process_are_served(world: CacheWorld, process: CacheProcess) -> None:
    other = await world.start(poll_ms=10_000)
    leader = await process.lookup(question())
    waiting = asyncio.create_task(other.lookup(question(), wait_seconds=9))
    await until(lambda: _waiting(other, 1), "waits")
    assert isinstance(leader, Miss)
    assert await process.offer(question(), leader.lease_id, await world.writer.index_offsets()) == ""
    hit = await waiting
    assert isinstance(hit, Hit)
    assert hit.waited


async def test_answer_may_be_stored_through_another_process_than_the_lease_was_taken_from(
    world: CacheWorld, process: CacheProcess
) -> None:
    other = await world.start()
    leader = await process.lookup(question())
    assert isinstance(leader, Miss)
    assert await other.offer(question(), leader.lease_id, await world.writer.index_offsets()) == ""
    await until(lambda: len(process.admissions) == 1, "announced")
    assert isinstance(await process.lookup(question()), Hit)


async def test_released_lease_goes_to_one_waiter(process: CacheProcess) -> None:
    lookups = [asyncio.create_task(process.lookup(question(), wait_seconds=1)) for _ in range(3)]
    leader = await _leader_of(lookups)
    await until(lambda: _waiting(process, 2), "the others wait")
    await process.answers.release(question(), leader.lease_id)
    outcomes = await asyncio.gather(*lookups)
    misses = [outcome for outcome in outcomes if isinstance(outcome, Miss)]
    assert len({miss.lease_id for miss in misses if miss.lease_id}) == 2
    assert [miss.reason for miss in misses if not miss.lease_id] == [MissReason.WAITED]


async def test_lease_of_a_dead_leader_runs_out(world: CacheWorld) -> None:
    process = await world.start(lease_seconds=0.3, poll_ms=20)
    dead = await process.lookup(question())
    heir = await process.lookup(question(), wait_seconds=20)
    assert isinstance(dead, Miss)
    assert isinstance(heir, Miss)
    assert heir.lease_id
    assert heir.lease_id != dead.lease_id
    offsets = await world.writer.index_offsets()
    assert "lease was lost" in await process.offer(question(), dead.lease_id, offsets)
    assert await process.offer(question(), heir.lease_id, offsets) == ""


async def test_lease_of_another_key_is_none(world: CacheWorld, process: CacheProcess) -> None:
    miss = await process.lookup(question("one"))
    assert isinstance(miss, Miss)
    assert "lease was lost" in await process.offer(question("two"), miss.lease_id, await world.writer.index_offsets())


async def test_caller_that_does_not_wait_gets_no_lease_while_another_works(process: CacheProcess) -> None:
    await process.lookup(question())
    assert await process.lookup(question()) == Miss(MissReason.ABSENT)


async def test_caller_whose_token_is_ahead_is_not_answered_by_the_leader(
    world: CacheWorld, process: CacheProcess
) -> None:
    leader = await process.lookup(question())
    retrieved_at = await world.writer.index_offsets()
    process.hold_log()
    token = await world.writer.change()
    ahead = asyncio.create_task(process.lookup(question(), token=token, wait_seconds=20))
    assert isinstance(leader, Miss)
    await process.offer(question(), leader.lease_id, retrieved_at)
    missed = await ahead
    assert isinstance(missed, Miss)
    assert missed.reason is MissReason.BEHIND


async def test_waiter_is_not_answered_by_an_answer_that_a_change_overtook(
    world: CacheWorld, process: CacheProcess
) -> None:
    lookups = [asyncio.create_task(process.lookup(question(), wait_seconds=20)) for _ in range(2)]
    leader = await _leader_of(lookups)
    await until(lambda: _waiting(process, 1), "the other waits")
    retrieved_at = await world.writer.index_offsets()
    await world.writer.change()
    await process.caught_up(await world.writer.index_offsets())
    assert await process.offer(question(), leader.lease_id, retrieved_at) != ""
    outcomes = await asyncio.gather(*lookups)
    assert all(isinstance(outcome, Miss) and outcome.lease_id for outcome in outcomes), "the waiter takes over"


async def test_caller_that_hangs_up_waits_no_longer(process: CacheProcess) -> None:
    await process.lookup(question())
    waiting = asyncio.create_task(process.lookup(question(), wait_seconds=20))
    await until(lambda: _waiting(process, 1), "waits")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert _waiting(process, 0)


def test_waiters_of_a_key_are_bounded() -> None:
    waiters = Waiters(max_per_key=1)
    with waiters.join(b"key") as first, waiters.join(b"key") as second, waiters.join(b"other") as other:
        assert first is not None
        assert second is None
        assert other is not None
