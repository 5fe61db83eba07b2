"""Nothing stale is served: admission, invalidation, currency, tokens. Over both stores, on a real log."""

import pytest

from services.cache.answers import Hit, Miss, MissReason, Offer, Token
from services.cache.errors import TokenOfAnotherLog
from serving.errors import ErrorCode, InvalidArgument
from serving.eventlog import init_log
from tests.harness.cache import COLLECTION, CacheProcess, CacheWorld, question, until

OTHER_COLLECTION = "d" * 32


async def test_stored_answer_is_served(world: CacheWorld, process: CacheProcess) -> None:
    await world.fill(process, question(), b"25 days")
    found = await process.lookup(question("how  much leave do I\tget? "))
    assert isinstance(found, Hit)
    assert found.payload == b"25 days"
    assert not found.waited


async def test_answer_overtaken_by_a_change_never_enters(world: CacheWorld, process: CacheProcess) -> None:
    lease_id = await process.lease(question())
    retrieved_at = await world.writer.index_offsets()
    token = await world.writer.change(partition=1)
    await process.caught_up(await world.writer.index_offsets())
    assert "changed after" in await process.offer(question(), lease_id, retrieved_at)
    again = await process.lookup(question(), token=token)
    assert isinstance(again, Miss)
    assert again.lease_id, "a refused offer ends its lease"


async def test_change_while_the_store_is_written_keeps_the_answer_out(world: CacheWorld, process: CacheProcess) -> None:
    """The process does not know of the change yet when the answer is offered; it must not be served once it does."""
    lease_id = await process.lease(question())
    retrieved_at = await world.writer.index_offsets()
    process.hold_log()
    token = await world.writer.change()
    await process.offer(question(), lease_id, retrieved_at)
    process.let_log_go()
    await process.caught_up(await world.writer.index_offsets())
    assert isinstance(await process.lookup(question(), token=token), Miss)
    assert isinstance(await process.lookup(question()), Miss)


@pytest.mark.parametrize("outcome", ["indexed", "deleted", "rejected"])
@pytest.mark.parametrize("partition", [0, 1])
async def test_change_of_the_collection_drops_its_answers(
    world: CacheWorld, process: CacheProcess, outcome: str, partition: int
) -> None:
    await world.fill(process, question())
    token = await world.writer.change(outcome, partition=partition)
    await process.caught_up(await world.writer.index_offsets())
    assert isinstance(await process.lookup(question(), token=token), Miss)
    assert process.admissions.invalidations == 1


async def test_retired_collection_loses_its_answers(world: CacheWorld, process: CacheProcess) -> None:
    await world.fill(process, question())
    await world.writer.retire()
    await process.caught_up(await world.writer.index_offsets())
    assert isinstance(await process.lookup(question()), Miss)


async def test_progress_and_other_collections_cost_nobody_their_hits(world: CacheWorld, process: CacheProcess) -> None:
    await world.fill(process, question())
    await world.writer.progress(partition=0)
    token = await world.writer.progress(partition=1)
    await world.writer.change(collection_id=OTHER_COLLECTION)
    await process.caught_up(await world.writer.index_offsets())
    assert isinstance(await process.lookup(question()), Hit)
    assert isinstance(await process.lookup(question(), token=token), Hit), "it counts as of the process's progress"


async def test_answer_retrieved_further_on_than_the_process_is_admitted(
    world: CacheWorld, process: CacheProcess
) -> None:
    lease_id = await process.lease(question())
    process.hold_log()
    token = await world.writer.change()
    retrieved_at = await world.writer.index_offsets()
    assert await process.offer(question(), lease_id, retrieved_at, b"of the new text") == ""
    process.let_log_go()
    await process.caught_up(retrieved_at)
    found = await process.lookup(question(), token=token)
    assert isinstance(found, Hit), "what it had applied already must not drop it"
    assert found.payload == b"of the new text"
    await world.writer.change()
    await process.caught_up(await world.writer.index_offsets())
    assert isinstance(await process.lookup(question()), Miss)


async def test_token_ahead_of_the_process_misses(world: CacheWorld, process: CacheProcess) -> None:
    await world.fill(process, question())
    process.hold_log()
    token = await world.writer.progress()
    missed = await process.lookup(question(), token=token)
    assert isinstance(missed, Miss)
    assert missed.reason is MissReason.BEHIND
    process.let_log_go()
    await process.caught_up(await world.writer.index_offsets())
    assert isinstance(await process.lookup(question(), token=token), Hit)


