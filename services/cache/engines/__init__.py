"""Where payloads, leases and announcements lie: three Protocols, two engines (redis, fake)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ..errors import StoreUnavailable
from ..keys import Slot
from ..settings import CacheSettings

__all__ = ["Announcements", "Leases", "Payloads", "Store", "StoreUnavailable", "open_store"]


class Payloads(Protocol):
    """Entries as bytes, each with a time to live. Every method raises StoreUnavailable."""

    async def get(self, slot: Slot) -> bytes | None:
        """The entry; None when there is none."""
        ...

    async def put(self, slot: Slot, lease_id: bytes, entry: bytes, *, ttl_ms: int, announcement: bytes) -> bool:
        """In one step: if the lease is held, keep the entry, end the lease and announce; whether it was held."""
        ...

    async def remove(self, slot: Slot) -> None:
        """Remove the entry, if there is one."""
        ...

    async def remove_collection(self, tenant_hash: str, collection_hash: str) -> None:
        """Remove every entry of the collection."""
        ...


class Leases(Protocol):
    """The right to work an answer out, for one caller at a time. Every method raises StoreUnavailable."""

    async def acquire(self, slot: Slot, lease_id: bytes, *, lease_ms: int) -> bool:
        """Take the slot's lease if nobody holds it. When this raises, it is given back should it be granted later."""
        ...

    async def release(self, slot: Slot, lease_id: bytes, *, announcement: bytes) -> None:
        """In one step: if the lease is held, end it and announce that."""
        ...


class Announcements(Protocol):
    """What the processes tell each other. One may be lost at any time; nothing but speed rests on them."""

    async def announce(self, announcement: bytes) -> None:
        """Tell every process; raises StoreUnavailable."""
        ...

    def announcements(self) -> AsyncGenerator[bytes]:
        """What is announced from now on, this process's own included; goes on by itself after the store was down."""
        ...


class Store(Payloads, Leases, Announcements, Protocol):
    """An opened store."""


def open_store(settings: CacheSettings) -> AbstractAsyncContextManager[Store]:
    """Open the store; it need not be reachable yet."""
    match settings.engine:
        case "redis":
            from .redis import RedisStore

            return RedisStore(settings)
        case "fake":
            from .fake import FakeStore

            return FakeStore()
