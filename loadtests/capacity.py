"""How much a stack can take: the rate goes up until goodput stops growing."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from loadtests.options import MAX_RATE

RISE: Final = 1.4
"""Each step's rate over the one before."""
GROWTH: Final = 1.05
"""A step whose goodput grew by less than this found the end."""
MAX_STEPS: Final = 16
AFTERWARDS: Final = (("steady at 0.7", "steady", 0.7), ("spike from 0.7", "spike", 0.7), ("steady at 2", "steady", 2.0))
"""Name, shape, and rate as a share of the capacity."""

Summary = Mapping[str, Any]
RunOne = Callable[[Namespace, str], Summary]
"""Runs these options under this name."""


def find(given: Namespace, run: RunOne) -> Iterator[tuple[str, Summary]]:
    """Runs, each with its name: steps up from `given.rate`, then steady below, a spike, and twice the capacity.

    The capacity is the best goodput of any step.
    """
    best, rate = 0.0, given.rate
    for number in range(1, MAX_STEPS + 1):
        summary = run(_like(given, "steady", rate), f"capacity-step-{number}")
        yield f"step {number}", summary
        goodput = summary["goodput_per_second"]
        grew = goodput >= best * GROWTH
        best = max(best, goodput)
        if not grew or not goodput:
            break
        rate *= RISE
        if rate > MAX_RATE or rate * given.seconds > given.max_requests:
            break
    if not best:
        return
    for name, shape, share in AFTERWARDS:
        yield f"{name} ({best * share:.0f}/s)", run(_like(given, shape, best * share), f"capacity-{shape}")


def _like(given: Namespace, shape: str, rate: float) -> Namespace:
    # Other arrivals at each rate, or a step would only be the one before, played faster.
    return Namespace(**vars(given) | {"shape": shape, "rate": round(rate, 3), "seed": given.seed + round(rate * 1000)})
