"""Who is let in: refused before anything is queued, with a hint when to come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from . import metrics
from .authentication import Caller
from .errors import QuotaExceeded
from .settings import GatewaySettings

_FORGET_ABOVE = 1024
# Short against what generation has taken on (as much as it can do by the deadline), so that it does not run dry; long
# against the work before a refusal.
_LONGEST_HOLD_SECONDS = 0.25
_HOLD_OF_DEADLINE = 1 / 40
# For so many holds after one, questions are let in one a hold: all at once they would be refused as before.
_CAREFUL_HOLDS = 4
# Deadlines of callers that allow the same time differ by what it took to get here.
_ABOUT = 1.05


@dataclass(slots=True)
class _Use:
    """What one credential uses now. `tokens` is its bucket of requests."""

    calls: int
    tokens: float
    filled_at: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What a question asks of generation."""

    tenant: str
    max_tokens: int
    seconds: float
    """Left until its deadline."""


@dataclass(frozen=True, slots=True)
class _Hold:
    """Generation refused this just now: what asks no less of it would be refused too."""

    demand: Demand
    seconds: float
    until: float
    careful_until: float
    come_back_at: float

    def asks_no_less(self, demand: Demand) -> bool:
        return demand.max_tokens >= self.demand.max_tokens and demand.seconds <= _ABOUT * self.demand.seconds


class Admission:
    """Quotas by credential, the bound on questions worked out at once, and what generation has no room for.

    A question that generation refuses has been embedded and searched for by then. When most are refused, that work
    takes the processor from those that were not; so for a moment after a refusal, the tenant's questions like it are
    refused before any work.
    """

    def __init__(self, settings: GatewaySettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._uses: dict[bytes, _Use] = {}
        self._asks = 0
        self._holds: dict[str, _Hold] = {}

    @contextmanager
    def call(self, caller: Caller) -> Iterator[None]:
        """One call of this caller. Raises QuotaExceeded when it has too many open, or too many a second."""
        use = self._use(caller)
        if caller.requests_per_second:
            self._take(use, caller)
        if caller.max_concurrent_calls and use.calls >= caller.max_concurrent_calls:
            raise self._refusal(
                "calls",
                f"this key may have {caller.max_concurrent_calls} calls open at once; end one, or come back later",
            )
        use.calls += 1
        try:
            yield
        finally:
            use.calls -= 1

    @contextmanager
    def question(self, demand: Demand) -> Iterator[None]:
        """One question to be worked out. Raises QuotaExceeded when it would not be taken."""
        if (refusal := self._why_not(demand)) is not None:
            raise refusal
        self._renew_hold(demand)
        self._asks += 1
        metrics.ASKS_IN_PROGRESS.inc()
        try:
            yield
        finally:
            self._asks -= 1
            metrics.ASKS_IN_PROGRESS.dec()

    def would_take(self, demand: Demand) -> bool:
        """Whether the question would be taken just now."""
        return not self._is_full() and self._hold(demand) is None

    def refused(self, demand: Demand, retry_after_ms: int) -> None:
        """Generation had no room for this."""
        now = self._clock()
        seconds = retry_after_ms / 1000
        if len(self._holds) > _FORGET_ABOVE:
            self._holds = {tenant: hold for tenant, hold in self._holds.items() if now < hold.careful_until}
        held = min(seconds, _LONGEST_HOLD_SECONDS, _HOLD_OF_DEADLINE * demand.seconds)
        self._holds[demand.tenant] = _Hold(
            demand, held, now + held, careful_until=now + (1 + _CAREFUL_HOLDS) * held, come_back_at=now + seconds
        )

    def _why_not(self, demand: Demand) -> QuotaExceeded | None:
        if self._is_full():
            return self._refusal(
                "asks",
                f"{self._settings.max_concurrent_asks} questions are being answered, the most this gateway takes; "
                "come back later",
            )
        if (hold := self._hold(demand)) is not None:
            return self._refusal(
                "generation",
                "the model has no room for a question like this by its deadline; come back later or allow more time",
                max(1, round((max(hold.come_back_at, hold.until) - self._clock()) * 1000)),
                reason="TOO_BUSY",
            )
        return None

    def _is_full(self) -> bool:
        return self._asks >= self._settings.max_concurrent_asks

    def _hold(self, demand: Demand) -> _Hold | None:
        hold = self._holds.get(demand.tenant)
        return hold if hold is not None and hold.asks_no_less(demand) and self._clock() < hold.until else None

    def _renew_hold(self, demand: Demand) -> None:
        """This one is let in to see; those like it wait until it was refused or taken."""
        hold, now = self._holds.get(demand.tenant), self._clock()
        if hold is not None and hold.asks_no_less(demand) and now < hold.careful_until:
            self._holds[demand.tenant] = replace(hold, until=now + hold.seconds)

    def _use(self, caller: Caller) -> _Use:
        if len(self._uses) > _FORGET_ABOVE:
            # A bucket that nobody drew from for a minute is full again, whatever its rate.
            idle_since = self._clock() - 60
            self._uses = {key: use for key, use in self._uses.items() if use.calls or use.filled_at > idle_since}
        return self._uses.setdefault(caller.credential, _Use(0, _burst(caller), self._clock()))

    def _take(self, use: _Use, caller: Caller) -> None:
        now = self._clock()
        rate = caller.requests_per_second
        use.tokens = min(_burst(caller), use.tokens + (now - use.filled_at) * rate)
        use.filled_at = now
        if use.tokens < 1:
            wait_ms = max(1, round((1 - use.tokens) / rate * 1000))
            raise self._refusal("rate", f"this key may make {rate:g} requests a second; slow down", wait_ms)
        use.tokens -= 1

    def _refusal(
        self, quota: str, message: str, retry_after_ms: int = 0, *, reason: str = "QUOTA_EXCEEDED"
    ) -> QuotaExceeded:
        metrics.REFUSED.labels(quota).inc()
        return QuotaExceeded(
            message,
            reason=reason,
            retry_after_ms=retry_after_ms or self._settings.refused_retry_after_ms,
        )


def _burst(caller: Caller) -> float:
    """As many requests as a second allows may come at once, and always one."""
    return max(1.0, caller.requests_per_second)
