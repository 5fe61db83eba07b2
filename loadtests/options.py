"""The options of a run, the same for Locust and for the launcher, and what they mean together."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from loadtests.shapes import ARRIVALS, SHAPES, Arrivals, Phase, Shape, phases_of
from loadtests.target import ALLOW_OPTION, check_target

Operation = Literal["ask", "search", "put"]
OPERATIONS: Final[tuple[Operation, ...]] = ("ask", "search", "put")
MAX_RATE: Final = 10_000.0
MAX_SECONDS: Final = 24 * 3600.0
MAX_REQUESTS: Final = 10_000_000
MAX_IN_FLIGHT: Final = 10_000
MAX_DEADLINE_SECONDS: Final = 600.0


class _Parser(Protocol):
    def add_argument_group(self, title: str, description: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What a run does. All bounds are checked."""

    address: str
    shape: Shape
    phases: tuple[Phase, ...]
    loop: Literal["open", "closed"]
    arrivals: Arrivals
    callers: int
    max_in_flight: int
    max_requests: int
    mix: dict[Operation, float]
    slo_ms: float
    deadline_seconds: float
    questions: Path | None
    question_count: int
    zipf: float
    documents: Path | None
    document_count: int
    tenants: Path | None
    k: int
    max_tokens: int
    cache: bool
    seed: int
    summary: Path | None

    @property
    def seconds(self) -> float:
        """How long requests arrive."""
        return sum(phase.seconds for phase in self.phases)


def add_options(parser: ArgumentParser | _Parser) -> None:
    """Add the options as a group of their own. Every one has a default that is safe on a small machine."""
    group = parser.add_argument_group("load", "what is sent to Headwater, and how much of it")
    add = group.add_argument
    add("--address", default="", metavar="HOST:PORT", help="the gateway; 127.0.0.1 only")
    add(ALLOW_OPTION, action="store_true", help="send load to another machine, which is yours to overload")
    add("--shape", choices=SHAPES, default="steady", help="how the rate changes over the run (default: steady)")
    add("--rate", type=float, default=10.0, help="arrivals a second; of step: of the last step (default: 10)")
    add("--seconds", type=float, default=30.0, help="length of the run (default: 30)")
    add("--steps", type=int, default=5, help="step: how many steps lead up to the rate (default: 5)")
    add("--spike-factor", type=float, default=3.0, help="spike: how many times the rate (default: 3)")
    add(
        "--loop",
        choices=("open", "closed"),
        default="open",
        help="open: requests arrive whether or not earlier ones were answered; closed: each caller asks again once "
        "answered, and the rate follows (default: open)",
    )
    add("--arrivals", choices=ARRIVALS, default="poisson", help="open: how arrivals are spaced (default: poisson)")
    add("--callers", type=int, default=8, help="closed: callers (default: 8)")
    add(
        "--max-in-flight",
        type=int,
        default=512,
        help="open: requests in flight; more are not sent, and counted as dropped by the generator (default: 512)",
    )
    add("--max-requests", type=int, default=200_000, help="most requests of a run (default: 200000)")
    add(
        "--mix",
        default="ask=88,search=10,put=2",
        help="shares of the operations, e.g. ask=1 or ask=9,search=1 (default: ask=88,search=10,put=2)",
    )
    add("--slo-ms", type=float, default=2000.0, help="an answer that takes longer is no goodput (default: 2000)")
    add("--deadline-seconds", type=float, default=10.0, help="deadline of each call (default: 10)")
    add("--questions", type=Path, metavar="FILE.jsonl", help='questions, {"id", "text"} a line (default: made up)')
    add("--question-count", type=int, default=500, help="made-up questions (default: 500)")
    add("--zipf", type=float, default=1.0, help="exponent of the questions' popularity; 0: all alike (default: 1)")
    add("--documents", type=Path, metavar="FILE.jsonl", help='documents, {"id", "text"} a line (default: made up)')
    add("--document-count", type=int, default=200, help="made-up documents (default: 200)")
    add("--tenants", type=Path, metavar="FILE.json", help="tenants with keys and weights (default: one without a key)")
    add("--k", type=int, default=10, help="chunks that are searched for (default: 10)")
    add("--max-tokens", type=int, default=16, help="tokens of an answer (default: 16)")
    add("--no-cache", action="store_true", help="ask past the cache")
    add("--seed", type=int, default=1, help="of all that is drawn: the same seed draws the same (default: 1)")
    add("--summary", type=Path, metavar="FILE.json", help="write the summary there instead of printing it")


