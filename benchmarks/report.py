"""What a bench says: rows, printed as a table and appended as JSON lines."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
Size = Literal["small", "large"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `goal` reads like ">= 0.9" or "<= 8"; empty when the figure is only reported."""

    name: str
    value: float
    unit: str
    goal: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None without one."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return self.value >= float(bound) if sign == ">=" else self.value <= float(bound)


def show(bench: str, size: Size, rows: Sequence[Row], seconds: float) -> None:
    """Print the table and append the lines to benchmarks/results/<bench>.jsonl."""
    table = Table(title=f"{bench} ({size}, {seconds:.0f} s)", title_justify="left")
    for column in ("row", "value", "unit", "goal", "met"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for row in rows:
        met = {None: "", True: "yes", False: "[red]no[/]"}[row.met]
        table.add_row(
            row.name, f"{row.value:,.3g}" if row.value < 1000 else f"{row.value:,.0f}", row.unit, row.goal, met
        )
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{bench}.jsonl").open("a") as out:
        for row in rows:
            line = {
                "bench": bench,
                "row": row.name,
                "value": row.value,
                "unit": row.unit,
                "goal": row.goal,
                "met": row.met,
            }
            out.write(json.dumps(line) + "\n")


def median_of_pairs(ours: Callable[[], float], theirs: Callable[[], float], *, runs: int) -> tuple[float, float, float]:
    """Run both in turn, once unmeasured and then `runs` times; medians of ours, theirs, and the ratio pair by pair."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(runs)]
    ratio = statistics.median(mine / other for mine, other in pairs)
    return statistics.median(mine for mine, _ in pairs), statistics.median(other for _, other in pairs), ratio
