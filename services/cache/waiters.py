"""Callers of this process that wait for another caller's answer, by key."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Waiters:
    """Wakes those that wait for a key. Bounded: beyond it nobody waits."""

    def __init__(self, max_per_key: int) -> None:
        self._max_per_key = max_per_key
        self._events: defaultdict[bytes, set[asyncio.Event]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(len(events) for events in self._events.values())

    @contextmanager
    def join(self, key_hash: bytes) -> Iterator[asyncio.Event | None]:
        """An event set at every wake-up of the key from now on; None when too many wait already."""
        if len(self._events.get(key_hash, ())) >= self._max_per_key:
            yield None
            return
        event = asyncio.Event()
        self._events[key_hash].add(event)
        try:
            yield event
        finally:
            events = self._events[key_hash]
            events.discard(event)
            if not events:
                del self._events[key_hash]

    def wake(self, key_hash: bytes) -> None:
        """Something became of the key's lease: let them look again."""
        for event in self._events.get(key_hash, ()):
            event.set()
