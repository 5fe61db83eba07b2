"""When requests arrive."""

from __future__ import annotations

import itertools
from random import Random
from statistics import mean, pvariance

import pytest

from loadtests.shapes import Phase, arrival_times, phases_of


def offsets(phases: tuple[Phase, ...], arrivals: str = "poisson", seed: int = 3) -> list[tuple[float, int]]:
    return list(arrival_times(phases, "poisson" if arrivals == "poisson" else "uniform", Random(seed)))


def counts(times: list[float], seconds: float, width: float) -> list[int]:
    buckets = [0] * round(seconds / width)
    for at in times:
        buckets[int(at / width)] += 1
    return buckets


def test_poisson_arrivals_come_at_the_target_rate() -> None:
    times = [at for at, _ in offsets((Phase("steady", 1000, 20),))]
    assert len(times) == pytest.approx(20_000, abs=4 * 20_000**0.5)
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 1000


def test_poisson_counts_vary_as_much_as_their_mean_and_know_nothing_of_each_other() -> None:
    seen = counts([at for at, _ in offsets((Phase("steady", 5000, 10),))], 5000, 1)
    assert pvariance(seen) / mean(seen) == pytest.approx(1, abs=0.1)
    average = mean(seen)
    neighbours = mean((one - average) * (next_one - average) for one, next_one in itertools.pairwise(seen))
    assert abs(neighbours) / pvariance(seen) < 0.06


def test_a_memoryless_gap_is_longer_than_its_mean_as_often_as_it_should_be() -> None:
    times = [at for at, _ in offsets((Phase("steady", 2000, 10),))]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.02)


def test_uniform_arrivals_are_evenly_spaced() -> None:
    times = [at for at, _ in offsets((Phase("steady", 2, 4),), "uniform")]
    assert times == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75])


def test_each_phase_has_its_own_rate_and_its_own_arrivals() -> None:
    phases = (Phase("slow", 500, 4), Phase("silent", 100, 0), Phase("fast", 500, 40))
    arrivals = offsets(phases)
    by_phase = [[at for at, phase in arrivals if phase == index] for index in range(3)]
    assert len(by_phase[0]) == pytest.approx(2000, abs=4 * 2000**0.5)
    assert by_phase[1] == []
    assert len(by_phase[2]) == pytest.approx(20_000, abs=4 * 20_000**0.5)
    assert max(by_phase[0]) < 500
    assert min(by_phase[2]) >= 600
    assert max(by_phase[2]) < 1100


def test_a_gap_goes_on_over_the_end_of_a_phase() -> None:
    # Many short phases of one rate must be one long phase: a gap begun anew in each would lose arrivals.
    split = offsets(tuple(Phase(f"part {n}", 0.1, 2) for n in range(200)))
    whole = offsets((Phase("whole", 20, 2),))
    assert [at for at, _ in split] == pytest.approx([at for at, _ in whole])


def test_the_same_seed_gives_the_same_arrivals() -> None:
    phases = (Phase("steady", 10, 10),)
    assert offsets(phases, seed=1) == offsets(phases, seed=1)
    assert offsets(phases, seed=1) != offsets(phases, seed=2)


@pytest.mark.parametrize("shape", ["steady", "step", "spike", "soak"])
def test_every_shape_lasts_as_long_as_it_is_told(shape: str) -> None:
    phases = phases_of(shape, rate=10, seconds=60, steps=4, spike_factor=3)  # type: ignore[arg-type]
    assert sum(phase.seconds for phase in phases) == pytest.approx(60)


def test_steps_lead_up_to_the_rate_and_a_spike_comes_back_from_its_factor() -> None:
    steps = phases_of("step", rate=10, seconds=60, steps=4, spike_factor=3)
    assert [phase.rate for phase in steps] == [2.5, 5, 7.5, 10]
    spike = phases_of("spike", rate=10, seconds=60, steps=4, spike_factor=3)
    assert [phase.rate for phase in spike] == [10, 30, 10]
    assert spike[1].seconds == pytest.approx(12)
