"""An answer being generated: what the model says goes through the composer, and what goes wrong is written on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from serving import deadlines
from serving.errors import ErrorCode, HeadwaterError
from serving.limits import MAX_DEADLINE_SECONDS

from .composer import Composer
from .models import Model
from .prompt import Prompt
from .values import Degradation, DegradationKind, Evidence, Sampling, Scope, Timing, Usage

# Generation is not there, or broken; its refusals (RESOURCE_EXHAUSTED) and what is wrong with the request are passed
# on.
_DOWN = {ErrorCode.UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED, ErrorCode.INTERNAL}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a model is asked."""

    scope: Scope
    prompt: Prompt
    sampling: Sampling
    model: str
    evidence: tuple[Evidence, ...]
    """Best first: what the `extractive` engine quotes."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a generation."""

    finish_reason: str
    """"stop" or "length"."""
    usage: Usage
    timings: tuple[Timing, ...]
    """Stages "queue", "first_token", "generate"."""
    model: str


class GenerationClient(Protocol):
    """The generation service."""

    def generate(self, request: GenerationRequest, timeout_seconds: float) -> AsyncGenerator[str | Finished, None]:
        """Text as it comes, then `Finished`. Closing it stops the engine."""
        ...


class Draft:
    """One answer. `write` gives what may be shown; afterwards the attributes say how it went."""

    def __init__(self, compose: Callable[[], Composer]) -> None:
        self._compose = compose
        self.usage = Usage()
        self.finish_reason = "stop"
        self.model = ""
        self.timings: tuple[Timing, ...] = ()
        self._failure: Degradation | None = None

    @cached_property
    def composer(self) -> Composer:
        """What writes the answer; made when the first token is there, while the model is at work on the next."""
        return self._compose()

    async def write(
        self, client: GenerationClient, request: GenerationRequest, model: Model | None, *, reply_margin_seconds: float
    ) -> AsyncGenerator[str, None]:
        """The pieces of the answer that may be shown. When no model is there (or it fails before it said anything), the
        evidence; when it fails later, what there is. Raises what generation refuses for a reason of the request."""
        said_something = False
        finished: Finished | None = None
        if model is not None:
            try:
                seconds = deadlines.budget(min(deadlines.remaining() - reply_margin_seconds, MAX_DEADLINE_SECONDS))
                async with aclosing(client.generate(request, seconds)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            finished = event
                            continue
                        said_something = said_something or bool(event.strip())
                        if shown := self.composer.feed(event):
                            yield shown
            except HeadwaterError as error:
                if error.code not in _DOWN:
                    raise
        if finished is not None:
            self.usage, self.finish_reason = finished.usage, finished.finish_reason
            self.model, self.timings = finished.model, finished.timings
        elif said_something:
            self.finish_reason = "length"
            self._failure = _PARTIAL
        if said_something and (shown := self.composer.finish(cut_off=self.finish_reason == "length")):
            yield shown
        if not self.composer.answer:
            self._failure = self._failure or (_SILENT if finished else _UNAVAILABLE)
            while shown := self.composer.quote():
                yield shown

    def degradations(self) -> Sequence[Degradation]:
        """What was left out or replaced."""
        found = [self._failure] if self._failure else []
        if count := self.composer.sentences_withheld:
            found.append(
                Degradation(
                    DegradationKind.SENTENCE_WITHHELD,
                    f"{count} sentence(s) said what the passages do not, or went round in circles; the passages are "
                    "quoted instead",
                )
            )
        if count := self.composer.marks_withheld:
            found.append(
                Degradation(DegradationKind.CITATION_WITHHELD, f"{count} citation mark(s) pointed at no passage given")
            )
        return found


_UNAVAILABLE = Degradation(
    DegradationKind.GENERATION_UNAVAILABLE,
    "no model answered in time; the sentences that match the question best are quoted",
)
_SILENT = Degradation(
    DegradationKind.GENERATION_UNAVAILABLE,
    "the model said nothing of its own; the sentences that match the question best are quoted",
)
_PARTIAL = Degradation(DegradationKind.GENERATION_PARTIAL, "generation ended early; the answer is not complete")
