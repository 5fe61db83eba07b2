"""A summary, for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_PARTS = {"generate_first_token": "generate, to its first token", "total": "total in the gateway"}

_WIDTH = 120


def wide_console() -> Console:
    """Standard output; its tables are whole in a file or a pipe, too."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def show(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the summary of a run."""
    console = console or wide_console()
    counts, generator = summary["counts"], summary["generator"]
    if summary["error"]:
        console.print(f"ended before its time: {summary['error']}", style="red", markup=False, highlight=False)
    console.print(
        f"[bold]{summary['shape']}[/], {summary['loop']} loop, {summary['seconds']:.0f} s: "
        f"goodput [bold]{summary['goodput_per_second']:.1f}/s[/] of {summary['offered_per_second']:.1f}/s offered "
        f"(answered whole, undegraded and within {summary['slo_ms']:,.0f} ms)",
        highlight=False,
    )
    console.print(
        f"{counts['arrivals']:,} arrived = {counts['answered']:,} answered + {counts['refused']:,} refused + "
        f"{counts['failed']:,} failed + {counts['abandoned']:,} abandoned at the end + {counts['dropped']:,} dropped "
        f"by the generator; of the answered, {counts['slow']:,} slow, {counts['degraded']:,} degraded, "
        f"{counts['incomplete']:,} incomplete",
        highlight=False,
    )
    rows = []
    for operation, figures in summary["operations"].items():
        rows.append((f"{operation}: answer", figures["answer_ms"]))
        rows.append((f"{operation}: from its sending", figures["from_send_ms"]))
        rows.append((f"{operation}: first token", figures["first_token_ms"]))
        rows.append((f"{operation}: per output token", figures["token_ms"]))
    rows.append(("generator: sent late by", generator["late_ms"]))
    times = _table("milliseconds", "count", "mean", "p50", "p95", "p99", "max")
    for name, figures in rows:
        if figures["count"]:
            times.add_row(name, f"{figures['count']:,}", *_ms(figures, "mean", "p50", "p95", "p99", "max"))
    console.print(times)
    phases = [phase for phase in summary["phases"] if phase["seconds"]]
    if len(phases) > 1:
        console.print(_phases(phases))
    for operation in ("ask", "search"):
        stages = summary["operations"].get(operation, {}).get("stages")
        if stages:
            console.print(_stages(operation, stages))
    if summary.get("traces"):
        console.print(_traces(summary["traces"]))
    for name in ("cache", "degradations", "errors"):
        if summary[name]:
            said = ", ".join(f"{what} {count:,}" for what, count in sorted(summary[name].items()))
            console.print(f"{name}: {said}", highlight=False, markup=False)
    console.print(f"most in flight: {generator['most_in_flight']}", highlight=False)


def comparison(title: str, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Runs side by side."""
    columns = (
        "offered/s",
        "goodput/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "first token p95",
        "cached",
        "refused",
        "failed",
        "dropped",
    )
    table = _table(title, *columns)
    for name, summary in runs:
        asked = summary["operations"].get("ask") or next(iter(summary["operations"].values()), None)
        counts = summary["counts"]
        answer = asked["answer_ms"] if asked else summary["answer_ms"]
        table.add_row(
            name,
            f"{summary['offered_per_second']:.1f}",
            f"{summary['goodput_per_second']:.1f}",
            *_ms(answer, "p50", "p95", "p99"),
            *(_ms(asked["first_token_ms"], "p95") if asked else ("",)),
            _cached(summary["cache"]),
            *(f"{counts[kind]:,}" for kind in ("refused", "failed", "dropped")),
        )
    return table


def _cached(outcomes: Mapping[str, int]) -> str:
    """The share of the answers that needed no model: runs of different shares did different work."""
    free, total = outcomes.get("hit", 0) + outcomes.get("shared", 0), sum(outcomes.values())
    return f"{free / total * 100:.0f} %" if total else ""


def _phases(phases: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("rate/s", "offered/s", "goodput/s", "p50 ms", "p95 ms", "p99 ms", "refused", "failed", "dropped")
    table = _table("phase", *columns)
    for phase in phases:
        counts = phase["counts"]
        table.add_row(
            phase["name"],
            "" if phase["rate"] is None else f"{phase['rate']:.1f}",
            f"{phase['offered_per_second']:.1f}",
            f"{phase['goodput_per_second']:.1f}",
            *_ms(phase["answer_ms"], "p50", "p95", "p99"),
            *(f"{counts[kind]:,}" for kind in ("refused", "failed", "dropped")),
        )
    return table


def _stages(operation: str, stages: Mapping[str, Mapping[str, float]]) -> Table:
    table = _table(f"{operation}: where the time goes", "count", "share", "mean", "p50", "p95", "p99")
    for stage, figures in stages.items():
        share = f"{figures['share'] * 100:.1f} %"
        name = _PARTS.get(stage, stage)
        table.add_row(name, f"{figures['count']:,}", share, *_ms(figures, "mean", "p50", "p95", "p99"))
    return table


def _traces(traces: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("ask: from the traces", "", "count", "own share", "mean", "p50", "p95", "p99")
    for name, figures in traces.items():
        kind = "waits" if figures["waiting"] else "works"
        share = f"{figures['share'] * 100:.1f} %"
        shown = name.removeprefix("headwater.").replace(".v1.", " ")
        table.add_row(shown, kind, f"{figures['count']:,}", share, *_ms(figures, "mean", "p50", "p95", "p99"))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    return table


def _ms(figures: Mapping[str, float], *names: str) -> list[str]:
    return [f"{figures[name]:,.1f}" for name in names]
