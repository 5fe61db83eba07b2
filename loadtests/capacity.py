"""How much a stack can take: the highest rate of arrivals of which nearly all become good answers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from loadtests.options import MAX_RATE

RISE: Final = 1.4
"""Each step's rate over the one before, until one is too much."""
MAX_STEPS: Final = 16
HALVINGS: Final = 3
"""Steps in the middle between the highest rate that was kept up with and the lowest that was not."""
KEPT_UP: Final = 0.95
"""The share of what was offered that became good answers, at a rate that is kept up with."""
AFTERWARDS: Final = (("steady at 0.7", "steady", 0.7), ("spike from 0.7", "spike", 0.7), ("steady at 2", "steady", 2.0))
"""Name, shape, and rate as a share of the capacity."""

_STEP: Final = "step"

Summary = Mapping[str, Any]
RunOne = Callable[[Namespace, str], Summary]
"""Runs these options under this name."""


def find(given: Namespace, run: RunOne) -> Iterator[tuple[str, Summary]]:
    """Runs, each with its name: the search for the capacity, then steady below it, a spike, and twice the capacity.

    Goodput goes on growing above the capacity, by the calls that are not refused. So what counts is its share of what
    was offered.
    """
    kept, lost, rate, number = 0.0, 0.0, float(given.rate), 0
    while not lost and number < MAX_STEPS and rate <= MAX_RATE and rate * given.seconds <= given.max_requests:
        number += 1
        summary = run(_like(given, "steady", rate), f"capacity-step-{number}")
        yield f"{_STEP} {number}", summary
        if kept_up(summary):
            kept, rate = rate, rate * RISE
        else:
            lost = rate
    for halving in range(1, HALVINGS + 1 if kept and lost else 1):
        rate = (kept + lost) / 2
        summary = run(_like(given, "steady", rate), f"capacity-step-{number + halving}")
        yield f"{_STEP} {number + halving}", summary
        kept, lost = (rate, lost) if kept_up(summary) else (kept, rate)
    for name, shape, share in AFTERWARDS if kept else ():
        yield f"{name} ({kept * share:.0f}/s)", run(_like(given, shape, kept * share), f"capacity-{shape}")


def found(done: Iterable[tuple[str, Summary]]) -> float:
    """The capacity by these runs, in arrivals a second; 0 when none kept up."""
    steps = (summary for name, summary in done if name.startswith(_STEP))
    return max((summary["phases"][0]["rate"] for summary in steps if kept_up(summary)), default=0.0)


def kept_up(summary: Summary) -> bool:
    """Whether nearly all that arrived became good answers."""
    offered: float = summary["offered_per_second"]
    return offered > 0 and summary["goodput_per_second"] >= KEPT_UP * offered


def _like(given: Namespace, shape: str, rate: float) -> Namespace:
    # Other arrivals at each rate, or a step would only be the one before, played faster.
    return Namespace(**vars(given) | {"shape": shape, "rate": round(rate, 3), "seed": given.seed + round(rate * 1000)})
