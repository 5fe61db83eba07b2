"""OpenVINO GenAI's continuous batching: many requests in one model, in a process beside the server.

Tokens become text here; `openvino_worker` knows tokens only.
"""

import asyncio
import itertools
import json
import os
import queue
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import openvino
import openvino_genai

from serving import frames, telemetry
from serving.errors import FailedPrecondition, HeadwaterError, InvalidArgument, ResourceExhausted, Unavailable
from serving.models import resolve_model

from ..gguf_files import inspect, rewrite_once
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
from ..settings import OpenVinoSettings
from ..text import StopFinder
from . import openvino_worker
from .openvino_worker import Cancel, Load, Outcome, Progress, Start

_log = telemetry.get_logger(__name__)
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_END_SECONDS = 5.0


@dataclass(slots=True)
class _Generation:
    """A request in the worker. The reader's thread writes it, the event loop reads `events`."""

    request_id: int
    prompt_tokens: int
    stop: StopFinder
    events: asyncio.Queue[Delta | Finished | HeadwaterError] = field(default_factory=asyncio.Queue)
    tokens: list[int] = field(default_factory=list)
    window: int = 0
    """Where the tokens begin that are decoded with the new ones: the text of a token may depend on the one before."""
    decoded: int = 0
    """Tokens whose text has been taken."""
    counted: int = 0
    """Tokens that a delta has counted."""
    ended: bool = False


