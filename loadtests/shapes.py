"""How the rate of arrivals changes over a run: phases of constant rate, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, get_args

Shape = Literal["steady", "step", "spike", "soak"]
Arrivals = Literal["poisson", "uniform"]
SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)
ARRIVALS: Final[tuple[Arrivals, ...]] = get_args(Arrivals)
SOAK_PHASES: Final = 10


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a run: so many seconds at so many arrivals a second."""

    name: str
    seconds: float
    rate: float

    @property
    def arrivals(self) -> float:
        """How many are expected."""
        return self.seconds * self.rate


def phases_of(shape: Shape, *, rate: float, seconds: float, steps: int, spike_factor: float) -> tuple[Phase, ...]:
    """The phases of a run of `seconds`.

    steady: `rate` all the time.
    step: `steps` steps up to `rate`, all equally high and long.
    spike: `rate`, then `spike_factor` times that for a fifth of the time, then `rate` again for twice as long as
        before: whether what waits is worked off shows there.
    soak: steady, told in ten parts, so that what creeps up shows.
    """
    match shape:
        case "steady":
            return (Phase("steady", seconds, rate),)
        case "step":
            return tuple(Phase(f"step {n}", seconds / steps, rate * n / steps) for n in range(1, steps + 1))
        case "spike":
            unit = seconds / 15
            return (
                Phase("before", unit * 4, rate),
                Phase("spike", unit * 3, rate * spike_factor),
                Phase("after", unit * 8, rate),
            )
        case "soak":
            return tuple(Phase(f"part {n}", seconds / SOAK_PHASES, rate) for n in range(1, SOAK_PHASES + 1))


def arrival_times(phases: Sequence[Phase], arrivals: Arrivals, chance: Random) -> Iterator[tuple[float, int]]:
    """When requests arrive, in seconds from the start, each with the index of its phase.

    poisson: gaps are exponential, so arrivals know nothing of each other, as those of many callers do. The rate may
        jump between phases: what is left of a gap at the end of one is stretched or shrunk to the next one's rate,
        which keeps the process exact.
    uniform: evenly spaced, as ghz sends.
    """
    began = 0.0
    gap = _gap(arrivals, chance)
    for index, phase in enumerate(phases):
        at, end = began, began + phase.seconds
        while phase.rate > 0:
            left = end - at
            if gap / phase.rate >= left:
                gap -= left * phase.rate
                break
            at += gap / phase.rate
            yield at, index
            gap = _gap(arrivals, chance)
        began = end


def _gap(arrivals: Arrivals, chance: Random) -> float:
    """The next gap at a rate of one a second."""
    return chance.expovariate(1.0) if arrivals == "poisson" else 1.0
