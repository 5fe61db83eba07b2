"""Known words at known times: echoes the last line of the last message, word by word. A token is a word."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from ..requests import (
    Delta,
    Finished,
    FinishReason,
    Model,
    Prompt,
    PromptStyle,
    Request,
    TokenCounts,
    Usage,
    require_messages,
    require_window,
)
from ..settings import FakeSettings
from ..text import StopFinder, words

CONTEXT_TOKENS = 8192


class FakeGenerator:
    """A real engine without a model; it counts what it did."""

    def __init__(self, settings: FakeSettings, name: str, style: PromptStyle) -> None:
        self.model = Model(
            name=name or "fake",
            engine="fake",
            context_tokens=CONTEXT_TOKENS,
            capacity_tokens=1_000_000,
            prompt_style=style,
        )
        self._first_token_seconds = settings.first_token_delay_ms / 1000
        self._token_seconds = settings.token_delay_ms / 1000
        self.steps = 0
        """Tokens generated, of all requests."""
        self.cancelled = 0
        """Generations closed before their end."""

    async def prompt(self, request: Request) -> Prompt:
        require_messages(request)
        tokens = sum(len(words(message.text)) for message in request.messages)
        require_window(request, tokens, CONTEXT_TOKENS)
        return Prompt(request, tokens)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Delta | Finished, None]:
        sampling = prompt.request.sampling
        said = words(prompt.request.messages[-1].text.rsplit("\n", 1)[-1])
        stop = StopFinder(sampling.stop)
        finished = False
        generated = pending = 0
        began = time.monotonic()
        try:
            for position, word in enumerate(said[: sampling.max_tokens]):
                # By the clock: the lateness of one sleep must not add to the next.
                due = began + self._first_token_seconds + position * self._token_seconds
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.steps += 1
                generated += 1
                pending += 1
                if text := stop.feed(word):
                    yield Delta(text, pending)
                    pending = 0
                if stop.found:
                    break
            if text := stop.flush():
                yield Delta(text, pending)
            cut = generated == sampling.max_tokens < len(said) and not stop.found
            reason = FinishReason.LENGTH if cut else FinishReason.STOP
            finished = True
            yield Finished(reason, Usage(prompt.tokens, generated))
        finally:
            self.cancelled += not finished

    async def count_tokens(self, texts: Sequence[str]) -> TokenCounts:
        return TokenCounts(tuple(len(words(text)) for text in texts), estimated=False)

    async def failure(self) -> None:
        await asyncio.Event().wait()
