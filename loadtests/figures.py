"""What was measured, counted and summed up. Knows nothing of Locust, and sends nothing."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from loadtests.calls import Outcome
from loadtests.options import OPERATIONS, Operation, Options

PERCENTILES: Final = (50, 95, 99)
Series = array  # of float64


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of Locust's tables: `error` makes it a failure, `ms` of None one without a time."""

    request_type: str
    name: str
    ms: float | None
    error: str = ""


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank); 0 of no values."""
    if not ascending:
        return 0.0
    return ascending[max(0, ceil(len(ascending) * percent / 100) - 1)]


def distribution(values: Iterable[float]) -> dict[str, float]:
    """Count, mean, percentiles and maximum."""
    ascending = sorted(values)
    figures = {"count": len(ascending), "mean": sum(ascending) / len(ascending) if ascending else 0.0}
    figures |= {f"p{percent}": percentile(ascending, percent) for percent in PERCENTILES}
    return figures | {"max": ascending[-1] if ascending else 0.0}


def answer_ms(outcome: Outcome) -> float:
    """From when it was meant to be sent, so that waiting for its turn counts."""
    return (outcome.ended - outcome.due) * 1000


def is_good(outcome: Outcome, slo_ms: float) -> bool:
    """Whether it counts as goodput: answered from every partition, undegraded, in time."""
    return outcome.kind == "answered" and outcome.complete and not outcome.degradations and answer_ms(outcome) <= slo_ms


def token_ms(outcome: Outcome) -> float | None:
    """Time per output token after the first; None for an answer that was not generated.

    By the answer's own timings: the gateway sends whole sentences, once they are checked, so single tokens are not seen
    from outside.
    """
    first, whole = outcome.timings_ms.get("generate_first_token"), outcome.timings_ms.get("generate")
    if first is None or whole is None or outcome.tokens < 2:
        return None
    return (whole - first) / (outcome.tokens - 1)


def entries(outcome: Outcome, slo_ms: float) -> Iterator[Entry]:
    """The outcome as lines of Locust's tables."""
    operation = outcome.operation
    match outcome.kind:
        case "dropped":
            yield Entry("dropped by the generator", operation, None, "too many requests in flight (--max-in-flight)")
        case "refused":
            yield Entry("refused", operation, answer_ms(outcome))
        case "abandoned":
            yield Entry(operation, "answer", None, "abandoned at the end of the run")
        case "failed":
            yield Entry(operation, "answer", answer_ms(outcome), outcome.error)
        case "answered":
            ms = answer_ms(outcome)
            yield Entry(operation, "answer", ms)
            if outcome.first_token:
                yield Entry(operation, "first token", (outcome.first_token - outcome.due) * 1000)
            if (each := token_ms(outcome)) is not None:
                yield Entry(operation, "per output token", each)
            if outcome.cache:
                yield Entry("cache", outcome.cache, ms)
            for kind in outcome.degradations:
                yield Entry("degraded", kind, ms)
            if is_good(outcome, slo_ms):
                yield Entry("goodput", operation, ms)


@dataclass(slots=True)
class Tally:
    """Outcomes of one operation in one phase. Times are in milliseconds."""

    kinds: Counter[str] = field(default_factory=Counter)
    good: int = 0
    slow: int = 0
    """Answered, but not within the SLO."""
    degraded: int = 0
    incomplete: int = 0
    answers: Series[float] = field(default_factory=lambda: array("d"))
    from_send: Series[float] = field(default_factory=lambda: array("d"))
    first_tokens: Series[float] = field(default_factory=lambda: array("d"))
    tokens: Series[float] = field(default_factory=lambda: array("d"))
    late: Series[float] = field(default_factory=lambda: array("d"))
    cache: Counter[str] = field(default_factory=Counter)
    degradations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    stages: dict[str, Series[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))

    def add(self, outcome: Outcome, slo_ms: float) -> None:
        """One more."""
        self.kinds[outcome.kind] += 1
        if outcome.sent:
            self.late.append((outcome.sent - outcome.due) * 1000)
        if outcome.error:
            self.errors[outcome.error] += 1
        if outcome.kind != "answered":
            return
        self.good += is_good(outcome, slo_ms)
        self.slow += answer_ms(outcome) > slo_ms
        self.degraded += bool(outcome.degradations)
        self.incomplete += not outcome.complete
        self.degradations.update(outcome.degradations)
        self.answers.append(answer_ms(outcome))
        self.from_send.append((outcome.ended - outcome.sent) * 1000)
        if outcome.first_token:
            self.first_tokens.append((outcome.first_token - outcome.due) * 1000)
        if (each := token_ms(outcome)) is not None:
            self.tokens.append(each)
        if outcome.cache:
            self.cache[outcome.cache] += 1
        for stage, milliseconds in outcome.timings_ms.items():
            self.stages[stage].append(milliseconds)
        if "total" in outcome.timings_ms:
            self.stages["outside the gateway"].append(self.from_send[-1] - outcome.timings_ms["total"])

    def merge(self, other: Tally) -> None:
        """Add all that the other counted."""
        for mine, theirs in (
            (self.kinds, other.kinds),
            (self.cache, other.cache),
            (self.degradations, other.degradations),
            (self.errors, other.errors),
        ):
            mine.update(theirs)
        self.good += other.good
        self.slow += other.slow
        self.degraded += other.degraded
        self.incomplete += other.incomplete
        self.answers.extend(other.answers)
        self.from_send.extend(other.from_send)
        self.first_tokens.extend(other.first_tokens)
        self.tokens.extend(other.tokens)
        self.late.extend(other.late)
        for stage, values in other.stages.items():
            self.stages[stage].extend(values)

    def counts(self) -> dict[str, int]:
        """Arrivals = issued + dropped; issued = answered + refused + failed + abandoned."""
        dropped, issued = self.kinds["dropped"], sum(self.kinds.values()) - self.kinds["dropped"]
        return {
            "arrivals": issued + dropped,
            "dropped": dropped,
            "issued": issued,
            "answered": self.kinds["answered"],
            "refused": self.kinds["refused"],
            "failed": self.kinds["failed"],
            "abandoned": self.kinds["abandoned"],
            "degraded": self.degraded,
            "incomplete": self.incomplete,
            "slow": self.slow,
            "good": self.good,
        }


