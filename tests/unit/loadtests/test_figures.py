"""What is made of what was measured."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import pytest

from loadtests.against_ghz import difference_percent, read_ghz
from loadtests.calls import Outcome
from loadtests.capacity import find
from loadtests.figures import Figures, distribution, entries, is_good, percentile, token_ms
from loadtests.options import Options, add_options, options_of

SLO_MS = 1000.0


def options(*arguments: str) -> Options:
    parser = ArgumentParser()
    add_options(parser)
    return options_of(parser.parse_args(["--address=127.0.0.1:1", f"--slo-ms={SLO_MS}", *arguments]))


def answered(seconds: float = 0.5, **more: Any) -> Outcome:
    """Due at 100 s, sent 0.1 s late."""
    values = {"complete": True, "sent": 100.1, "first_token": 100.3, "ended": 100 + seconds} | more
    return Outcome("ask", values.pop("phase", 0), values.pop("kind", "answered"), 100.0, **values)


def lines(outcome: Outcome) -> list[tuple[str, str]]:
    return [(entry.request_type, entry.name) for entry in entries(outcome, SLO_MS)]


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (0, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 99) == 7
    assert percentile([], 50) == 0
    assert distribution([3.0, 1.0, 2.0]) == {"count": 3, "mean": 2.0, "p50": 2.0, "p95": 3.0, "p99": 3.0, "max": 3.0}


@pytest.mark.parametrize(
    "outcome",
    [
        answered(1.001),
        answered(complete=False),
        answered(degradations=("SENTENCE_WITHHELD",)),
        answered(kind="refused"),
        answered(kind="failed"),
        answered(kind="abandoned"),
    ],
)
def test_only_a_whole_undegraded_answer_in_time_is_goodput(outcome: Outcome) -> None:
    assert is_good(answered(), SLO_MS)
    assert not is_good(outcome, SLO_MS)
    assert ("goodput", "ask") not in lines(outcome)


def test_time_counts_from_when_a_request_was_due_so_that_waiting_shows() -> None:
    answer = next(entry for entry in entries(answered(), SLO_MS) if entry.name == "answer")
    assert answer.ms == pytest.approx(500)
    first = next(entry for entry in entries(answered(), SLO_MS) if entry.name == "first token")
    assert first.ms == pytest.approx(300)
    assert not is_good(answered(1.05, sent=100.9), SLO_MS)


def test_time_per_output_token_leaves_out_the_first() -> None:
    generated = answered(tokens=11, timings_ms={"generate_first_token": 100.0, "generate": 300.0})
    assert token_ms(generated) == pytest.approx(20)
    assert token_ms(answered(tokens=11, timings_ms={"cache": 3.0})) is None
    assert token_ms(answered(tokens=1, timings_ms={"generate_first_token": 100.0, "generate": 100.0})) is None


def test_each_outcome_is_a_line_of_its_own() -> None:
    whole = answered(cache="hit", tokens=3, timings_ms={"generate_first_token": 1.0, "generate": 3.0})
    assert lines(whole) == [
        ("ask", "answer"),
        ("ask", "first token"),
        ("ask", "per output token"),
        ("cache", "hit"),
        ("goodput", "ask"),
    ]
    assert ("degraded", "PARTIAL_COVERAGE") in lines(answered(degradations=("PARTIAL_COVERAGE",)))
    refused = list(entries(answered(kind="refused", error="RESOURCE_EXHAUSTED"), SLO_MS))
    assert [(entry.request_type, entry.error) for entry in refused] == [("refused", "")]  # apart from failures
    failed = list(entries(answered(kind="failed", error="UNAVAILABLE"), SLO_MS))
    assert [(entry.name, entry.error) for entry in failed] == [("answer", "UNAVAILABLE")]
    dropped = list(entries(Outcome("ask", 0, "dropped", 100.0), SLO_MS))
    assert [(entry.request_type, entry.ms, bool(entry.error)) for entry in dropped] == [
        ("dropped by the generator", None, True)
    ]


def test_every_arrival_is_accounted_for() -> None:
    figures = Figures(options("--seconds=10"))
    for outcome in (
        answered(cache="hit"),
        answered(2.0, cache="miss"),
        answered(degradations=("CACHE_UNAVAILABLE",)),
        answered(kind="refused", error="RESOURCE_EXHAUSTED"),
        answered(kind="failed", error="UNAVAILABLE GATEWAY_UNREACHABLE"),
        answered(kind="abandoned"),
        Outcome("search", 0, "dropped", 100.0),
    ):
        figures.add(outcome)
    summary = figures.summary(seconds=10, elapsed_seconds=12, most_in_flight=3)
    counts = summary["counts"]
    assert counts == {
        "arrivals": 7,
        "dropped": 1,
        "issued": 6,
        "answered": 3,
        "refused": 1,
        "failed": 1,
        "abandoned": 1,
        "degraded": 1,
        "incomplete": 0,
        "slow": 1,
        "good": 1,
    }
    assert summary["goodput_per_second"] == pytest.approx(0.1)
    assert summary["offered_per_second"] == pytest.approx(0.7)
    assert summary["cache"] == {"hit": 1, "miss": 1}
    assert summary["errors"] == {"RESOURCE_EXHAUSTED": 1, "UNAVAILABLE GATEWAY_UNREACHABLE": 1}
    assert summary["operations"]["search"]["counts"]["dropped"] == 1
    assert summary["generator"]["late_ms"]["p50"] == pytest.approx(100)
    assert summary["operations"]["ask"]["answer_ms"]["count"] == 3  # a quick refusal makes no answer look quick


def test_phases_count_by_when_requests_were_due_and_a_run_cut_short_by_the_time_it_had() -> None:
    figures = Figures(options("--shape=step", "--steps=4", "--seconds=40"))
    for phase in (0, 0, 1):
        figures.add(answered(phase=phase))
    phases = figures.summary(seconds=15, elapsed_seconds=15, most_in_flight=1)["phases"]
    assert [phase["seconds"] for phase in phases] == [10, 5, 0, 0]
    assert [phase["goodput_per_second"] for phase in phases] == pytest.approx([0.2, 0.2, 0, 0])


def test_stages_share_the_time_of_all_answers_those_that_lack_them_included() -> None:
    figures = Figures(options())
    figures.add(answered(1.1, timings_ms={"cache": 10.0, "generate": 600.0, "total": 800.0}))
    figures.add(answered(1.1, timings_ms={"cache": 10.0, "total": 900.0}))
    stages = figures.summary(seconds=10, elapsed_seconds=10, most_in_flight=1)["operations"]["ask"]["stages"]
    assert stages["generate"]["share"] == pytest.approx(0.3)
    assert stages["total"]["share"] == pytest.approx(0.85)
    assert stages["outside the gateway"]["share"] == pytest.approx(0.15)


def test_a_run_without_a_request_sums_up_to_nothing() -> None:
    summary = Figures(options()).summary(seconds=0, elapsed_seconds=0, most_in_flight=0, error="interrupted")
    assert summary["goodput_per_second"] == 0
    assert summary["counts"]["arrivals"] == 0
    assert summary["operations"] == {}


def capacity_of(goodput_at: Any, *arguments: str) -> list[tuple[str, str, float]]:
    """Runs that the search for the capacity makes, where this is the goodput at a rate."""
    parser, made = ArgumentParser(), []
    add_options(parser)

    def run(given: Any, name: str) -> dict[str, Any]:
        made.append((name, given.shape, given.rate))
        return {"goodput_per_second": goodput_at(given.rate), "offered_per_second": given.rate}

    list(find(parser.parse_args(["--rate=10", *arguments]), run))
    return made


def steps_of(made: list[tuple[str, str, float]]) -> list[float]:
    return [rate for name, _, rate in made if "step" in name]


def test_capacity_is_the_highest_rate_that_is_kept_up_with_and_what_follows_is_measured_against_it() -> None:
    made = capacity_of(lambda rate: min(rate, 50.0))
    steps = steps_of(made)
    assert steps == pytest.approx([10, 14, 19.6, 27.44, 38.416, 53.782, 46.099, 49.941, 51.861], abs=0.01)
    assert [(shape, rate) for _, shape, rate in made[len(steps) :]] == [
        ("steady", pytest.approx(0.7 * 51.861, abs=0.01)),
        ("spike", pytest.approx(0.7 * 51.861, abs=0.01)),
        ("steady", pytest.approx(2 * 51.861, abs=0.01)),
    ]


def test_goodput_that_still_grows_by_the_calls_that_are_not_refused_is_no_capacity() -> None:
    made = capacity_of(lambda rate: min(rate, 50.0 + rate / 10))
    assert max(steps_of(made)) < 80


def test_the_search_for_the_capacity_ends() -> None:
    assert len(capacity_of(lambda rate: rate)) <= 16 + 3
    assert len(capacity_of(lambda rate: 0.0)) == 1
    assert max(steps_of(capacity_of(lambda rate: rate, "--max-requests=1500"))) <= 50


def test_ghz_is_read_and_compared_in_percent() -> None:
    report = {
        "rps": 19.8,
        "count": 200,
        "statusCodeDistribution": {"OK": 198, "Unavailable": 2},
        "latencyDistribution": [{"percentage": 50, "latency": 5_000_000}, {"percentage": 95, "latency": 9_500_000}],
    }
    measured = read_ghz(report)
    assert (measured.rps, measured.p50, measured.p95, measured.failed) == (19.8, 5.0, 9.5, 2)
    assert difference_percent(11.0, 10.0) == pytest.approx(10)
    assert difference_percent(9.0, 10.0) == pytest.approx(-10)
    assert difference_percent(1.0, 0.0) == 0
