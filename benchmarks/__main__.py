"""`python -m benchmarks`: run all benches or one; print a table, append JSON lines to benchmarks/results/."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from benchmarks.report import Row, show

BENCHES = ("embedding", "retrieval", "generation", "ask", "freshness", "sizing")
ON_DATA = "quality"
"""Run when a data file is given."""


def main(
    only: Annotated[str, typer.Option(help=f"One of {', '.join([*BENCHES, ON_DATA])}.")] = "",
    size: Annotated[str, typer.Option(help="small (minutes) or large.")] = "small",
    data: Annotated[Path | None, typer.Option(exists=True, help=f"SQuAD-format file, for {ON_DATA}.")] = None,
) -> None:
    """Ratios against the raw engine, a peer or a known limit, both sides in one run, medians."""
    names = [*BENCHES, ON_DATA]
    if only and only not in names:
        raise typer.BadParameter(f"no bench is named {only}: there are {', '.join(names)}", param_hint="--only")
    if only == ON_DATA and data is None:
        raise typer.BadParameter(f"{ON_DATA} needs questions: name a file in SQuAD's format", param_hint="--data")
    if size not in ("small", "large"):
        raise typer.BadParameter(f"{size} is not a size: small or large", param_hint="--size")
    chosen: Literal["small", "large"] = "large" if size == "large" else "small"
    missed = 0
    for name in [only] if only else names[: None if data else -1]:
        started = time.monotonic()
        bench = importlib.import_module(f"benchmarks.{name}")
        rows: list[Row] = bench.run(chosen, data) if name == ON_DATA else bench.run(chosen)
        show(name, chosen, rows, time.monotonic() - started)
        missed += sum(row.met is False for row in rows)
    Console(stderr=True).print(f"{missed} goals missed" if missed else "every goal met")
    sys.exit(0)


if __name__ == "__main__":
    typer.run(main)
