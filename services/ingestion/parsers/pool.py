"""A few parser processes, reused for many documents and replaced when one dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services.ingestion.errors import DocumentRejected
from serving import frames
from serving.telemetry import get_logger

_ATTEMPTS: Final = 2
_CLOSE_SECONDS: Final = 2.0
_START_SECONDS: Final = 60.0
_RESTART_SECONDS: Final = 1.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of a parsed document."""

    text: str
    start: int
    end: int
    headings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed and split document."""

    title: str
    characters: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """What one document may use."""

    memory_bytes: int
    cpu_seconds: int
    wall_seconds: float


class ParserPool:
    """Parses documents, as many at once as it has processes."""

    def __init__(self, processes: int, limits: ParserLimits, tokenizer_file: Path | None) -> None:
        self._limits = limits
        self._command = [
            *(sys.executable, "-m", "services.ingestion.parsers"),
            *("--memory-bytes", str(limits.memory_bytes), "--cpu-seconds", str(limits.cpu_seconds)),
            *(() if tokenizer_file is None else ("--tokenizer", str(tokenizer_file))),
        ]
        self._slots: asyncio.LifoQueue[asyncio.subprocess.Process | None] = asyncio.LifoQueue()
        self._processes: set[asyncio.subprocess.Process] = set()
        for _ in range(processes):
            self._slots.put_nowait(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in list(self._processes):
            await self._end(process)

    async def parse(self, content_type: str, body: bytes, *, max_tokens: int, overlap_tokens: int) -> Parsed:
        """Text and chunks of a document. Raises DocumentRejected.

        A process that dies is not proof against the document: anything may have killed it, or time may have stood
        still. One that used up its processor time is, and so is a second death.
        """
        header = {"content_type": content_type, "max_tokens": max_tokens, "overlap_tokens": overlap_tokens}
        frame = frames.encode(header, body)
        for _ in range(_ATTEMPTS):
            answer = await self._ask(frame)
            if isinstance(answer, tuple):
                return _parsed(*answer)
            if answer == -signal.SIGXCPU:
                break
        raise DocumentRejected(
            "PARSER_KILLED",
            f"parsing the document broke a limit ({self._limits.cpu_seconds} s of processor time,"
            f" {self._limits.memory_bytes >> 20} MiB of memory) or crashed the parser",
        )

    async def _ask(self, frame: bytes) -> tuple[frames.Header, bytes] | int:
        """An answer, or the exit status of a process that gave none."""
        process = await self._slots.get()
        try:
            if process is not None and (process.stdin is None or process.stdin.is_closing()):
                # It died since its last answer, which is not this document's fault.
                dead, process = process, None
                await self._end(dead, kill=True)
            if process is None:
                process = await self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                async with asyncio.timeout(self._limits.wall_seconds):
                    process.stdin.write(frame)
                    await process.stdin.drain()
                    return await frames.receive(process.stdout)
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                dead, process = process, None
                return await self._end(dead, kill=True)
            except BaseException:
                # cancelled midway: what it says next is the answer to nobody's question
                dead, process = process, None
                await asyncio.shield(self._end(dead, kill=True))
                raise
        finally:
            self._slots.put_nowait(process)

    async def _start(self) -> asyncio.subprocess.Process:
        """A process that is ready. That none can be started is not the document's fault: it is tried again."""
        while True:
            try:
                return await self._start_once()
            except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
                _log.error("a parser process could not be started", exc_info=error)
                await asyncio.sleep(_RESTART_SECONDS)

    async def _start_once(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # the tokenizer's threads would each count against the limit on memory
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
        )
        self._processes.add(process)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                await frames.receive(process.stdout)
        except BaseException:
            await asyncio.shield(self._end(process, kill=True))
            raise
        return process

    async def _end(self, process: asyncio.subprocess.Process, *, kill: bool = False) -> int:
        assert process.stdin is not None
        process.stdin.close()
        if kill:
            with suppress(ProcessLookupError):
                process.kill()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._processes.discard(process)
        return process.returncode or 0


def _parsed(header: frames.Header, body: bytes) -> Parsed:
    if "reason" in header:
        raise DocumentRejected(header["reason"], header["message"])
    text = body.decode()
    pieces = tuple(Piece(text[start:end], start, end, tuple(headings)) for start, end, headings in header["chunks"])
    return Parsed(header["title"], len(text), pieces)
