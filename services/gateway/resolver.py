"""From a caller's name of a collection to what it is."""

from __future__ import annotations

from serving import deadlines
from serving.errors import DeadlineExceeded, NotFound
from serving.eventlog.catalog import Catalog
from serving.eventlog.keys import partitions_of
from serving.limits import MAX_COLLECTION_NAME_CHARACTERS, MAX_DEADLINE_SECONDS

from .authentication import Caller
from .settings import GatewaySettings
from .values import Collection, Scope, WriteToken


class Resolver:
    """Looks names up among the caller's tenant's collections."""

    def __init__(self, catalog: Catalog, partitions: int, settings: GatewaySettings) -> None:
        self._catalog = catalog
        self._partitions = partitions
        self._settings = settings

    @property
    def known_offset(self) -> int:
        """How far the collections are known: the last offset that is."""
        return self._catalog.applied - 1

    async def wait_for(self, token: WriteToken | None) -> None:
        """Wait for the collections that the token asks for. Raises DeadlineExceeded."""
        if token is not None and token.collections_offset:
            await self._catalog.wait_for(token.collections_offset, deadlines.budget(MAX_DEADLINE_SECONDS))

    async def resolve(self, caller: Caller, name: str, token: WriteToken | None) -> Collection:
        """The collection of that name, once what the token asks for is known. Raises NotFound, DeadlineExceeded."""
        await self.wait_for(token)
        found = self._catalog.by_name(caller.tenant, name)
        if found is None:
            raise NotFound(
                f"there is no collection {name[:MAX_COLLECTION_NAME_CHARACTERS]!r}; ListCollections names those "
                "there are",
                reason="COLLECTION_NOT_FOUND",
                field="collection",
            )
        return Collection(
            scope=Scope(caller.tenant, found.collection_id, caller.access_groups),
            generation=found.generation,
            fingerprint=found.settings.embedding_fingerprint,
            spread=found.settings.spread,
            partitions=tuple(
                partitions_of(found.collection_id, spread=found.settings.spread, partitions=self._partitions)
            ),
        )

    async def settle(self, token: WriteToken) -> None:
        """Wait a little until this gateway itself knows what was just made or deleted, so that a caller without the
        token, too, finds it here. That it cannot is no failure: the token says what to wait for."""
        try:
            await self._catalog.wait_for(token.collections_offset, self._settings.collection_timeout_ms / 1000)
        except DeadlineExceeded:
            return
