"""One request through the SDK, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from headwater import AsyncClient, Document, Done, HeadwaterError, Retrieved, Sampling, Token

from loadtests.options import Operation, Options
from loadtests.tenants import Tenant

Kind = Literal["answered", "refused", "failed", "abandoned", "dropped"]
REFUSED: Final = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent. `due`: when it was meant to be, in seconds of time.perf_counter(), like every time here."""

    operation: Operation
    tenant: Tenant
    text: str
    phase: int
    due: float
    document_id: str = ""


@dataclass(slots=True)
class Outcome:
    """What became of a request.

    kind: answered; refused with RESOURCE_EXHAUSTED; failed otherwise; abandoned: cut off at the end of the run;
        dropped: never sent, because too many were in flight.
    sent, first_token, ended: when; 0 when it did not come to that.
    complete: answered from every partition.
    tokens, cache, timings_ms: as the answer says.
    """

    operation: Operation
    phase: int
    kind: Kind
    due: float
    sent: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    complete: bool = False
    tokens: int = 0
    cache: str = ""
    degradations: tuple[str, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


async def perform(client: AsyncClient, request: Request, options: Options) -> Outcome:
    """Send the request and wait for its end; errors of the gateway are an outcome, too."""
    outcome = Outcome(request.operation, request.phase, "answered", request.due, sent=time.perf_counter())
    try:
        match request.operation:
            case "ask":
                await _ask(client, request, options, outcome)
            case "search":
                await _search(client, request, options, outcome)
            case "put":
                await _put(client, request, options, outcome)
    except HeadwaterError as error:
        outcome.kind = "refused" if error.code == REFUSED else "failed"
        outcome.error = error.code if error.reason == error.code else f"{error.code} {error.reason}"
    outcome.ended = time.perf_counter()
    return outcome


async def _ask(client: AsyncClient, request: Request, options: Options, outcome: Outcome) -> None:
    asked = client.ask(
        request.tenant.collection,
        request.text,
        k=options.k,
        after=None,  # whatever there is: a put of this run must not hold the questions up
        cache=options.cache,
        sampling=Sampling(max_tokens=options.max_tokens),
        timeout=options.deadline_seconds,
    )
    async with asked as events:
        async for event in events:
            match event:
                case Retrieved():
                    outcome.complete = event.coverage.complete
                case Token():
                    outcome.first_token = outcome.first_token or time.perf_counter()
                case Done():
                    outcome.tokens = event.usage.completion_tokens
                    outcome.cache = event.cache.value
                    outcome.degradations = tuple(one.kind for one in event.degradations)
                    outcome.timings_ms = event.timings_ms


async def _search(client: AsyncClient, request: Request, options: Options, outcome: Outcome) -> None:
    found = await client.search(
        request.tenant.collection, request.text, k=options.k, after=None, timeout=options.deadline_seconds
    )
    outcome.complete = found.coverage.complete
    outcome.degradations = tuple(one.kind for one in found.degradations)
    outcome.timings_ms = found.timings_ms


async def _put(client: AsyncClient, request: Request, options: Options, outcome: Outcome) -> None:
    document = Document(request.document_id, text=request.text)
    await client.put(request.tenant.collection, [document], after=None, timeout=options.deadline_seconds)
    outcome.complete = True
