"""The collections, held in memory and kept current from `headwater.collections`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from headwater.common.v1.common_pb2 import Collection
from headwater.log.v1.log_pb2 import CollectionRecord

from serving.errors import DeadlineExceeded, HeadwaterError

from . import Reader, Record, Topic

_STREAM = (Topic.COLLECTIONS, 0)


class Catalog:
    """Which collections there are, as far as they are applied. Entering reads all that is committed by then.

    Used as `async with Catalog(log) as catalog`; raises LogUnavailable and LogReplaced on entering.
    """

    task: asyncio.Task[None]
    """Follows the log; ends only with an error (LogReplaced), for `serve(watch=)`."""

    def __init__(self, log: Reader) -> None:
        self.applied = 0
        """First offset of `headwater.collections` not yet applied."""
        self._log = log
        self._live: dict[str, Collection] = {}
        self._ids: dict[tuple[str, str], str] = {}
        self._retired: set[str] = set()
        self._advanced = asyncio.Event()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Catalog:
        current = False
        while not current:
            batch = await self._log.read(*_STREAM, self.applied)
            self._apply(batch.records, batch.next_offset)
            current = batch.next_offset >= batch.end_offset
        self.task = asyncio.create_task(self._follow(), name="catalog")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError, HeadwaterError):
            await self.task

    def by_name(self, tenant: str, name: str) -> Collection | None:
        """The live collection of that name."""
        collection_id = self._ids.get((tenant, name))
        return None if collection_id is None else self._live[collection_id]

    def by_id(self, collection_id: str) -> Collection | None:
        """The collection, if it is live."""
        return self._live.get(collection_id)

    def is_retired(self, collection_id: str) -> bool:
        """Whether the collection was there and was deleted; of one never heard of: False."""
        return collection_id in self._retired

    def list(self, tenant: str) -> list[Collection]:
        """The tenant's live collections by name."""
        return [self._live[found] for (owner, _), found in sorted(self._ids.items()) if owner == tenant]

    def retired(self) -> frozenset[str]:
        """Ids of all collections that were deleted."""
        return frozenset(self._retired)

    async def wait_for(self, offset: int, timeout_seconds: float) -> None:
        """Return once the collections record at that offset is applied. Raises DeadlineExceeded, LogReplaced."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.applied <= offset:
                    await self._next(self._advanced)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the collections are known up to offset {self.applied}, and the write token asks for {offset}"
            ) from error

    async def changed(self) -> None:
        """Return when a collection is next created, changed or deleted. Raises LogReplaced."""
        await self._next(self._changed)

    async def _next(self, event: asyncio.Event) -> None:
        if not self.task.done():
            await event.wait()
        if self.task.done():
            await self.task

    async def _follow(self) -> None:
        try:
            async for batch in self._log.follow({_STREAM: self.applied}):
                self._apply(batch.records, batch.next_offset)
        finally:
            self._wake(changed=True)

    def _apply(self, records: Iterable[Record], next_offset: int) -> None:
        changed = False
        for record in records:
            if record.value is not None:
                self._apply_one(CollectionRecord.FromString(record.value))
                changed = True
        if next_offset > self.applied:
            self.applied = next_offset
            self._wake(changed=changed)

    def _apply_one(self, record: CollectionRecord) -> None:
        collection = record.collection
        if record.retired:
            self._retired.add(collection.collection_id)
            former = self._live.pop(collection.collection_id, None)
            if former is not None and self._ids.get((former.tenant, former.name)) == former.collection_id:
                del self._ids[former.tenant, former.name]
        elif collection.collection_id not in self._retired:
            self._live[collection.collection_id] = collection
            self._ids[collection.tenant, collection.name] = collection.collection_id

    def _wake(self, *, changed: bool) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()
        if changed:
            self._changed.set()
            self._changed = asyncio.Event()
