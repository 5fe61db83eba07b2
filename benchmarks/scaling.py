"""`python -m benchmarks.scaling`: draws what tests/deploy/test_scaling.py saw into docs/scaling."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from benchmarks.report import RESULTS
from deploy.local.stack import ROOT

TITLES = {
    "workers": ("Ingestion workers by KEDA on Kafka's backlog", "documents a second"),
    "embedding": (
        "Embedding by a HorizontalPodAutoscaler, 50 searches a second",
        "texts a second",
    ),
}
OUTCOMES = {"whole": "#2a7f62", "partial": "#e0a030", "failed": "#999999", "wrong": "#c0392b"}


def main() -> None:
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "headwater", "font.size": 9}
    folder = ROOT / "docs" / "scaling"
    folder.mkdir(exist_ok=True)
    for path in sorted((RESULTS / "scaling").glob("*.csv")):
        shutil.copyfile(path, folder / path.name)
        with path.open() as lines:
            rows = list(csv.DictReader(lines))
        if path.stem in TITLES:
            draw_replicas(rows, *TITLES[path.stem])
        else:
            draw_outcomes(rows)
        save(folder / f"{path.stem}.svg")


def draw_replicas(rows: list[dict[str, str]], title: str, done: str) -> None:
    """Three panels over time: replicas, what waits, what each replica does."""
    seconds = [float(row["seconds"]) for row in rows]
    waiting, *pods = [name for name in rows[0] if name not in ("seconds", "replicas")]
    _, (top, middle, bottom) = pyplot.subplots(3, sharex=True, figsize=(8, 6), height_ratios=(1, 1, 2))
    top.set_title(title)
    top.step(seconds, [int(row["replicas"]) for row in rows], where="post", color="black")
    top.set_ylabel("replicas")
    middle.plot(seconds, [float(row[waiting]) for row in rows], color="#c0392b")
    middle.set_ylabel(waiting)
    for pod in pods:
        bottom.plot(seconds, [float(row[pod]) if row[pod] else float("nan") for row in rows], label=pod, linewidth=1)
    bottom.set_ylabel(done)
    bottom.set_xlabel("seconds")
    bottom.legend(fontsize=7)
    for axis in (top, middle, bottom):
        axis.set_ylim(bottom=0)


def draw_outcomes(rows: list[dict[str, str]]) -> None:
    """How searches ended, second by second."""
    _, axis = pyplot.subplots(figsize=(8, 3))
    seconds = [float(row["seconds"]) for row in rows]
    counts = [[float(row[kind]) for row in rows] for kind in OUTCOMES]
    axis.stackplot(seconds, counts, labels=list(OUTCOMES), colors=list(OUTCOMES.values()), step="post")
    axis.set_title("Searches of everything, while the index goes from one shard to two")
    axis.set_ylabel("searches a second")
    axis.set_xlabel("seconds")
    axis.legend(fontsize=7, loc="lower right")


def save(path: Path) -> None:
    pyplot.tight_layout()
    pyplot.savefig(path, metadata={"Date": None})
    pyplot.close()


if __name__ == "__main__":
    main()
