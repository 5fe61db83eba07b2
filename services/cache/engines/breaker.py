"""A circuit breaker: after some failures in a row, ask no more for a while; then one tries for all."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import StoreUnavailable


class Breaker:
    """Closed (all may ask), open (none may), or on trial (one may, and its outcome decides)."""

    def __init__(
        self, *, failures_to_open: int, cooldown_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures_to_open = failures_to_open
        self._cooldown_seconds = cooldown_seconds
        self._clock = clock
        self._failures = 0
        self._asks_again_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether failures have shut the store off."""
        return self._failures >= self._failures_to_open

    def check(self) -> None:
        """Raises StoreUnavailable when the store should not be asked now."""
        if not self.is_open:
            return
        if self._clock() < self._asks_again_at:
            raise StoreUnavailable("the store has failed repeatedly and is not asked for a moment")
        # this caller is the trial; the others go on being refused until it has ended
        self._asks_again_at = self._clock() + self._cooldown_seconds

    def succeeded(self) -> None:
        """The store answered in time."""
        self._failures = 0

    def failed(self) -> None:
        """The store failed, or was too slow."""
        self._failures += 1
        if self.is_open:
            self._asks_again_at = self._clock() + self._cooldown_seconds
