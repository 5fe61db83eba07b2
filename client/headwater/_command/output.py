"""How the command speaks: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from .._errors import HeadwaterError
    from .._types import Coverage, Degradation

INTERRUPTED = 130
PIPE_CLOSED = 141
"""Exit codes as shells give them for SIGINT and SIGPIPE."""


def say(text: str = "") -> None:
    """A line of the result."""
    print(printable(text), flush=True)


def say_json(value: Any) -> None:
    """A result, as one line of JSON."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def note(text: str) -> None:
    """A line that is not part of the result."""
    print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text without what would steer the terminal: documents are not ours."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)


def one_line(text: str, width: int) -> str:
    """The text on one line, shortened to so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def console(*, stderr: bool = False) -> Console:
    """A rich console; plain where it is not a terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=False)


def wrong_usage(message: str) -> typer.Exit:
    """Says what was wrong with the arguments; raise the result."""
    note(f"error: {message}")
    return typer.Exit(2)


def explain(error: HeadwaterError) -> str:
    """What was wrong and what to do, on one line."""
    message = one_line(str(error), 2000)
    match error.code, error.reason:
        case _, "GATEWAY_UNREACHABLE":
            return f"{message}; start it with `make up`, or name another with HEADWATER_ADDRESS"
        case _, "PLAINTEXT_KEY":
            return message.replace("insecure=True", "--insecure")
        case "UNAUTHENTICATED", _:
            return f"{message}; set HEADWATER_API_KEY to your key"
        case "NOT_FOUND", reason if "COLLECTION" in reason:
            # the gateway's own advice names its call; ours names the command
            return f"{message.partition(';')[0]}; `headwater collections` lists what there is"
        case "RESOURCE_EXHAUSTED", _ if error.retry_after:
            return f"{message}; try again in {error.retry_after:.0f} s"
    return f"{message} (field: {error.field})" if error.field and error.field not in message else message


def error_json(error: HeadwaterError) -> dict[str, Any]:
    """What `--json` says of a failure."""
    fields = {"code": error.code, "reason": error.reason, "field": error.field, "message": str(error)}
    return {"error": fields | ({"retry_after": error.retry_after} if error.retry_after is not None else {})}


def coverage_json(coverage: Coverage) -> dict[str, Any]:
    """Of how many partitions a result is."""
    return {
        "partitions_answered": coverage.partitions_answered,
        "partitions_total": coverage.partitions_total,
        "partitions_missing": list(coverage.partitions_missing),
    }


def degraded_json(degradations: tuple[Degradation, ...]) -> list[dict[str, str]]:
    """What was left out or replaced."""
    return [{"kind": degradation.kind, "message": degradation.message} for degradation in degradations]


def say_shortcomings(coverage: Coverage, degradations: tuple[Degradation, ...]) -> None:
    """In words, what a result lacks."""
    if not coverage.complete and not any(d.kind == "partial_coverage" for d in degradations):
        note(f"note: only {coverage.partitions_answered} of {coverage.partitions_total} partitions answered")
    for degradation in degradations:
        note(f"note: {degradation.message}")
