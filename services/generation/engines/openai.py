"""Any server that speaks OpenAI's chat completions with server-sent events: vLLM, llama.cpp, Ollama, a provider's."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.errors import FailedPrecondition, HeadwaterError, InvalidArgument, ResourceExhausted, Unavailable
from serving.models import resolve_model

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
from ..settings import OpenAiSettings

_ESTIMATED_CHARACTERS_PER_TOKEN = 4
# What chat templates add to a turn, roughly.
_TOKENS_PER_TURN = 4
_DEFAULT_RETRY_AFTER_MS = 1000
_MAX_RETRY_AFTER_MS = 600_000


class _Piece(BaseModel):
    model_config = ConfigDict(extra="ignore")
    content: str | None = None


class _Choice(BaseModel):
    delta: _Piece = _Piece()
    finish_reason: str | None = None


class _CachedTokens(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _CachedTokens | None = None

    def as_usage(self) -> Usage:
        cached = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None
        return Usage(self.prompt_tokens, self.completion_tokens, cached or 0)


class _Chunk(BaseModel):
    """The parts of a `chat.completion.chunk` that are read; servers add their own."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class OpenAiGenerator:
    """Entered, it keeps connections open. Closing a generator hangs up on the server, which stops its work."""

    def __init__(self, settings: OpenAiSettings, name: str, style: PromptStyle) -> None:
        if not settings.model:
            raise FailedPrecondition(
                "the openai engine needs a model's name; set HEADWATER_GENERATION__OPENAI__MODEL",
                reason="MODEL_MISSING",
            )
        self.model = Model(
            name=name or settings.model,
            engine="openai",
            context_tokens=settings.context_tokens,
            capacity_tokens=1 << 40,  # the server keeps its own queue
            prompt_style=style,
        )
        self._settings = settings
        self._tokenizer = _tokenizer(settings.tokenizer)

    async def __aenter__(self) -> Self:
        settings = self._settings
        key = settings.api_key.get_secret_value()
        self._client = httpx.AsyncClient(
            base_url=settings.base_url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.idle_seconds, connect=settings.connect_seconds),
            limits=httpx.Limits(max_connections=None),  # the scheduler bounds them
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def prompt(self, request: Request) -> Prompt:
        require_messages(request)
        counted = await self.count_tokens([turn.text for turn in request.messages])
        tokens = sum(counted.counts) + _TOKENS_PER_TURN * len(request.messages)
        require_window(request, tokens, self.model.context_tokens)
        return Prompt(request, tokens)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Delta | Finished, None]:
        try:
            async with self._client.stream("POST", "/chat/completions", json=self._body(prompt.request)) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(response)
                async with aclosing(self._events(prompt, response)) as events:
                    async for event in events:
                        yield event
        except httpx.TimeoutException as error:
            raise Unavailable("the model server did not answer in time", reason="MODEL_SERVER_SLOW") from error
        except httpx.HTTPError as error:
            raise Unavailable(
                "the model server cannot be reached or broke off; try again", reason="MODEL_SERVER_DOWN"
            ) from error

    async def count_tokens(self, texts: Sequence[str]) -> TokenCounts:
        if self._tokenizer is None:
            counts = tuple(-(-len(text) // _ESTIMATED_CHARACTERS_PER_TOKEN) for text in texts)
            return TokenCounts(counts, estimated=True)
        encoded = await asyncio.to_thread(self._tokenizer.encode_batch, list(texts), add_special_tokens=False)
        return TokenCounts(tuple(len(each.ids) for each in encoded), estimated=False)

    async def failure(self) -> None:
        # A server that is down fails calls, not this process: it may come back.
        await asyncio.Event().wait()

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [{"role": str(turn.role), "content": turn.text} for turn in request.messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        return body

    async def _events(self, prompt: Prompt, response: httpx.Response) -> AsyncGenerator[Delta | Finished, None]:
        """Deltas and the end. A chunk counts as one token until the server's usage says better."""
        reason: FinishReason | None = None
        usage: Usage | None = None
        chunks = 0
        async with aclosing(_chunks(response)) as received:
            async for chunk in received:
                if chunk.error is not None:
                    raise Unavailable("the model server failed while it answered", reason="MODEL_SERVER_FAILED")
                usage = chunk.usage.as_usage() if chunk.usage else usage
                for choice in chunk.choices[:1]:
                    if choice.delta.content:
                        chunks += 1
                        yield Delta(choice.delta.content, 1)
                    if choice.finish_reason is not None:
                        reason = FinishReason.LENGTH if choice.finish_reason == "length" else FinishReason.STOP
        if reason is None:
            raise Unavailable("the model server broke off before the end", reason="MODEL_SERVER_FAILED")
        yield Finished(reason, usage or Usage(prompt.tokens, chunks))


async def _chunks(response: httpx.Response) -> AsyncGenerator[_Chunk, None]:
    """The events of a stream until "[DONE]" or its end."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue  # comments, event names and the blank lines between events
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            yield _Chunk.model_validate_json(data)
        except ValidationError as error:
            raise Unavailable(
                "the model server sent what is no chat completion; check base_url", reason="MODEL_SERVER_FAILED"
            ) from error


def _refusal(response: httpx.Response) -> HeadwaterError:
    """What a status other than 200 means. The server's own words stay out: they may quote the prompt."""
    status = response.status_code
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return ResourceExhausted(
            "the model server is busy; come back later",
            reason="MODEL_SERVER_BUSY",
            retry_after_ms=_retry_after_ms(response.headers.get("Retry-After", "")),
        )
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return FailedPrecondition(
            "the model server refuses the api key; check HEADWATER_GENERATION__OPENAI__API_KEY",
            reason="API_KEY_REFUSED",
        )
    if status == httpx.codes.NOT_FOUND:
        return FailedPrecondition(
            "the model server knows no such model or path; check openai.model and openai.base_url",
            reason="MODEL_MISSING",
        )
    if status < 500:
        return InvalidArgument(f"the model server refuses the request with HTTP {status}", field="messages")
    return Unavailable(f"the model server failed with HTTP {status}; try again", reason="MODEL_SERVER_FAILED")


def _retry_after_ms(header: str) -> int:
    """The header's seconds or date, as milliseconds from now."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return _DEFAULT_RETRY_AFTER_MS
    return min(max(int(seconds * 1000), 1), _MAX_RETRY_AFTER_MS)


def _tokenizer(reference: str) -> Any:
    if not reference:
        return None
    from tokenizers import Tokenizer

    path = resolve_model(reference)
    return Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
