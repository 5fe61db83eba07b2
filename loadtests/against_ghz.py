"""Whether Locust's numbers are true: the same calls at the same rate by ghz, a client of others, in another language.

`python -m loadtests.against_ghz` starts a stack on fake engines (or takes --address), and sends Search and then Ask,
past the cache, evenly spaced, by each client in turn. ghz is found on the path or by GHZ=path; it is made by
`go install github.com/bojand/ghz/cmd/ghz@latest`.

Both measure from the sending of a call to its end. What is compared is the median over the rounds.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from headwater import HeadwaterError
from headwater.gateway.v1 import gateway_pb2
from rich.console import Console
from rich.table import Table

from loadtests import runs
from loadtests.__main__ import FAILED, WRONG_USAGE, add_engines, target
from loadtests.local_stack import NotStarted
from loadtests.options import Operation, add_options, options_of
from loadtests.report import wide_console
from loadtests.tenants import Tenant
from loadtests.workload import Workload

GOAL_PERCENT: Final = 10.0
CALLS: Final[tuple[Operation, ...]] = ("search", "ask")
METHODS: Final = {"search": "Search", "ask": "Ask"}
ROUNDS: Final = 3
INSTALL: Final = "go install github.com/bojand/ghz/cmd/ghz@latest"


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one run of one client. `rps`: calls a second until the last one ended; times in milliseconds."""

    rps: float
    p50: float
    p95: float
    failed: int