async def test_token_of_partitions_that_do_not_hold_the_collection_asks_for_nothing(
    world: CacheWorld, process: CacheProcess
) -> None:
    await world.fill(process, question())
    elsewhere = Token(world.log.log_id, {7: 1_000_000})
    assert isinstance(await process.lookup(question(), token=elsewhere), Hit)


async def test_token_of_another_log_is_refused(process: CacheProcess) -> None:
    with pytest.raises(TokenOfAnotherLog) as refused:
        await process.lookup(question(), token=Token(b"another log's id", {0: 1}))
    assert refused.value.code is ErrorCode.FAILED_PRECONDITION
    assert refused.value.reason == "LOG_REPLACED"


async def test_process_that_cannot_see_the_end_of_the_log_stops_serving(
    world: CacheWorld, process: CacheProcess
) -> None:
    await world.fill(process, question())
    assert isinstance(await process.lookup(question()), Hit)
    process.hold_log()

    async def behind() -> bool:
        return await process.lookup(question()) == Miss(MissReason.BEHIND)

    await until(behind, "no more hits")
    process.let_log_go()
    assert isinstance(await process.lookup(question()), Hit)


async def test_log_that_cannot_be_reached_is_opened_again_and_nothing_is_missed(
    world: CacheWorld, process: CacheProcess
) -> None:
    await world.fill(process, question())
    await world.fill(process, question(collection_id=OTHER_COLLECTION))
    process.fail_log()
    token = await world.writer.change()

    async def behind() -> bool:
        return await process.lookup(question(collection_id=OTHER_COLLECTION)) == Miss(MissReason.BEHIND)

    await until(behind, "no more hits")
    process.let_log_go()
    await process.caught_up(await world.writer.index_offsets())
    assert isinstance(await process.lookup(question(), token=token), Miss)
    assert isinstance(await process.lookup(question(collection_id=OTHER_COLLECTION)), Hit)


async def test_lookup_must_name_partitions_and_entries_must_have_been_checked_for_them(
    world: CacheWorld, process: CacheProcess
) -> None:
    with pytest.raises(InvalidArgument):
        await process.answers.lookup(question(), partitions=(), token=None, wait_seconds=0)
    lease_id = await process.lease(question())
    assert await process.offer(question(), lease_id, {0: (await world.writer.index_offsets())[0]}) == ""
    assert isinstance(await process.lookup(question()), Miss), "it says nothing of partition 1"


async def test_replaced_log_drops_everything_and_is_followed_anew(world: CacheWorld, process: CacheProcess) -> None:
    await world.fill(process, question())
    former = process.admissions.history.log_id
    lease_id = await process.lease(question("another"))
    retrieved_at = await world.writer.index_offsets()
    for file in world.log_settings.path.parent.glob("log.sqlite3*"):
        file.unlink()
    new = await init_log(world.log_settings)
    assert new != former
    await until(lambda: process.admissions.history.log_id == new, "the new log is followed")
    assert len(process.admissions) == 0
    with pytest.raises(TokenOfAnotherLog):
        await process.lookup(question(), token=Token(former, {0: 1}))
    found = await process.lookup(question())
    assert isinstance(found, Miss), "the entry is still in the store, but of the former log"
    late = Offer(b"late", former, retrieved_at, (), 0.0, 0.0, b"")
    assert "another log" in await process.answers.store(question("another"), lease_id, late)


async def test_ring_that_does_not_reach_back_keeps_the_answer_out(world: CacheWorld) -> None:
    process = await world.start(ring_records=2)
    lease_id = await process.lease(question())
    retrieved_at = await world.writer.index_offsets()
    for _ in range(2):
        await world.writer.change(collection_id=OTHER_COLLECTION)
    await process.caught_up(await world.writer.index_offsets())
    assert "still known" in await process.offer(question(), lease_id, retrieved_at)


async def test_invalidated_collection_is_served_nowhere(world: CacheWorld, process: CacheProcess) -> None:
    other = await world.start()
    await world.fill(process, question())
    await world.fill(process, question(collection_id=OTHER_COLLECTION))
    await until(lambda: len(other.admissions) == 2, "announced")
    assert await process.answers.invalidate("acme", COLLECTION) == 1
    await until(lambda: len(other.admissions) == 1, "told")
    assert isinstance(await process.lookup(question()), Miss)
    assert isinstance(await other.lookup(question()), Miss)
    assert isinstance(await other.lookup(question(collection_id=OTHER_COLLECTION)), Hit)
