"""Quotes the sentences that match the question best, with the passages they stand in. No model: it cannot invent."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from serving.errors import InvalidArgument

from ..requests import Delta, Evidence, Finished, FinishReason, Model, Prompt, PromptStyle, Request, TokenCounts, Usage
from ..settings import ExtractiveSettings
from ..text import StopFinder, words

CONTEXT_TOKENS = 1_000_000


class ExtractiveGenerator:
    """A token is a word."""

    def __init__(self, settings: ExtractiveSettings, name: str, style: PromptStyle) -> None:
        self.model = Model(
            name=name or "extractive",
            engine="extractive",
            context_tokens=CONTEXT_TOKENS,
            capacity_tokens=CONTEXT_TOKENS,
            prompt_style=style,
        )
        self._max_sentences = settings.max_sentences

    async def prompt(self, request: Request) -> Prompt:
        if not any(evidence.text.strip() for evidence in request.evidence):
            raise InvalidArgument(
                "the extractive engine quotes evidence, and the request holds none; send evidence sentences",
                field="evidence",
                reason="NO_EVIDENCE",
            )
        return Prompt(request, sum(len(words(evidence.text)) for evidence in request.evidence))

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Delta | Finished, None]:
        """Whole sentences as long as `max_tokens` lasts; the first one is cut rather than left out."""
        sampling = prompt.request.sampling
        stop = StopFinder(sampling.stop)
        reason = FinishReason.STOP
        generated = 0
        for quote in self._quotes(prompt.request.evidence):
            said = words(quote)
            left = sampling.max_tokens - generated
            if len(said) > left:
                reason = FinishReason.LENGTH
                if generated:
                    break
            said = said[:left]
            generated += len(said)
            if text := stop.feed("".join(said)):
                yield Delta(text, len(said))
            if stop.found:
                reason = FinishReason.STOP
                break
        if text := stop.flush():
            yield Delta(text, 0)
        yield Finished(reason, Usage(prompt.tokens, generated))

    async def count_tokens(self, texts: Sequence[str]) -> TokenCounts:
        return TokenCounts(tuple(len(words(text)) for text in texts), estimated=False)

    async def failure(self) -> None:
        await asyncio.Event().wait()

    def _quotes(self, evidence: Sequence[Evidence]) -> list[str]:
        """The best sentences, once each, as "sentence [passage]"; from the second on with the space between."""
        best = {sentence.text.strip(): sentence.passage for sentence in reversed(evidence) if sentence.text.strip()}
        chosen = list(reversed(best.items()))[: self._max_sentences]
        return [f"{' ' if place else ''}{text} [{passage}]" for place, (text, passage) in enumerate(chosen)]
