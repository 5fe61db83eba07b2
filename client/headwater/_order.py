"""Keeps one client's writes of one document in order, whatever becomes of each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from math import inf

from ._plans import Clock


class Turn:
    """A write's place in the line of its document."""

    __slots__ = ("key", "wake")

    def __init__(self, key: Hashable, wake: Callable[[], None]) -> None:
        self.key = key
        self.wake = wake


class WriteOrder:
    """A line for each document being written: one write at a time, in the order they came, from sent to settled.

    So a resend never overtakes a newer write of the same document: the newer one has not been sent yet. A write that
    was given up on while it may still land keeps its document closed until it no longer can.
    """

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._lines: dict[Hashable, deque[Turn]] = {}
        self._closed_until: dict[Hashable, float] = {}

    def join(self, key: Hashable, wake: Callable[[], None]) -> Turn:
        """A place at the end of the line; `wake` is called, on any thread, when it may have come to the front."""
        turn = Turn(key, wake)
        with self._lock:
            self._lines.setdefault(key, deque()).append(turn)
        return turn

    def wait_seconds(self, turn: Turn) -> float:
        """0 when it is this one's turn; else how long to wait at most before asking again (infinite: until woken)."""
        with self._lock:
            if self._lines[turn.key][0] is not turn:
                return inf
            return max(0.0, self._closed_until.get(turn.key, 0.0) - self._now())

    def leave(self, turn: Turn, *, closed_until: float = 0.0) -> None:
        """Done with; `closed_until` (monotonic) when the write may land until then."""
        with self._lock:
            now = self._now()
            if self._closed_until:
                self._closed_until = {key: until for key, until in self._closed_until.items() if until > now}
            if closed_until > now:
                self._closed_until[turn.key] = max(closed_until, self._closed_until.get(turn.key, 0.0))
            line = self._lines[turn.key]
            line.remove(turn)
            following = line[0] if line else None
            if not line:
                del self._lines[turn.key]
        if following is not None:
            following.wake()