def options_of(given: Namespace) -> Options:
    """What these arguments mean. Raises ValueError."""
    _within("--rate", given.rate, 0, MAX_RATE)
    _within("--seconds", given.seconds, 0, MAX_SECONDS)
    _within("--steps", given.steps, 0, 100)
    _within("--spike-factor", given.spike_factor, 0, 1000)
    _within("--rate with --spike-factor", given.rate * given.spike_factor if given.shape == "spike" else 1, 0, MAX_RATE)
    _within("--callers", given.callers, 0, MAX_IN_FLIGHT)
    _within("--max-in-flight", given.max_in_flight, 0, MAX_IN_FLIGHT)
    _within("--max-requests", given.max_requests, 0, MAX_REQUESTS)
    _within("--slo-ms", given.slo_ms, 0, MAX_DEADLINE_SECONDS * 1000)
    _within("--deadline-seconds", given.deadline_seconds, 0, MAX_DEADLINE_SECONDS)
    _within("--question-count", given.question_count, 0, 1_000_000)
    _within("--document-count", given.document_count, 0, 1_000_000)
    _within("--k", given.k, 0, 1000)
    _within("--max-tokens", given.max_tokens, 0, 4096)
    if not 0 <= given.zipf <= 10:
        raise ValueError(f"--zipf is {given.zipf:g}, and must be from 0 to 10")
    if given.loop == "closed" and given.shape not in ("steady", "soak"):
        raise ValueError(f"--shape {given.shape} changes the rate, and a closed loop has none: use --loop open")
    phases = phases_of(
        given.shape, rate=given.rate, seconds=given.seconds, steps=given.steps, spike_factor=given.spike_factor
    )
    expected = sum(phase.arrivals for phase in phases)
    if given.loop == "open" and expected > given.max_requests:
        raise ValueError(
            f"this run would send about {expected:,.0f} requests, more than --max-requests {given.max_requests:,}"
        )
    return Options(
        address=check_target(given.address, owned=given.i_own_this_target),
        shape=given.shape,
        phases=phases,
        loop=given.loop,
        arrivals=given.arrivals,
        callers=given.callers,
        max_in_flight=given.max_in_flight,
        max_requests=given.max_requests,
        mix=read_mix(given.mix),
        slo_ms=given.slo_ms,
        deadline_seconds=given.deadline_seconds,
        questions=given.questions,
        question_count=given.question_count,
        zipf=given.zipf,
        documents=given.documents,
        document_count=given.document_count,
        tenants=given.tenants,
        k=given.k,
        max_tokens=given.max_tokens,
        cache=not given.no_cache,
        seed=given.seed,
        summary=given.summary,
    )


def read_mix(mix: str) -> dict[Operation, float]:
    """Shares that sum to 1, by operation, of "ask=8,search=2". Raises ValueError."""
    weights: dict[Operation, float] = {}
    for part in mix.split(","):
        name, _, weight = part.partition("=")
        operation = next((one for one in OPERATIONS if one == name.strip()), None)
        try:
            value = float(weight or "1")
        except ValueError:
            value = -1.0
        if operation is None or not 0 <= value < float("inf"):
            raise ValueError(f"--mix {mix!r}: {part!r} is not OPERATION=WEIGHT with {', '.join(OPERATIONS)}")
        weights[operation] = value
    total = sum(weights.values())
    if not total > 0:
        raise ValueError(f"--mix {mix!r}: one weight must be above 0")
    return {operation: weight / total for operation, weight in weights.items() if weight}


def arguments_of(given: Namespace) -> list[str]:
    """The same arguments again, for another process; of this group alone."""
    parser = ArgumentParser()
    add_options(parser)
    words: list[str] = []
    for action in parser._actions:
        value = getattr(given, action.dest, None)
        if action.dest == "help" or value is None or value is False:
            continue
        words += [_name(action)] if value is True else [f"{_name(action)}={value}"]
    return words


def _name(action: Action) -> str:
    return action.option_strings[-1]


def _within(name: str, value: float, above: float, most: float) -> None:
    if not above < value <= most:
        raise ValueError(f"{name} is {value:g}, and must be above {above:g} and at most {most:,.0f}")
