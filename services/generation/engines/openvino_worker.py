"""The process that runs the model: tokens in, tokens out.

It is a process of its own because a step of the pipeline holds Python's global lock: in the server's process each
step, of a second and more for long prompts, would stop its event loop with every deadline, cancellation and health
check. One thread drives the pipeline: add, step, read, cancel; another reads commands.

`python -m services.generation.engines.openvino_worker LOAD`, a `Load` as JSON. It says with an empty frame that the
model is loaded; frames to it are commands, frames from it what a step brought.
"""

import json
import queue
import signal
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, BinaryIO, Final

import numpy as np
import openvino
import openvino_genai

from serving import frames

# The pipeline keeps keys and values in blocks of this many tokens on the CPU.
BLOCK_TOKENS = 32
_PROMPT: Final = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Load:
    """Which model to run, and how."""

    model: str
    precision: str
    cache_tokens: int
    prefill_tokens: int
    prefix_cache: bool
    max_running_requests: int


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a generation."""

    request_id: int
    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a generation and free what it holds; unknown ids have ended already."""

    request_id: int


class Outcome(StrEnum):
    """How a generation stands."""

    RUNNING = "running"
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    NO_MEMORY = "no memory"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step brought one generation."""

    request_id: int
    tokens: tuple[int, ...]
    outcome: Outcome


def encode_command(command: Start | Cancel) -> bytes:
    """A command as a frame."""
    if isinstance(command, Cancel):
        return frames.encode({"cancel": command.request_id}, b"")
    header = asdict(command)
    prompt = np.array(header.pop("prompt"), _PROMPT)
    return frames.encode(header, prompt.tobytes())


def decode_step(header: frames.Header) -> list[Progress]:
    """What a frame from the worker says."""
    return [Progress(request_id, tuple(tokens), Outcome(outcome)) for request_id, tokens, outcome in header["step"]]


def _decode_command(header: frames.Header, body: bytes) -> Start | Cancel:
    if "cancel" in header:
        return Cancel(header["cancel"])
    return Start(**header, prompt=tuple(np.frombuffer(body, _PROMPT).tolist()))


def _encode_step(step: Iterable[Progress]) -> bytes:
    return frames.encode({"step": [(one.request_id, one.tokens, one.outcome) for one in step]}, b"")


def main() -> None:
    # The server decides when to stop; a signal to the whole group must not end answers that it still drains.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers = frames.take_stdout()
    worker = _Worker(answers, Load(**json.loads(sys.argv[1])))
    try:
        worker.run()
    except BrokenPipeError:
        return  # the server is gone


class _Worker:
    """Serves until its standard input ends."""

    def __init__(self, answers: BinaryIO, load: Load) -> None:
        scheduling = openvino_genai.SchedulerConfig()
        scheduling.num_kv_blocks = load.cache_tokens // BLOCK_TOKENS
        scheduling.max_num_batched_tokens = load.prefill_tokens
        scheduling.max_num_seqs = load.max_running_requests
        scheduling.enable_prefix_caching = load.prefix_cache
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            load.model, scheduling, "CPU", {"INFERENCE_PRECISION_HINT": load.precision}
        )
        self._model_config = self._pipeline.get_config()
        self._answers = answers
        self._commands: queue.SimpleQueue[Start | Cancel | None] = queue.SimpleQueue()
        self._handles: dict[int, Any] = {}

    def run(self) -> None:
        self._send(frames.encode({}, b""))
        threading.Thread(target=self._read_commands, name="commands", daemon=True).start()
        while True:
            events: list[Progress] = []
            # Blocks only when there is nothing to work on.
            while not self._commands.empty() or not self._pipeline.has_non_finished_requests():
                command = self._commands.get()
                if command is None:
                    return
                events.extend(self._start(command) if isinstance(command, Start) else self._cancel(command))
                if events and not self._pipeline.has_non_finished_requests():
                    break
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
            events.extend(event for request_id in list(self._handles) if (event := self._read(request_id)) is not None)
            if events:
                self._send(_encode_step(events))

    def _read_commands(self) -> None:
        while (frame := frames.read(sys.stdin.buffer)) is not None:
            self._commands.put(_decode_command(*frame))
        self._commands.put(None)

    def _send(self, frame: bytes) -> None:
        self._answers.write(frame)
        self._answers.flush()

    def _start(self, command: Start) -> list[Progress]:
        config = openvino_genai.GenerationConfig(
            max_new_tokens=command.max_tokens,
            apply_chat_template=False,  # the prompt carries it already
            stop_token_ids=self._model_config.stop_token_ids,
            do_sample=command.temperature > 0,
        )
        if command.temperature > 0:
            config.temperature = command.temperature
            config.top_p = command.top_p
            config.rng_seed = command.seed
        config.set_eos_token_id(self._model_config.eos_token_id)
        tokens = openvino.Tensor(np.array([command.prompt], dtype=np.int64))
        try:
            self._handles[command.request_id] = self._pipeline.add_request(command.request_id, tokens, config)
        except RuntimeError:
            return [Progress(command.request_id, (), Outcome.REFUSED)]
        return []

    def _cancel(self, command: Cancel) -> list[Progress]:
        handle = self._handles.pop(command.request_id, None)
        if handle is None:
            return []
        handle.cancel()
        return [Progress(command.request_id, (), Outcome.CANCELLED)]

    def _read(self, request_id: int) -> Progress | None:
        handle = self._handles[request_id]
        tokens: list[int] = []
        reason = openvino_genai.GenerationFinishReason.NONE
        while handle.can_read():
            for output in handle.read().values():
                tokens.extend(output.generated_ids)
                reason = output.finish_reason
        match handle.get_status():
            case openvino_genai.GenerationStatus.FINISHED:
                length = reason == openvino_genai.GenerationFinishReason.LENGTH
                outcome = Outcome.LENGTH if length else Outcome.STOP
            case openvino_genai.GenerationStatus.IGNORED:
                outcome = Outcome.NO_MEMORY
            case _:
                outcome = Outcome.RUNNING
        if outcome is not Outcome.RUNNING:
            del self._handles[request_id]
        elif not tokens:
            return None
        return Progress(request_id, tuple(tokens), outcome)


if __name__ == "__main__":
    main()
