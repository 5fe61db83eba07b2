"""Creating and deleting collections, by compare-and-set on the log: fence, read to the end, check, append."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from serving import deadlines
from serving.errors import ErrorCode, FailedPrecondition, HeadwaterError, InvalidArgument, NotFound, Unavailable
from serving.eventlog import EventLog, Fenced, LogMissing, LogReplaced, Topic
from serving.eventlog.catalog import Catalog

from . import records
from .documents import CollectionSpec
from .intake import now_ms
from .validation import check_collection_name

DEFAULT_CHUNK_TOKENS: Final = 254
DEFAULT_SPREAD: Final = 4
MIN_CHUNK_TOKENS: Final = 16
_SPECIAL_TOKENS: Final = 2
_ATTEMPTS: Final = 10
_CATCH_UP_SECONDS: Final = 10.0
_MAX_PAUSE_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Model:
    """The embedding model that is served."""

    fingerprint: str
    max_tokens: int
    """Its window, special tokens included."""


class Models(Protocol):
    """Who knows the model."""

    async def model(self) -> Model:
        """The model that is served. Raises HeadwaterError."""
        ...


@dataclass(frozen=True, slots=True)
class Wishes:
    """A collection's settings as they were asked for; 0 and "" take the defaults."""

    embedding_fingerprint: str
    max_chunk_tokens: int
    chunk_overlap_tokens: int
    spread: int


class Registry:
    """The collections, for the one that changes them."""

    def __init__(self, log: EventLog, catalog: Catalog, models: Models) -> None:
        self._log = log
        self._catalog = catalog
        self._models = models
        self._turn = asyncio.Lock()

    async def create(self, tenant: str, name: str, wishes: Wishes) -> tuple[CollectionSpec, int]:
        """The new collection and its offset. Raises InvalidArgument, FailedPrecondition, and ALREADY_EXISTS."""
        if not tenant:
            raise InvalidArgument("the tenant is missing", field="tenant")
        check_collection_name(name)
        collection = self._settle(tenant, name, wishes, await self._models.model())

        def record() -> bytes | None:
            if self._catalog.by_id(collection.collection_id) is not None:
                return None
            if self._catalog.by_name(tenant, name) is not None:
                raise HeadwaterError(
                    f"there is a collection {name!r} already",
                    code=ErrorCode.ALREADY_EXISTS,
                    reason="COLLECTION_EXISTS",
                    field="name",
                )
            return records.encode_collection(collection, retired=False)

        return collection, await self._set(collection.collection_id, record)

    async def delete(self, tenant: str, collection_id: str) -> int:
        """The deletion's offset. Raises NotFound."""
        if not tenant or not collection_id:
            raise InvalidArgument("the scope must name a tenant and a collection", field="scope")
        attempted = False

        def record() -> bytes | None:
            nonlocal attempted
            if attempted and self._catalog.is_retired(collection_id):
                return None
            message = self._catalog.by_id(collection_id)
            if message is None or message.tenant != tenant:
                raise NotFound(
                    "there is no such collection", reason="COLLECTION_NOT_FOUND", field="scope.collection_id"
                )
            attempted = True
            return records.encode_collection(records.collection_of(message), retired=True)

        return await self._set(collection_id, record)

    async def _set(self, collection_id: str, record: Callable[[], bytes | None]) -> int:
        """Append what `record` says, decided on all that was appended before. None: an earlier attempt did land."""
        async with self._turn:
            for _ in range(_ATTEMPTS):
                try:
                    return await self._attempt(collection_id, record)
                except Fenced:
                    # somebody else is at it: let them finish
                    await asyncio.sleep(random.uniform(0, deadlines.budget(_MAX_PAUSE_SECONDS)))
        raise Unavailable("the collections are being changed by others; try again", retry_after_ms=1_000)

    async def _attempt(self, collection_id: str, record: Callable[[], bytes | None]) -> int:
        owned = await self._log.take(Topic.COLLECTIONS, 0)
        try:
            last_offset = 0 if owned.last is None else owned.last.offset
            if owned.last is not None:
                await self._catalog.wait_for(last_offset, deadlines.budget(_CATCH_UP_SECONDS))
            value = record()
            if value is None:
                return last_offset
            try:
                return (await owned.append([(collection_id.encode(), value)]))[0]
            except (Fenced, LogMissing, LogReplaced):
                raise
            except HeadwaterError as error:
                # it may have landed: the next attempt fences this one and then sees
                raise Fenced(error.message) from error
        finally:
            await owned.close()

    def _settle(self, tenant: str, name: str, wishes: Wishes, model: Model) -> CollectionSpec:
        if wishes.embedding_fingerprint not in ("", model.fingerprint):
            raise FailedPrecondition(
                "the embedding service serves another model than the one asked for",
                reason="EMBEDDING_MODEL_MISMATCH",
                field="settings.embedding_fingerprint",
            )
        max_tokens = model.max_tokens - _SPECIAL_TOKENS
        chunk_tokens = wishes.max_chunk_tokens or min(DEFAULT_CHUNK_TOKENS, max_tokens)
        if not MIN_CHUNK_TOKENS <= chunk_tokens <= max_tokens:
            raise InvalidArgument(
                f"max_chunk_tokens must be {MIN_CHUNK_TOKENS} to {max_tokens}, the model's window",
                field="settings.max_chunk_tokens",
            )
        if wishes.chunk_overlap_tokens > chunk_tokens // 2:
            raise InvalidArgument(
                f"chunk_overlap_tokens may be half of max_chunk_tokens, {chunk_tokens // 2}",
                field="settings.chunk_overlap_tokens",
            )
        if wishes.spread > self._log.partitions:
            raise InvalidArgument(
                f"spread may be the log's number of partitions, {self._log.partitions}", field="settings.spread"
            )
        return CollectionSpec(
            collection_id=uuid.uuid4().hex,
            tenant=tenant,
            name=name,
            generation=1,
            created_ms=now_ms(),
            spread=wishes.spread or min(DEFAULT_SPREAD, self._log.partitions),
            max_chunk_tokens=chunk_tokens,
            chunk_overlap_tokens=wishes.chunk_overlap_tokens,
            embedding_fingerprint=model.fingerprint,
        )
