"""Writes on their way to the log: forwarded over one stream, in flight within bounds, each told about exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

from serving.errors import HeadwaterError, Unavailable

from . import metrics
from .settings import GatewaySettings
from .streams import drained
from .values import Scope, WriteToken


@dataclass(frozen=True, slots=True)
class Write:
    """One write. `document` is None for a deletion, else what the client of ingestion sends on."""

    write_id: bytes
    document_id: str
    accepted_unix_ms: int
    size_bytes: int = 0
    document: object | None = None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The log has it."""

    write: Write
    token: WriteToken


@dataclass(frozen=True, slots=True)
class Refused:
    """It did not land."""

    write: Write
    error: HeadwaterError


@dataclass(frozen=True, slots=True)
class Unknown:
    """Whether it landed is not known."""

    write: Write
    error: HeadwaterError


Outcome = Acknowledged | Refused | Unknown


@dataclass(frozen=True, slots=True)
class Reply:
    """What ingestion says of one write: a token, or an error that is a refusal or leaves it unknown."""

    write_id: bytes
    token: WriteToken | None = None
    refused: HeadwaterError | None = None
    unknown: HeadwaterError | None = None


class WriteStream(Protocol):
    """A stream of writes to ingestion."""

    async def send(self, scope: Scope, write: Write, collections_offset: int) -> None:
        """Send one; returns when it is on its way."""
        ...

    async def finish(self) -> None:
        """Say that no more will come."""
        ...

    def replies(self) -> AsyncIterator[Reply]:
        """In any order; ends when the stream does, raises when it broke."""
        ...

    def cancel(self) -> None:
        """Give it up."""
        ...


class IngestionClient(Protocol):
    """The ingestion API, as far as writes go."""

    async def open_writes(self) -> WriteStream:
        """A stream that is connected. Raises Unavailable when ingestion cannot be reached: nothing was sent."""
        ...


class Forwarder:
    """Forwards the writes of one caller's stream.

    When ingestion dies, what was forwarded and not acknowledged is `Unknown`; what comes then goes over a new stream,
    and is `Refused` while there is none.
    """

    def __init__(
        self, client: IngestionClient, scope: Scope, collections_offset: int, settings: GatewaySettings
    ) -> None:
        self._client = client
        self._scope = scope
        self._collections_offset = collections_offset
        self._settings = settings
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue(settings.max_writes_in_flight)
        self._link: _Link | None = None

    async def forward(self, writes: AsyncGenerator[Write | Refused, None]) -> AsyncGenerator[Outcome, None]:
        """One outcome a write, in any order; those that are refused already pass through."""
        try:
            async with aclosing(drained(self._outcomes, self._pump(writes))) as outcomes:
                async for outcome in outcomes:
                    metrics.WRITES.labels(type(outcome).__name__.lower()).inc()
                    yield outcome
        finally:
            if self._link is not None:
                await self._link.close()

    async def _pump(self, writes: AsyncGenerator[Write | Refused, None]) -> None:
        async with aclosing(writes):
            async for write in writes:
                if isinstance(write, Refused):
                    await self._outcomes.put(write)
                else:
                    await self._forward(write)
        if self._link is not None:
            await self._link.finish()

    async def _forward(self, write: Write) -> None:
        while True:
            if self._link is None or self._link.broken:
                try:
                    stream = await self._client.open_writes()
                except HeadwaterError:
                    await self._outcomes.put(Refused(write, _not_forwarded()))
                    return
                self._link = _Link(stream, self._outcomes, self._settings)
            if await self._link.has_room(write.size_bytes):
                await self._link.send(self._scope, write, self._collections_offset)
                return


class _Link:
    """One stream to ingestion and what is in flight on it."""

    def __init__(self, stream: WriteStream, outcomes: asyncio.Queue[Outcome], settings: GatewaySettings) -> None:
        self.broken = False
        self._stream = stream
        self._outcomes = outcomes
        self._settings = settings
        self._pending: dict[bytes, Write] = {}
        self._bytes = 0
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def has_room(self, size_bytes: int) -> bool:
        """Wait until a write of that size may go; False when the stream broke meanwhile."""
        while not self.broken and self._is_full(size_bytes):
            self._changed.clear()
            await self._changed.wait()
        return not self.broken

    async def send(self, scope: Scope, write: Write, collections_offset: int) -> None:
        """Forward one. Should that fail, the reader, which sees it too, tells of it."""
        self._pending[write.write_id] = write
        self._bytes += write.size_bytes
        with suppress(HeadwaterError):
            await self._stream.send(scope, write, collections_offset)

    async def finish(self) -> None:
        """No more will be sent; return when all was told about."""
        with suppress(HeadwaterError):
            await self._stream.finish()
        await self._reader

    async def close(self) -> None:
        """Give up."""
        self._reader.cancel()
        self._stream.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    def _is_full(self, size_bytes: int) -> bool:
        if not self._pending:
            return False
        return (
            len(self._pending) >= self._settings.max_writes_in_flight
            or self._bytes + size_bytes > self._settings.max_write_bytes_in_flight
        )

    async def _read(self) -> None:
        error: HeadwaterError = Unavailable("ingestion ended the stream without an answer")
        try:
            async for reply in self._stream.replies():
                write = self._pending.pop(reply.write_id, None)
                if write is None:
                    continue
                self._bytes -= write.size_bytes
                self._changed.set()
                await self._outcomes.put(_outcome(write, reply))
        except HeadwaterError as caught:
            error = caught
        self.broken = True
        self._changed.set()
        while self._pending:
            _, write = self._pending.popitem()
            await self._outcomes.put(Unknown(write, _lost(error)))


def _outcome(write: Write, reply: Reply) -> Outcome:
    if reply.token is not None:
        return Acknowledged(write, reply.token)
    if reply.refused is not None:
        return Refused(write, reply.refused)
    return Unknown(write, reply.unknown or Unavailable("ingestion did not say what became of it"))


def _not_forwarded() -> Unavailable:
    return Unavailable(
        "the ingestion service cannot be reached; the document was not taken, send it again",
        reason="INGESTION_UNAVAILABLE",
        retry_after_ms=1000,
    )


def _lost(error: HeadwaterError) -> HeadwaterError:
    return HeadwaterError(
        "the connection to the ingestion service was lost before it answered: ask FindWrites in 10 s whether the write "
        "landed, and send it again if it did not",
        code=error.code,
        reason="OUTCOME_UNKNOWN",
    )
