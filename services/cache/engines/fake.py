"""A store in this process's memory: for one process and for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from ..keys import Slot

_MAX_PENDING_ANNOUNCEMENTS = 1024


class FakeStore(AbstractAsyncContextManager["FakeStore"]):
    """Keeps what it is given until its time to live is over. Caches that share one are peers."""

    def __init__(self) -> None:
        self._entries: dict[Slot, tuple[bytes, float]] = {}
        self._leases: dict[Slot, tuple[bytes, float]] = {}
        self._subscribers: set[asyncio.Queue[bytes]] = set()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entries.clear()
        self._leases.clear()

    async def get(self, slot: Slot) -> bytes | None:
        return _alive(self._entries, slot)

    async def put(self, slot: Slot, lease_id: bytes, entry: bytes, *, ttl_ms: int, announcement: bytes) -> bool:
        if _alive(self._leases, slot) != lease_id:
            return False
        self._entries[slot] = (entry, time.monotonic() + ttl_ms / 1000)
        del self._leases[slot]
        await self.announce(announcement)
        return True

    async def remove(self, slot: Slot) -> None:
        self._entries.pop(slot, None)

    async def remove_collection(self, tenant_hash: str, collection_hash: str) -> None:
        for slot in tuple(self._entries):
            if (slot.tenant_hash, slot.collection_hash) == (tenant_hash, collection_hash):
                del self._entries[slot]

    async def acquire(self, slot: Slot, lease_id: bytes, *, lease_ms: int) -> bool:
        if _alive(self._leases, slot) is not None:
            return False
        self._leases[slot] = (lease_id, time.monotonic() + lease_ms / 1000)
        return True

    async def release(self, slot: Slot, lease_id: bytes, *, announcement: bytes) -> None:
        if _alive(self._leases, slot) == lease_id:
            del self._leases[slot]
            await self.announce(announcement)

    async def announce(self, announcement: bytes) -> None:
        for queue in self._subscribers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(announcement)

    async def announcements(self) -> AsyncGenerator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue(_MAX_PENDING_ANNOUNCEMENTS)
        self._subscribers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._subscribers.discard(queue)


def _alive(table: dict[Slot, tuple[bytes, float]], slot: Slot) -> bytes | None:
    value, expires_at = table.get(slot, (None, 0.0))
    if value is not None and time.monotonic() >= expires_at:
        del table[slot]
        return None
    return value