class OpenVinoGenerator:
    """Entered, it has loaded its model."""

    model: Model

    def __init__(self, settings: OpenVinoSettings, name: str, style: PromptStyle, max_running_requests: int) -> None:
        self._settings = settings
        self._name = name
        self._style = style
        self._max_running_requests = max_running_requests
        self._generations: dict[int, _Generation] = {}
        self._request_ids = itertools.count(1)
        self._commands: queue.SimpleQueue[Start | Cancel | None] = queue.SimpleQueue()
        self._closing = False
        self.cancelled = 0
        """Generations that the worker freed before their end."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[None] = self._loop.create_future()
        await asyncio.to_thread(self._load)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._commands.put(None)
        await asyncio.to_thread(self._end)
        self._failure.cancel()

    async def prompt(self, request: Request) -> Prompt:
        require_messages(request)
        encoded = await asyncio.to_thread(self._encode, request)
        require_window(request, len(encoded), self.model.context_tokens)
        return Prompt(request, len(encoded), encoded)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Delta | Finished, None]:
        if self._failure.done():
            raise _stopped()
        assert isinstance(prompt.encoded, tuple)
        sampling = prompt.request.sampling
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        generation = _Generation(next(self._request_ids), prompt.tokens, StopFinder(sampling.stop))
        self._generations[generation.request_id] = generation
        self._commands.put(
            Start(
                generation.request_id,
                prompt.encoded,
                sampling.max_tokens,
                sampling.temperature,
                sampling.top_p,
                seed,
            )
        )
        try:
            while True:
                event = await generation.events.get()
                if isinstance(event, HeadwaterError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            del self._generations[generation.request_id]
            if not generation.ended:
                self._commands.put(Cancel(generation.request_id))

    async def count_tokens(self, texts: Sequence[str]) -> TokenCounts:
        return TokenCounts(await asyncio.to_thread(self._count, texts), estimated=False)

    async def failure(self) -> None:
        await asyncio.shield(self._failure)

    def _load(self) -> None:
        settings = self._settings
        source = resolve_model(settings.model)
        path, context_tokens = _prepared(source, settings.models_folder)
        context_tokens = min(context_tokens, settings.context_tokens, settings.cache_tokens)
        with _writable(path) as opened:
            precision = self._open(opened)
        self.model = Model(
            name=self._name or (source.stem if source.is_file() else source.name),
            engine="openvino",
            context_tokens=context_tokens,
            capacity_tokens=settings.cache_tokens,
            prompt_style=self._style,
        )
        self._reader = threading.Thread(target=self._receive, name="openvino-reader", daemon=True)
        self._reader.start()
        self._writer = threading.Thread(target=self._send, name="openvino-writer", daemon=True)
        self._writer.start()
        _log.info("model loaded", model=self.model.name, precision=precision, cache_tokens=settings.cache_tokens)

    def _open(self, path: Path) -> str:
        """Load the tokenizer here and the model in its process; the precision that it runs in."""
        settings = self._settings
        self._tokenizer = openvino_genai.Tokenizer(str(path))
        self._special = _special_tokens(self._tokenizer)
        # By one thread alone: the first two to read a tensor at once lock each other out for ever, with Python's global
        # lock in hand (OpenVINO 2026.4 initialises its view of numpy then, behind a guard of C++).
        _ = self._tokenizer.encode("first").input_ids.data
        load = Load(
            model=str(path),
            precision=_precision(settings.precision),
            cache_tokens=settings.cache_tokens,
            prefill_tokens=settings.prefill_tokens,
            prefix_cache=settings.prefix_cache,
            max_running_requests=self._max_running_requests,
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", openvino_worker.__name__, json.dumps(asdict(load))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self._read() is None:
            self._close()
            raise FailedPrecondition(
                f"model {settings.model!r} could not be loaded; the lines above say why", reason="MODEL_UNUSABLE"
            )
        return load.precision

    def _end(self) -> None:
        self._writer.join(_END_SECONDS)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join(_END_SECONDS)
        self._close()

    def _close(self) -> None:
        """Close the pipes of a process that has ended, or ends when they are closed."""
        with suppress(BrokenPipeError), self._process:
            pass

    def _read(self) -> tuple[frames.Header, bytes] | None:
        assert self._process.stdout is not None
        return frames.read(self._process.stdout)

    def _send(self) -> None:
        """The writer's thread: a full pipe blocks it and not the event loop."""
        assert self._process.stdin is not None
        try:
            while (command := self._commands.get()) is not None:
                self._process.stdin.write(openvino_worker.encode_command(command))
                self._process.stdin.flush()
            self._process.stdin.close()
        except OSError:
            return  # the worker is gone; the reader tells

    def _receive(self) -> None:
        """The reader's thread: one hand-over to the event loop a step."""
        while (frame := self._read()) is not None:
            events = self._events(openvino_worker.decode_step(frame[0]))
            if events:
                self._loop.call_soon_threadsafe(_deliver, events)
        self._loop.call_soon_threadsafe(self._worker_ended)

    def _worker_ended(self) -> None:
        if not self._closing:
            _log.error("the model's process ended by itself", exit_code=self._process.poll())
            self._failure.set_exception(_stopped())
        for generation in self._generations.values():
            generation.ended = True
            generation.events.put_nowait(_stopped())

    def _events(self, step: list[Progress]) -> list[tuple[_Generation, Delta | Finished | HeadwaterError]]:
        """What a step means to those who wait. All texts are decoded in one call, which costs as much as one text."""
        self.cancelled += sum(progress.outcome is Outcome.CANCELLED for progress in step)
        going = [
            (generation, progress)
            for progress in step
            if (generation := self._generations.get(progress.request_id)) and not generation.ended
        ]
        rows: list[list[int]] = []
        for generation, progress in going:
            generation.tokens.extend(progress.tokens)
            rows.append(generation.tokens[generation.window : generation.decoded])
            rows.append(generation.tokens[generation.window :])
        texts = self._tokenizer.decode(rows) if rows else []
        events: list[tuple[_Generation, Delta | Finished | HeadwaterError]] = []
        for (generation, progress), before, after in zip(going, texts[::2], texts[1::2], strict=True):
            events.extend((generation, event) for event in self._advance(generation, progress.outcome, before, after))
        return events

    def _advance(
        self, generation: _Generation, outcome: Outcome, before: str, after: str
    ) -> list[Delta | Finished | HeadwaterError]:
        running = outcome is Outcome.RUNNING
        text = ""
        # Bytes that are no whole character yet are left out by some tokenizers, and replaced by others.
        if len(after) > len(before) and not (running and after.endswith(_INCOMPLETE)):
            text = generation.stop.feed(after[len(before) :])
            generation.window, generation.decoded = generation.decoded, len(generation.tokens)
        match outcome:
            case Outcome.NO_MEMORY:
                failure: HeadwaterError | None = ResourceExhausted(
                    "the model's cache is too small for this request beside the others; come back later",
                    reason="CACHE_FULL",
                    retry_after_ms=1000,
                )
            case Outcome.REFUSED:
                failure = InvalidArgument("the model refuses this prompt or sampling", field="messages")
            case _:
                failure = None
        if failure is not None:
            generation.ended = True
            return [failure]
        if not running and not generation.stop.found:
            text += generation.stop.flush()
        events: list[Delta | Finished | HeadwaterError] = []
        if text:
            events.append(Delta(text, len(generation.tokens) - generation.counted))
            generation.counted = len(generation.tokens)
        if generation.stop.found or not running:
            length = outcome is Outcome.LENGTH and not generation.stop.found
            reason = FinishReason.LENGTH if length else FinishReason.STOP
            events.append(Finished(reason, Usage(generation.prompt_tokens, len(generation.tokens))))
            generation.ended = True
            if running:
                self._commands.put(Cancel(generation.request_id))
        return events

    def _encode(self, request: Request) -> tuple[int, ...]:
        history = [{"role": str(turn.role), "content": self._plain(turn.text)} for turn in request.messages]
        try:
            text = self._tokenizer.apply_chat_template(history, add_generation_prompt=True)
        except RuntimeError as error:
            raise InvalidArgument(
                "the model's chat template does not take these roles in this order", field="messages"
            ) from error
        # The template writes the special tokens itself.
        encoded = self._tokenizer.encode(text, add_special_tokens=False).input_ids
        return tuple(encoded.data[0].tolist())

    def _plain(self, text: str) -> str:
        """The text with a space put into what would be read as a special token: no document can end its turn."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def _count(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(
            self._tokenizer.encode(self._plain(text), add_special_tokens=False).input_ids.shape[1] if text else 0
            for text in texts
        )


def _stopped() -> Unavailable:
    return Unavailable("the model's process has ended; try another replica", reason="ENGINE_STOPPED")


def _deliver(events: list[tuple[_Generation, Delta | Finished | HeadwaterError]]) -> None:
    for generation, event in events:
        generation.events.put_nowait(event)


def _prepared(source: Path, models_folder: Path) -> tuple[Path, int]:
    """The model that is loaded for a source, and its window in tokens."""
    if source.is_dir():
        config = source / "config.json"
        if not (source / "openvino_model.xml").is_file() or not config.is_file():
            raise FailedPrecondition(
                f"{source.name} holds no openvino_model.xml with a config.json; name a GGUF file or an OpenVINO model",
                reason="MODEL_UNUSABLE",
            )
        return source, int(json.loads(config.read_text())["max_position_embeddings"])
    facts = inspect(source)
    if facts.loads_exactly:
        return source, facts.context_tokens
    return rewrite_once(source, models_folder, _progress_log(source.name)), facts.context_tokens


@contextmanager
def _writable(path: Path) -> Iterator[Path]:
    """The model, or for as long as it is loaded a copy: OpenVINO opens a GGUF file for writing, though it only reads,
    and in a container nobody may write there."""
    if path.is_dir() or os.access(path, os.W_OK):
        yield path
        return
    with TemporaryDirectory(prefix="headwater-model-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        yield copy


def _progress_log(name: str) -> Callable[[float], None]:
    """Logs each quarter."""
    quarters = 0

    def log(share: float) -> None:
        nonlocal quarters
        if int(share * 4) > quarters:
            quarters = int(share * 4)
            _log.info("preparing model", model=name, percent=quarters * 25)

    return log


def _precision(setting: str) -> str:
    if setting != "auto":
        return setting
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def _special_tokens(tokenizer: openvino_genai.Tokenizer) -> re.Pattern[str]:
    """Matches the texts that the tokenizer reads as control tokens."""
    every = [[token] for token in range(len(tokenizer.get_vocab()))]
    shown = tokenizer.decode(every, skip_special_tokens=True)
    written = tokenizer.decode(every, skip_special_tokens=False)
    special = [text for text, visible in zip(written, shown, strict=True) if text and not visible]
    return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
