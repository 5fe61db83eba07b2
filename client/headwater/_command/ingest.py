"""`headwater ingest`: documents in, and what became of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import typer

from .._errors import HeadwaterError
from .._sync import Client
from .._types import Document, DocumentState
from .output import INTERRUPTED, explain, note, one_line, say, say_json, wrong_usage
from .sources import SourceError, Sources, find_sources

_SHOWN: Final = 20
_NEWS_SECONDS: Final = 5.0

Advance = Callable[[], None]


@dataclass(slots=True)
class Report:
    """What became of the documents so far."""

    sent: int = 0
    accepted: list[str] = field(default_factory=list)
    indexed: int | None = None
    rejected: dict[str, str] = field(default_factory=dict)

    def as_json(self, token: str) -> dict[str, Any]:
        """The last line of `--json`."""
        rejected = [{"id": document_id, "reason": reason} for document_id, reason in self.rejected.items()]
        return {"accepted": len(self.accepted), "indexed": self.indexed, "rejected": rejected, "token": token}


def ingest(
    client: Client, collection: str, paths: Sequence[str], *, wait: bool, create: bool, as_json: bool
) -> typer.Exit:
    """Ingests; the result is the exit to raise."""
    report = Report()
    try:
        sources = find_sources(paths, report.rejected.__setitem__)
    except SourceError as error:
        raise wrong_usage(str(error)) from None
    try:
        if create:
            client.create_collection(collection, exist_ok=True)
        _put(client, collection, sources, report)
        if wait:
            _wait(client, collection, report)
    except KeyboardInterrupt:
        open_ = report.sent - len(report.accepted) - len(report.rejected)
        note(
            f"interrupted: {len(report.accepted)} documents were accepted"
            + (f"; of {open_} more it is not known" if open_ > 0 else "")
        )
        if as_json:
            say_json(report.as_json(client.own_writes(collection)) | {"interrupted": True})
        return typer.Exit(INTERRUPTED)
    except HeadwaterError:
        if report.accepted:
            note(f"{len(report.accepted)} documents were accepted before this:")
        raise
    if sources.skipped:
        note(f"skipped {sources.skipped} files of kinds that are not ingested")
    if sources.unused_fields:
        names = ", ".join(sorted(sources.unused_fields))
        note(f'not used: {one_line(names, 200)}; a field is kept when it is inside "metadata"')
    if as_json:
        say_json(report.as_json(client.own_writes(collection)))
    else:
        _say(report)
    return typer.Exit(1 if report.rejected else 0)


def _put(client: Client, collection: str, sources: Sources, report: Report) -> None:
    with _progress("sending", sources.total) as advance:

        def told(document_id: str, error: HeadwaterError | None) -> None:
            if error is None:
                report.accepted.append(document_id)
            else:
                report.rejected[document_id] = explain(error)
            advance()

        def counted() -> Iterator[Document]:
            for document in sources.documents():
                report.sent += 1
                yield document

        client.put(collection, counted(), on_error="collect", on_outcome=told)


def _wait(client: Client, collection: str, report: Report) -> None:
    report.indexed = 0
    if not report.accepted:
        return
    with (
        _progress("searchable", len(report.accepted)) as advance,
        client.watch(collection, report.accepted, timeout=600) as outcomes,
    ):
        for status in outcomes:
            if status.state is DocumentState.INDEXED:
                report.indexed += 1
            elif status.state is DocumentState.REJECTED:
                report.rejected[status.document_id] = status.reason
            else:
                report.rejected[status.document_id] = f"{status.state}: another writer came between"
            advance()


def _say(report: Report) -> None:
    for document_id, reason in list(report.rejected.items())[:_SHOWN]:
        note(f"rejected {document_id}: {one_line(reason, 300)}")
    if len(report.rejected) > _SHOWN:
        note(f"… and {len(report.rejected) - _SHOWN} more; --json lists them all")
    searchable = "" if report.indexed is None else f", {report.indexed} searchable"
    rejected = f", {len(report.rejected)} rejected" if report.rejected else ""
    say(f"{len(report.accepted)} documents accepted{searchable}{rejected}")


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Advance]:
    """A bar on a terminal; elsewhere a line now and then."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from .output import console

        columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console(stderr=True), transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda: progress.advance(task)
        return
    done, told_at = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, told_at
        done += 1
        if time.monotonic() - told_at >= _NEWS_SECONDS:
            told_at = time.monotonic()
            note(f"{what}: {done}" + (f" of {total}" if total is not None else ""))

    yield advance
