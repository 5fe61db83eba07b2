"""Collections, and the fate of writes: what the gateway passes on to ingestion and to the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.eventlog.catalog import Catalog

from .authentication import Caller
from .documents import Counts, Documents
from .resolver import Resolver
from .values import Coverage, Scope, WriteToken


@dataclass(frozen=True, slots=True)
class WriteQuery:
    """A write whose outcome is asked for."""

    document_id: str
    write_id: bytes
    sent_unix_ms: int


@dataclass(frozen=True, slots=True)
class FoundWrite:
    """What became of a write."""

    landed: bool
    settled: bool
    """It can no longer land."""
    token: WriteToken | None
    """When it landed."""


class CollectionsClient(Protocol):
    """The ingestion API, as far as collections and past writes go. Collections and settings pass through as
    messages."""

    async def find_writes(self, scope: Scope, writes: Sequence[WriteQuery]) -> Sequence[FoundWrite]:
        """One a write, in order."""
        ...

    async def create_collection(self, tenant: str, name: str, settings: object) -> tuple[object, WriteToken]:
        """The collection made."""
        ...

    async def delete_collection(self, scope: Scope) -> WriteToken:
        """Delete it with all its documents."""
        ...


class CollectionDesk:
    """Creates, finds and deletes a tenant's collections."""

    def __init__(self, resolver: Resolver, catalog: Catalog, client: CollectionsClient, documents: Documents) -> None:
        self._resolver = resolver
        self._catalog = catalog
        self._client = client
        self._documents = documents

    async def create(
        self, caller: Caller, name: str, settings: object, after: WriteToken | None
    ) -> tuple[object, WriteToken]:
        """The new collection, known to this gateway when it returns, and a token that includes `after`."""
        await self._resolver.wait_for(after)
        collection, token = await self._client.create_collection(caller.tenant, name, settings)
        await self._resolver.settle(token)
        return collection, token.including(after)

    async def get(self, caller: Caller, name: str, after: WriteToken | None) -> tuple[object, Counts, Coverage]:
        """The collection and how much it holds."""
        collection = await self._resolver.resolve(caller, name, after)
        counts, coverage = await self._documents.count(collection)
        return self._catalog.by_id(collection.scope.collection_id), counts, coverage

    async def list(self, caller: Caller, after: WriteToken | None) -> Sequence[object]:
        """All of the tenant's, by name."""
        await self._resolver.wait_for(after)
        return self._catalog.list(caller.tenant)

    async def delete(self, caller: Caller, name: str, after: WriteToken | None) -> WriteToken:
        """Delete it; this gateway knows so when it returns. The token includes `after`."""
        collection = await self._resolver.resolve(caller, name, after)
        token = await self._client.delete_collection(collection.scope)
        await self._resolver.settle(token)
        return token.including(after)

    async def find_writes(
        self, caller: Caller, name: str, writes: Sequence[WriteQuery], after: WriteToken | None
    ) -> Sequence[FoundWrite]:
        """One a write, in order."""
        collection = await self._resolver.resolve(caller, name, after)
        return await self._client.find_writes(collection.scope, writes)