class Figures:
    """All that a run measured, by phase and operation."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tallies: dict[tuple[int, Operation], Tally] = defaultdict(Tally)

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self._tallies[outcome.phase, outcome.operation].add(outcome, self._options.slo_ms)

    def summary(
        self, *, seconds: float, elapsed_seconds: float, most_in_flight: int, error: str = ""
    ) -> dict[str, Any]:
        """The figures as plain values, times in milliseconds, rates a second.

        seconds: how long requests arrived: goodput is counted over it.
        elapsed_seconds: until the last one ended.
        """
        options = self._options
        everything = self._of()
        phases, began = [], 0.0
        for index, phase in enumerate(options.phases):
            # A run that was cut short had no time for its last phases.
            lasted = max(0.0, min(phase.seconds, seconds - began))
            began += phase.seconds
            of_phase = self._of(phase=index)
            planned = {"name": phase.name, "rate": phase.rate if options.loop == "open" else None}
            phases.append(planned | {"seconds": lasted} | _rates(of_phase, lasted) | _times(of_phase))
        operations = {}
        for operation in OPERATIONS:
            tally = self._of(operation=operation)
            if tally.kinds:
                operations[operation] = _rates(tally, seconds) | _times(tally) | {"stages": _stages(tally)}
        return {
            "address": options.address,
            "shape": options.shape,
            "loop": options.loop,
            "arrivals": options.arrivals if options.loop == "open" else None,
            "planned_seconds": options.seconds,
            "seconds": seconds,
            "elapsed_seconds": elapsed_seconds,
            "slo_ms": options.slo_ms,
            "error": error,
            **_rates(everything, seconds),
            "answer_ms": distribution(everything.answers),
            "cache": dict(everything.cache),
            "degradations": dict(everything.degradations),
            "errors": dict(everything.errors),
            "operations": operations,
            "phases": phases,
            "generator": {"late_ms": distribution(everything.late), "most_in_flight": most_in_flight},
        }

    def _of(self, *, phase: int | None = None, operation: Operation | None = None) -> Tally:
        merged = Tally()
        for (of_phase, of_operation), tally in self._tallies.items():
            if phase in (None, of_phase) and operation in (None, of_operation):
                merged.merge(tally)
        return merged


def _rates(tally: Tally, seconds: float) -> dict[str, Any]:
    counts = tally.counts()
    over = seconds or float("inf")
    return {
        "counts": counts,
        "offered_per_second": counts["arrivals"] / over,
        "answered_per_second": counts["answered"] / over,
        "goodput_per_second": counts["good"] / over,
    }


def _times(tally: Tally) -> dict[str, Any]:
    return {
        "answer_ms": distribution(tally.answers),
        "from_send_ms": distribution(tally.from_send),
        "first_token_ms": distribution(tally.first_tokens),
        "token_ms": distribution(tally.tokens),
    }


def _stages(tally: Tally) -> dict[str, dict[str, float]]:
    """By stage: its distribution, and its share of all answers' time, those that lack the stage included."""
    whole = sum(tally.from_send)
    return {
        stage: distribution(values) | {"share": sum(values) / whole if whole else 0.0}
        for stage, values in tally.stages.items()
    }
