"""`python -m loadtests`: a stack on engines of known delay, documents, load, a summary; then all is stopped."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from headwater import HeadwaterError
from rich.console import Console

from loadtests import capacity, runs
from loadtests.loading import load
from loadtests.local_stack import SENT_EVERY_MS, FakeEngines, NotStarted, Tracing, running
from loadtests.options import add_options, options_of
from loadtests.report import comparison, show, wide_console
from loadtests.target import LOOPBACK
from loadtests.traces import QUESTION, Collector, collecting, where_time_goes
from loadtests.workload import Workload

WRONG_USAGE, FAILED = 2, 1


def main(arguments: Sequence[str]) -> int:
    given = parser().parse_args(arguments)
    runs.end_cleanly()
    console = Console(stderr=True)
    try:
        runs.require_locust()
        with (
            collecting() as collector,
            target(given, console, Tracing(collector.address, given.trace_ratio)) as address,
        ):
            return _drive(Namespace(**vars(given) | {"address": address, "collector": collector}), console)
    except ValueError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return WRONG_USAGE
    except (HeadwaterError, NotStarted, runs.RunFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return FAILED
    except KeyboardInterrupt:
        console.print("stopped")
        return runs.INTERRUPTED


def parser() -> ArgumentParser:
    """The options of a run, and those of the stack that it is sent to."""
    made = ArgumentParser(
        prog="python -m loadtests",
        description="Puts Headwater under load. Without --address, starts a stack of its own on fake engines, on "
        "127.0.0.1, and stops it afterwards.",
    )
    add = made.add_argument
    add("--json", action="store_true", help="print the summary as JSON, and nothing else")
    add("--capacity", action="store_true", help="find the highest rate that is kept up with, from --rate up")
    add("--web", action="store_true", help=f"drive it from Locust's page, on {LOOPBACK}, instead of at once")
    add("--web-port", type=int, default=8089, help="port of the page (default: 8089)")
    add("--no-load", action="store_true", help="with --address: the documents are there already")
    add(
        "--trace-ratio",
        type=float,
        default=0.2,
        help="share of the requests that are traced, of a stack that is started (default: 0.2)",
    )
    add_engines(made)
    add_options(made)
    return made


def add_engines(made: ArgumentParser) -> None:
    """Options for the engines of a stack that is started."""
    engines = made.add_argument_group("engines", "what the fake engines take, of a stack that is started")
    engines.add_argument("--embed-ms", type=float, default=5.0, help="a batch of texts (default: 5)")
    engines.add_argument("--first-token-ms", type=float, default=100.0, help="the first token (default: 100)")
    engines.add_argument("--token-ms", type=float, default=10.0, help="each further token (default: 10)")
    engines.add_argument(
        "--slots", type=int, default=16, help="answers at once; the gateway takes twice as many (default: 16)"
    )


@contextmanager
def target(given: Namespace, console: Console, tracing: Tracing | None = None) -> Iterator[str]:
    """The address that load goes to: the one named, or that of a stack started here; documents are in it."""
    # All that can be wrong with the options is said before anything is started.
    options = options_of(Namespace(**vars(given) | {"address": given.address or f"{LOOPBACK}:1"}))
    tenants = Workload(options).tenants
    engines = FakeEngines(given.embed_ms, given.first_token_ms, given.token_ms, given.slots)
    if given.address:
        if not getattr(given, "no_load", False):
            _load(given, console)
        yield given.address
        return
    with running(engines, tenants, console, tracing) as address:
        console.print(f"a stack on fake engines, the gateway on {address}", highlight=False)
        _load(Namespace(**vars(given) | {"address": address}), console)
        yield address


def _load(given: Namespace, console: Console) -> None:
    console.print(f"{load(options_of(given)):,} documents searchable", highlight=False)


def _drive(given: Namespace, console: Console) -> int:
    if given.web:
        runs.run_page(given, given.web_port)
        return 0
    if given.capacity:
        return _capacity(given, console)
    try:
        finished, status = _run(given, console), 0
    except runs.Interrupted as interrupted:
        if interrupted.finished is None:
            raise
        finished, status = interrupted.finished, runs.INTERRUPTED
    _say(finished.summary, given)
    console.print(f"Locust's tables and charts: {finished.folder / 'report.html'}", highlight=False, soft_wrap=True)
    if not status and not finished.summary["counts"]["answered"]:
        console.print("[red]nothing was answered[/]")
        status = FAILED
    return status


def _run(given: Namespace, console: Console, name: str = "") -> runs.Finished:
    said = f"{given.callers} callers" if given.loop == "closed" else f"{given.rate:g}/s"
    console.print(f"{given.shape}: {said} for {given.seconds:g} s", highlight=False)
    given.collector.taken()  # those of loading the documents, and of the run before
    try:
        finished = runs.run(given, name)
    except runs.Interrupted as interrupted:
        if interrupted.finished:
            _add_traces(interrupted.finished, given.collector)
        raise
    _add_traces(finished, given.collector)
    return finished


def _add_traces(finished: runs.Finished, collector: Collector) -> None:
    time.sleep(2 * SENT_EVERY_MS / 1000)
    finished.summary["traces"] = where_time_goes(collector.taken(), QUESTION)
    (finished.folder / "summary.json").write_text(json.dumps(finished.summary, indent=2))


def _capacity(given: Namespace, console: Console) -> int:
    if given.loop == "closed":
        raise ValueError("--capacity raises the rate of arrivals, and a closed loop has none: use --loop open")
    done: list[tuple[str, capacity.Summary]] = []
    status = 0
    try:
        for found in capacity.find(given, lambda options, name: _run(options, console, name).summary):
            done.append(found)
    except (KeyboardInterrupt, runs.RunFailed) as error:  # what was found until then is told
        status = FAILED if isinstance(error, runs.RunFailed) else runs.INTERRUPTED
        console.print(str(error) or "stopped", style="red", markup=False, highlight=False)
    if given.json:
        print(json.dumps([{"name": name, **summary} for name, summary in done], indent=2))
    elif done:
        rate = capacity.found(done)
        console = wide_console()
        console.print(comparison("run", done))
        said = "no rate was kept up with: start lower with --rate"
        if rate:
            share = f"at least {capacity.KEPT_UP * 100:.0f} % of them good answers within {given.slo_ms:,.0f} ms"
            said = f"capacity: {rate:.1f} arrivals/s, {share}"
        console.print(said, highlight=False, soft_wrap=True)
    return status


def _say(summary: dict[str, Any], given: Namespace) -> None:
    if given.json:
        print(json.dumps(summary, indent=2))
    else:
        show(summary)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
