"""`headwater search` and `headwater ask`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from .._core import QUERIES_A_CALL
from .._errors import InvalidArgument
from .._sync import Client
from .._types import After, Answer, Done, Query, Retrieved, Sampling, SearchResult, Token
from .output import coverage_json, degraded_json, note, one_line, printable, say, say_json, say_shortcomings
from .sources import parse_line, read_lines, string

_WIDTH: Final = 300


def search(
    client: Client, collection: str, queries: Iterator[Query], *, k: int, after: After, strict: bool, as_json: bool
) -> None:
    """Searches for one query after another, many a call."""
    while batch := list(islice(queries, QUERIES_A_CALL)):
        for query, result in zip(
            batch, client.search_many(collection, batch, k=k, after=after, strict=strict), strict=True
        ):
            if as_json:
                say_json(_result_json(result))
            else:
                _say_result(query, result)


def read_queries(path: str) -> Iterator[Query]:
    """The queries of a file of JSON lines; "-" is stdin. Raises InvalidArgument naming file and line."""
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            for number, line in read_lines(file):
                try:
                    record = parse_line(line, first=number == 1)
                    if record is not None:
                        yield Query(string(record, "text"), id=_query_id(record))
                except ValueError as error:
                    raise InvalidArgument(f"{path}:{number}: {error}", field="queries") from None
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}", field="queries") from None


def _query_id(record: dict[str, Any]) -> str:
    return str(record["id"]) if isinstance(record.get("id"), int) else string(record, "id", "")


def _result_json(result: SearchResult) -> dict[str, Any]:
    hits = [
        {"document_id": hit.document_id, "chunk": hit.chunk, "score": hit.score, "text": hit.text}
        for hit in result.hits
    ]
    line: dict[str, Any] = {"id": result.id, "hits": hits, "coverage": coverage_json(result.coverage)}
    if result.degradations:
        line["degraded"] = degraded_json(result.degradations)
    return line


def _say_result(query: Query, result: SearchResult) -> None:
    if query.id:
        say(f"{query.id}: {one_line(query.text, _WIDTH)}")
    for number, hit in enumerate(result.hits, 1):
        title = f" — {one_line(hit.title, 80)}" if hit.title else ""
        say(f"{number:3}. {hit.document_id}#{hit.chunk}{title}  ({hit.score:.3f})")
        say(f"     {one_line(hit.text, _WIDTH)}")
    if not result.hits:
        say("nothing found")
    say_shortcomings(result.coverage, result.degradations)


def ask(
    client: Client,
    collection: str,
    question: str,
    *,
    k: int,
    after: After,
    strict: bool,
    cache: bool,
    max_tokens: int,
    model: str,
    timings: bool,
    as_json: bool,
) -> None:
    """Asks, and shows the answer as it comes."""
    sampling = Sampling(max_tokens=max_tokens) if max_tokens else None
    retrieved, done = None, None
    with client.ask(
        collection, question, k=k, after=after, strict=strict, cache=cache, sampling=sampling, model=model
    ) as events:
        for event in events:
            match event:
                case Retrieved():
                    retrieved = event
                case Token(text) if not as_json:
                    print(printable(text), end="", flush=True)
                case Done():
                    done = event
    assert retrieved is not None
    assert done is not None
    answer = Answer.of(retrieved, done)
    if as_json:
        say_json(_answer_json(answer))
        return
    say()
    _say_sources(answer)
    say_shortcomings(answer.coverage, answer.degradations)
    if timings:
        _say_timings(answer)


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "citations": [
            {
                "passage": citation.passage,
                "document_id": citation.document_id,
                "chunk": citation.chunk,
                "evidence": citation.evidence,
                "position": citation.position,
            }
            for citation in answer.citations
        ],
        "passages": [
            {
                "number": passage.number,
                "document_id": passage.hit.document_id,
                "chunk": passage.hit.chunk,
                "score": passage.hit.score,
                "title": passage.hit.title,
                "text": passage.hit.text,
            }
            for passage in answer.passages
        ],
        "evidence": [{"passage": e.passage, "text": e.text, "score": e.score} for e in answer.evidence],
        "usage": {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "cached_prompt_tokens": answer.usage.cached_prompt_tokens,
        },
        "timings_ms": dict(answer.timings_ms),
        "cache": answer.cache.value,
        "degraded": degraded_json(answer.degradations),
        "coverage": coverage_json(answer.coverage),
        "finish_reason": answer.finish_reason,
        "model": answer.model,
    }


def _say_sources(answer: Answer) -> None:
    evidence: dict[int, str] = {}
    for citation in answer.citations:
        evidence.setdefault(citation.passage, citation.evidence)
    cited = set(evidence)
    for found in answer.evidence:
        evidence.setdefault(found.passage, found.text)
    # What the answer points at; an answer without marks rests on all it was given.
    shown = [p for p in answer.passages if p.number in cited] or list(answer.passages)
    if shown:
        say()
        say("Sources" if cited else "Passages it was given (it marks none)")
    for passage in shown:
        hit = passage.hit
        name = f"{one_line(hit.title, 100)} ({hit.document_id})" if hit.title else hit.document_id
        say(f" [{passage.number}] {name}")
        say(f"     “{one_line(evidence.get(passage.number) or hit.text, _WIDTH)}”")
    if answer.cache.value == "hit":
        note("note: from the cache")
    elif answer.cache.value == "shared":
        note("note: shared with a caller that asked the same at the same time")


def _say_timings(answer: Answer) -> None:
    from rich.table import Table

    from .output import console

    table = Table("stage", box=None, pad_edge=False)
    table.add_column("ms", justify="right")
    for stage, milliseconds in answer.timings_ms.items():
        table.add_row(stage, f"{milliseconds:,.1f}")
    say()
    console().print(table)
