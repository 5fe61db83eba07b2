"""Groups: who should own which partition."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from serving.eventlog import Assignment, EventLog, Fenced, LogSettings, Membership, Topic, init_log, open_log
from serving.eventlog.sqlite import SqliteLog
from tests.harness.eventlog import PATIENCE_SECONDS

GROUP = "workers"


class Member:
    """A member whose latest assignment can be awaited."""

    def __init__(self, membership: Membership) -> None:
        self._assignments = aiter(membership.assignments())

    async def until(self, wanted: Callable[[Assignment], bool]) -> Assignment:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                assignment = await anext(self._assignments)
                if wanted(assignment):
                    return assignment


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_a_lone_member_has_all_partitions(log: EventLog) -> None:
    async with log.join(GROUP, "one", Topic.INDEX) as membership:
        assignment = await Member(membership).until(lambda a: len(a.partitions) == log.partitions)
        await membership.report(dict.fromkeys(assignment.partitions, 1))


async def test_two_members_share_and_the_one_left_gets_all(log: EventLog, stack: AsyncExitStack) -> None:
    one = Member(await stack.enter_async_context(log.join(GROUP, "one", Topic.INDEX)))
    alone = await one.until(lambda a: len(a.partitions) == 2)
    async with AsyncExitStack() as second:
        two = Member(await second.enter_async_context(log.join(GROUP, "two", Topic.INDEX)))
        shares = [await one.until(lambda a: len(a.partitions) == 1), await two.until(lambda a: len(a.partitions) == 1)]
        assert frozenset().union(*(share.partitions for share in shares)) == {0, 1}
        assert {share.generation for share in shares} == {max(share.generation for share in shares)}
        assert shares[0].generation > alone.generation
    # it leaves as the dead do: without a word
    inherited = await one.until(lambda a: len(a.partitions) == 2)
    assert inherited.generation > shares[0].generation


async def test_a_restarted_member_has_its_partitions_back_and_nobody_else_notices(
    log: EventLog, stack: AsyncExitStack
) -> None:
    one = Member(await stack.enter_async_context(log.join(GROUP, "one", Topic.INDEX)))
    async with log.join(GROUP, "two", Topic.INDEX) as membership:
        before = await Member(membership).until(lambda a: len(a.partitions) == 1)
    await one.until(lambda a: a.generation == before.generation)

    async with log.join(GROUP, "two", Topic.INDEX) as membership:
        after = await Member(membership).until(lambda a: True)
    assert after == before
    other = asyncio.create_task(one.until(lambda a: True))
    await asyncio.sleep(0)
    assert not other.done()
    other.cancel()


async def test_who_leaves_hands_over_without_waiting_for_the_end_of_its_session(
    settings: LogSettings, stack: AsyncExitStack
) -> None:
    await init_log(settings)
    log = await stack.enter_async_context(open_log(settings.model_copy(update={"session_seconds": 60})))
    one = Member(await stack.enter_async_context(log.join(GROUP, "one", Topic.INDEX)))
    async with log.join(GROUP, "two", Topic.INDEX) as membership:
        shared = await Member(membership).until(lambda a: len(a.partitions) == 1)
        await one.until(lambda a: a.generation == shared.generation)
        assert await membership.leave()
        async with asyncio.timeout(30):  # half its session
            inherited = await one.until(lambda a: len(a.partitions) == 2)
        assert inherited.generation > shared.generation
    async with log.join(GROUP, "two", Topic.INDEX) as membership:
        again = await Member(membership).until(lambda a: len(a.partitions) == 1)
        assert again.generation > inherited.generation


async def test_who_is_alone_does_not_leave(log: EventLog) -> None:
    async with log.join(GROUP, "one", Topic.INDEX) as membership:
        before = await Member(membership).until(lambda a: len(a.partitions) == 2)
        assert not await membership.leave()
    async with log.join(GROUP, "one", Topic.INDEX) as membership:
        assert await Member(membership).until(lambda a: True) == before


async def test_groups_do_not_know_each_other(log: EventLog, stack: AsyncExitStack) -> None:
    for group in ("workers", "others"):
        member = Member(await stack.enter_async_context(log.join(group, "one", Topic.DOCUMENTS)))
        await member.until(lambda a: len(a.partitions) == log.partitions)


async def test_a_member_whose_name_another_takes_is_told(sqlite_log: SqliteLog) -> None:
    """With Kafka it is not told (aiokafka does not pass it on), and its partitions are fenced all the same."""
    async with sqlite_log.join(GROUP, "one", Topic.INDEX) as older:
        member = Member(older)
        await member.until(lambda a: True)
        async with sqlite_log.join(GROUP, "one", Topic.INDEX) as newer:
            assert (await Member(newer).until(lambda a: True)).partitions == {0, 1}
            with pytest.raises(Fenced):
                await member.until(lambda a: False)
