"""Tenants take turns by the work done for them."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.generation.fairness import FairQueue
from services.generation.requests import Priority


@dataclass(frozen=True, eq=False)
class _Item:
    tenant: str
    cost: float = 1.0
    priority: Priority = Priority.INTERACTIVE


def _next(queue: FairQueue[_Item]) -> _Item:
    item = queue.peek()
    assert item is not None
    queue.remove(item)
    queue.charge(item.tenant, item.cost)
    return item


def _drain(queue: FairQueue[_Item]) -> list[str]:
    return [_next(queue).tenant for _ in range(len(queue))]


def _filled(*items: _Item) -> FairQueue[_Item]:
    queue: FairQueue[_Item] = FairQueue()
    for item in items:
        queue.push(item)
    return queue


def test_a_tenant_with_much_waiting_does_not_keep_out_one_with_little() -> None:
    queue = _filled(*[_Item("busy")] * 5, _Item("quiet"), _Item("quiet"))
    assert _drain(queue) == ["busy", "quiet", "busy", "quiet", "busy", "busy", "busy"]


def test_turns_are_by_work_and_not_by_requests() -> None:
    queue = _filled(*[_Item("long", 4.0)] * 2, *[_Item("short", 1.0)] * 5)
    assert _drain(queue) == ["long", "short", "short", "short", "short", "long", "short"]


def test_one_tenants_requests_go_in_the_order_they_came() -> None:
    first, second = _Item("a"), _Item("a")
    queue = _filled(first, second)
    assert [_next(queue), _next(queue)] == [first, second]


def test_interactive_goes_before_batch() -> None:
    queue = _filled(_Item("a", priority=Priority.BATCH), _Item("b"))
    assert _drain(queue) == ["b", "a"]


def test_being_away_saves_up_nothing() -> None:
    queue = _filled(_Item("stays"))
    for _ in range(10):
        queue.push(_Item("stays"))
        _next(queue)
    for _ in range(3):
        queue.push(_Item("comes"))
    queue.push(_Item("stays"))
    # Without the lift the newcomer would have ten requests' worth to catch up on.
    assert _drain(queue)[:4].count("stays") == 2


def test_a_tenant_that_left_is_not_remembered_for_ever() -> None:
    queue: FairQueue[_Item] = FairQueue()
    for number in range(1000):
        queue.push(_Item(f"tenant {number}"))
        _next(queue)
    assert len(queue._counters) < 10


def test_cost_ahead_of_batch_counts_everything_interactive() -> None:
    queue = _filled(_Item("a", 3.0), _Item("b", 4.0))
    assert queue.cost_ahead("c", Priority.BATCH) == 7.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=12), st.sampled_from("abcd"))
def test_cost_ahead_is_what_goes_first(items: list[tuple[str, int]], tenant: str) -> None:
    queue = _filled(*[_Item(owner, float(cost)) for owner, cost in items])
    foreseen = queue.cost_ahead(tenant, Priority.INTERACTIVE)
    mine = _Item(tenant, 1.0)
    queue.push(mine)
    went = 0.0
    while (item := _next(queue)) is not mine:
        went += item.cost
    # A tenant's last request may reach beyond the level, and ties go either way.
    assert went - 5 * 3 <= foreseen <= went + 5 * 3
