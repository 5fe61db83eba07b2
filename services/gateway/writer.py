"""Putting and deleting documents: what the gateway itself checks before it forwards a write."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from serving.errors import HeadwaterError, InvalidArgument, ResourceExhausted
from serving.limits import MAX_DOCUMENT_BYTES, MAX_DOCUMENT_ID_BYTES

from .authentication import Caller
from .errors import AlreadyExists
from .forwarding import Acknowledged, Forwarder, IngestionClient, Outcome, Refused, Write
from .resolver import Resolver
from .settings import GatewaySettings
from .values import Collection, WriteToken

WRITE_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Put:
    """One message of a stream of documents. Only the first names the collection; it may bring no document."""

    collection: str = ""
    after: WriteToken | None = None
    document_id: str | None = None
    """None without a document."""
    body_bytes: int = 0
    document: object | None = None
    write_id: bytes = b""
    sent_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream is open; the gateway's clock, in milliseconds since the epoch."""

    now_unix_ms: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """One document to delete."""

    document_id: str
    write_id: bytes = b""


class Writer:
    """Checks writes and forwards them."""

    def __init__(
        self,
        resolver: Resolver,
        client: IngestionClient,
        settings: GatewaySettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._client = client
        self._settings = settings
        self._clock = clock

    async def put(self, caller: Caller, puts: AsyncIterator[Put]) -> AsyncGenerator[Opened | Outcome, None]:
        """`Opened`, then one outcome a document. Raises what is wrong with the stream as a whole.

        `Opened` comes once the first message was found good: clients wait for it before they send documents, so that an
        absent collection or a wrong token leaves no document of unknown outcome behind.
        """
        first = await anext(puts, None)
        if first is None:
            return
        collection = await self._resolver.resolve(caller, first.collection, first.after)
        yield Opened(self._now())
        forwarder = self._forwarder(collection)
        told = first.after
        async with aclosing(forwarder.forward(self._checked(first, puts))) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, Acknowledged):
                    # Each token includes those before it: the newest is all that a client needs to keep.
                    told = outcome.token.including(told)
                    yield Acknowledged(outcome.write, told)
                else:
                    yield outcome

    async def delete(
        self,
        caller: Caller,
        collection_name: str,
        deletions: Sequence[Deletion],
        *,
        sent_unix_ms: int,
        after: WriteToken | None,
    ) -> tuple[list[Outcome], WriteToken | None]:
        """One outcome a deletion, and a token of all that were acknowledged, `after` included."""
        collection = await self._resolver.resolve(caller, collection_name, after)
        now = self._now()

        async def writes() -> AsyncGenerator[Write | Refused, None]:
            check = _StreamCheck(len(deletions))
            for one in deletions:
                write = Write(one.write_id or _new_write_id(), one.document_id, sent_unix_ms or now)
                yield check.checked(write, None)

        async with aclosing(self._forwarder(collection).forward(writes())) as outcomes:
            found = [outcome async for outcome in outcomes]
        told = after
        for outcome in found:
            if isinstance(outcome, Acknowledged):
                told = outcome.token.including(told)
        return found, told

    def _forwarder(self, collection: Collection) -> Forwarder:
        return Forwarder(self._client, collection.scope, self._resolver.known_offset, self._settings)

    async def _checked(self, first: Put, rest: AsyncIterator[Put]) -> AsyncGenerator[Write | Refused, None]:
        check = _StreamCheck(self._settings.max_documents_per_stream)
        put: Put | None = first
        while put is not None:
            if put.document_id is not None:
                write = Write(
                    put.write_id or _new_write_id(),
                    put.document_id,
                    put.sent_unix_ms or self._now(),
                    put.body_bytes,
                    put.document,
                )
                yield check.checked(write, put.body_bytes)
            put = await anext(rest, None)
            if put is not None and put.collection not in ("", first.collection):
                raise InvalidArgument(
                    "a stream is for one collection: open another stream for another", field="collection"
                )

    def _now(self) -> int:
        return int(self._clock() * 1000)


class _StreamCheck:
    """What a write must be so that it can be forwarded and told about; the rest is for ingestion to say."""

    def __init__(self, max_documents: int) -> None:
        self._max_documents = max_documents
        self._document_ids: set[str] = set()
        self._write_ids: set[bytes] = set()

    def checked(self, write: Write, body_bytes: int | None) -> Write | Refused:
        """The write, or its refusal. `body_bytes` is None for a deletion."""
        if len(self._document_ids) >= self._max_documents:
            return Refused(write, self._full())
        error = self._error(write, body_bytes)
        self._document_ids.add(write.document_id)
        self._write_ids.add(write.write_id)
        return Refused(write, error) if error else write

    def _full(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"a stream takes {self._max_documents} documents; open another for the rest",
            reason="STREAM_FULL",
            retry_after_ms=1,
        )

    def _error(self, write: Write, body_bytes: int | None) -> HeadwaterError | None:
        if message := _wrong_id(write.document_id):
            return InvalidArgument(message, field="document.id", reason="DOCUMENT_ID_INVALID")
        if len(write.write_id) != WRITE_ID_BYTES:
            return InvalidArgument(
                f"a write id has {WRITE_ID_BYTES} bytes; this one has {len(write.write_id)}", field="write_id"
            )
        if write.document_id in self._document_ids:
            return AlreadyExists(
                "this document id came before in this stream, and which would win is not said: send each id once",
                reason="DUPLICATE_ID",
                field="document.id",
            )
        if write.write_id in self._write_ids:
            return AlreadyExists(
                "this write id came before in this stream: make one a write",
                reason="DUPLICATE_WRITE_ID",
                field="write_id",
            )
        if body_bytes is not None and not 1 <= body_bytes <= MAX_DOCUMENT_BYTES:
            return InvalidArgument(
                f"a document's body has 1 to {MAX_DOCUMENT_BYTES} bytes; this one has {body_bytes}",
                field="document.body",
                reason="DOCUMENT_EMPTY" if body_bytes == 0 else "DOCUMENT_TOO_LARGE",
            )
        return None


def _wrong_id(document_id: str) -> str:
    size = len(document_id.encode())
    if not 1 <= size <= MAX_DOCUMENT_ID_BYTES:
        return f"a document id has 1 to {MAX_DOCUMENT_ID_BYTES} bytes of UTF-8; this one has {size}"
    if any(ord(character) < 32 or ord(character) == 127 for character in document_id):
        return "a document id has no control characters"
    return ""


def _new_write_id() -> bytes:
    return secrets.token_bytes(WRITE_ID_BYTES)
