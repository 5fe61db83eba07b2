"""Who is next: tenants by virtual token counters, interactive before batch.

After "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024): every tenant has a counter of the work
done for it, the waiting tenant with the lowest is next, and one that comes to the queue is lifted to those that wait
there, so that nobody saves up.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from .requests import Priority


class Waiting(Protocol):
    """What can be queued."""

    @property
    def tenant(self) -> str: ...

    @property
    def priority(self) -> Priority: ...

    @property
    def cost(self) -> float: ...


Item = TypeVar("Item", bound=Waiting)


@dataclass(slots=True)
class _Line(Generic[Item]):
    """What one tenant waits for, first come first."""

    items: deque[Item] = field(default_factory=deque)
    cost: float = 0.0


class FairQueue(Generic[Item]):
    """Not bounded; the scheduler refuses first."""

    def __init__(self) -> None:
        self._lanes: dict[Priority, dict[str, _Line[Item]]] = {priority: {} for priority in Priority}
        self._counters: dict[str, float] = {}
        self._last_to_leave = ""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        for lane in self._lanes.values():
            for line in lane.values():
                yield from line.items

    def push(self, item: Item) -> None:
        """Put `item` behind its tenant's others of its priority."""
        self._lift(item.tenant)
        line = self._lanes[item.priority].setdefault(item.tenant, _Line())
        line.items.append(item)
        line.cost += item.cost
        self._length += 1

    def peek(self) -> Item | None:
        """The item that is next, if any waits."""
        for priority in (Priority.INTERACTIVE, Priority.BATCH):
            if lane := self._lanes[priority]:
                return lane[min(lane, key=self._counter)].items[0]
        return None

    def remove(self, item: Item) -> None:
        """Take a waiting item out."""
        lane = self._lanes[item.priority]
        line = lane[item.tenant]
        line.items.remove(item)
        line.cost -= item.cost
        self._length -= 1
        if not line.items:
            del lane[item.tenant]
            self._last_to_leave = item.tenant

    def charge(self, tenant: str, cost: float) -> None:
        """Count work done for a tenant."""
        # One that was forgotten while it ran was at the level or below.
        self._counters[tenant] = self._counters.get(tenant, self._level()) + cost

    def cost_ahead(self, tenant: str, priority: Priority) -> float:
        """The cost of what waits and would be started before a new item.

        Another tenant goes first until its counter reaches what the tenant's will be when all of its own has been
        started.
        """
        lane = self._lanes[priority]
        own = lane[tenant].cost if tenant in lane else 0.0
        level = max(self._counter(tenant), self._level()) + own
        others = sum(
            min(line.cost, max(0.0, level - self._counter(other))) for other, line in lane.items() if other != tenant
        )
        before = 0.0
        if priority is Priority.BATCH:
            before = sum(line.cost for line in self._lanes[Priority.INTERACTIVE].values())
        return before + own + others

    def _counter(self, tenant: str) -> float:
        return self._counters.get(tenant, 0.0)

    def _waiting(self) -> set[str]:
        return {tenant for lane in self._lanes.values() for tenant in lane}

    def _level(self) -> float:
        """Where a newcomer begins: with the lowest that wait or, if none does, with the last that did."""
        return min((self._counter(tenant) for tenant in self._waiting()), default=self._counter(self._last_to_leave))

    def _lift(self, tenant: str) -> None:
        waiting = self._waiting()
        if tenant in waiting:
            return
        level = self._level()
        # Absent tenants at the level or below would be lifted to it anyway: their counters say nothing.
        kept = {*waiting, self._last_to_leave}
        self._counters = {name: count for name, count in self._counters.items() if name in kept or count > level}
        self._counters[tenant] = max(self._counter(tenant), level)
