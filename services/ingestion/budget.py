"""A bound on what is worked on at once, in items and bytes."""

from __future__ import annotations

import asyncio


class Budget:
    """Waits in turn. One item is always let in, however large, or it would wait for ever."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self.items = 0
        self.bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def acquire(self, size: int) -> None:
        """Wait until there is room for an item of that many bytes."""
        async with self._turn:
            while self.items and (self.items >= self._max_items or self.bytes + size > self._max_bytes):
                self._freed.clear()
                await self._freed.wait()
            self.items += 1
            self.bytes += size

    def release(self, size: int) -> None:
        """Give its room back."""
        self.items -= 1
        self.bytes -= size
        self._freed.set()