def main(arguments: Sequence[str]) -> int:
    parser = ArgumentParser(prog="python -m loadtests.against_ghz", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each client (default: {ROUNDS})")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON, and nothing else")
    add_engines(parser)
    add_options(parser)
    parser.set_defaults(rate=20.0, seconds=10.0)
    given = parser.parse_args(arguments)
    runs.end_cleanly()
    console = Console(stderr=True)
    ghz = os.environ.get("GHZ") or shutil.which("ghz")
    if ghz is None or shutil.which(ghz) is None:
        why = "GHZ names no program" if ghz else "ghz is not on the path"
        print(f"skipped: {why}; {INSTALL} makes it, and GHZ=path names it")
        return 0
    try:
        runs.require_locust()
        with target(given, console) as address:
            found = _compare(Namespace(**vars(given) | {"address": address}), ghz, console)
    except ValueError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return WRONG_USAGE
    except (HeadwaterError, NotStarted, runs.RunFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return FAILED
    except KeyboardInterrupt:
        console.print("stopped")
        return runs.INTERRUPTED
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        _show(found, given)
    return 0


def difference_percent(ours: float, theirs: float) -> float:
    """How much more ours is than theirs; 0 of nothing."""
    return (ours / theirs - 1) * 100 if theirs else 0.0


def _compare(given: Namespace, ghz: str, console: Console) -> list[dict[str, Any]]:
    rows = []
    for operation in CALLS:
        options = {"shape": "steady", "loop": "open", "arrivals": "uniform", "mix": operation, "no_cache": True}
        one = Namespace(**vars(given) | options)
        seen: dict[str, list[Measured]] = {"locust": [], "ghz": []}
        console.print(f"{operation}: {one.rate:g}/s for {one.seconds:g} s, {given.rounds} times each", highlight=False)
        _by_ghz(ghz, one, operation)  # so that neither finds a colder stack than the other
        for number in range(given.rounds):
            clients = ("locust", "ghz") if number % 2 else ("ghz", "locust")
            for client in clients:
                measured = _by_ghz(ghz, one, operation) if client == "ghz" else _by_locust(one, operation)
                seen[client].append(measured)
        for figure in ("rps", "p50", "p95"):
            ours, theirs = (
                statistics.median(getattr(one, figure) for one in seen[client]) for client in ("locust", "ghz")
            )
            percent = difference_percent(ours, theirs)
            row = {"call": METHODS[operation], "figure": figure, "locust": ours, "ghz": theirs, "percent": percent}
            rows.append(row | {"within_goal": abs(percent) <= GOAL_PERCENT})
        for client, measurements in seen.items():
            if failed := sum(one.failed for one in measurements):
                console.print(f"[red]{client}: {failed} calls of {METHODS[operation]} failed[/]", highlight=False)
    return rows


def _by_locust(given: Namespace, operation: Operation) -> Measured:
    summary = runs.run(given, f"against-ghz-{operation}").summary
    times = summary["operations"][operation]["from_send_ms"]
    counts = summary["counts"]
    rps = counts["answered"] / summary["elapsed_seconds"]
    return Measured(rps, times["p50"], times["p95"], counts["issued"] - counts["answered"] + counts["dropped"])


def _by_ghz(ghz: str, given: Namespace, operation: Operation) -> Measured:
    options = options_of(given)
    tenant, total = Workload(options).tenants[0], round(given.rate * given.seconds)
    with tempfile.TemporaryDirectory() as folder:
        data, metadata, protos = (Path(folder) / name for name in ("data.json", "metadata.json", "protoset"))
        protos.write_bytes(_protoset())
        data.write_text(json.dumps(_requests(given, operation, total)))
        metadata.write_text(json.dumps(_metadata(tenant)))
        command = [
            *(ghz, "--insecure", "--protoset", str(protos)),
            *("--call", f"headwater.gateway.v1.GatewayService/{METHODS[operation]}"),
            *("--data-file", str(data), "--metadata-file", str(metadata)),
            # Asynchronous at a rate is an open loop: a call goes out whether or not the one before has ended.
            *("--async", "--rps", f"{given.rate:g}", "--total", str(total), "--concurrency", "1"),
            *("--timeout", f"{given.deadline_seconds:g}s", "--format", "json", given.address),
        ]
        done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise runs.RunFailed(f"ghz failed: {done.stderr.strip() or done.stdout.strip()}")
    return read_ghz(json.loads(done.stdout))


def read_ghz(report: Mapping[str, Any]) -> Measured:
    """What ghz's JSON report says."""
    of_percent = {one["percentage"]: one["latency"] / 1e6 for one in report["latencyDistribution"] or ()}
    good = report["statusCodeDistribution"].get("OK", 0)
    return Measured(report["rps"], of_percent.get(50, 0.0), of_percent.get(95, 0.0), report["count"] - good)


def _requests(given: Namespace, operation: Operation, count: int) -> list[dict[str, Any]]:
    """The requests that Locust sends, in JSON; ghz takes them in turn."""
    workload = Workload(options_of(given))
    drawn = [workload.draw(0, 0.0) for _ in range(count)]
    if operation == "search":
        return [{"collection": one.tenant.collection, "queries": [{"text": one.text}], "k": given.k} for one in drawn]
    return [
        {
            "collection": one.tenant.collection,
            "question": one.text,
            "k": given.k,
            "cache": "CACHE_USE_BYPASS",
            "sampling": {"max_tokens": given.max_tokens},
        }
        for one in drawn
    ]


def _protoset() -> bytes:
    """The gateway's contract, compiled: ghz's own reader of protos knows no `optional`."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        files.setdefault(file.name, file)

    add(gateway_pb2.DESCRIPTOR)
    found = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return found.SerializeToString()


def _metadata(tenant: Tenant) -> dict[str, str]:
    return {"authorization": f"Bearer {tenant.key}"} if tenant.key else {}


def _show(rows: Sequence[Mapping[str, Any]], given: Namespace) -> None:
    title = f"the same calls at {given.rate:g}/s, medians of {given.rounds} runs of {given.seconds:g} s"
    table = Table("call", "figure", title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in ("Locust", "ghz", "difference", f"within {GOAL_PERCENT:g} %"):
        table.add_column(column, justify="right")
    for row in rows:
        unit = "calls/s" if row["figure"] == "rps" else f"{row['figure']}, ms"
        met = "yes" if row["within_goal"] else "[red]no[/]"
        table.add_row(row["call"], unit, f"{row['locust']:.1f}", f"{row['ghz']:.1f}", f"{row['percent']:+.1f} %", met)
    wide_console().print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
