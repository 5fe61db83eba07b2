"""What the two clients have in common: plans, which say what to do next and leave the doing to a driver.

A plan is a generator. It yields steps (call this, sleep that long), gets their results sent back in (or their
HeadwaterError thrown in), and returns its result. `_sync` and `_async` each have one driver; nothing here waits, and
nothing here knows of threads or event loops.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.message import Message

from ._errors import HeadwaterError, ResourceExhausted, Unavailable

T = TypeVar("T")

FIRST_BACKOFF_SECONDS: Final = 0.1
MAX_BACKOFF_SECONDS: Final = 2.0

Clock: TypeAlias = Callable[[], float]
"""Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Call:
    """Make a unary call of the gateway; the result is the response."""

    method: str
    request: Message
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """Do nothing for a while."""

    seconds: float


Plan: TypeAlias = Generator[Any, Any, T]
"""Steps, and then a T. Plans of writes have steps of their own besides these two."""


def backoff_seconds(attempt: int) -> float:
    """Time to wait before trying again after `attempt` (from 0) failed.

    Jittered, so that callers do not come back together.
    """
    return random.uniform(0.5, 1.0) * min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt, 16))


def retry_seconds(error: HeadwaterError, attempt: int) -> float | None:
    """Time to wait before doing an idempotent thing again; None when that would not help."""
    if isinstance(error, Unavailable):
        return max(backoff_seconds(attempt), error.retry_after or 0.0)
    if isinstance(error, ResourceExhausted) and error.retry_after is not None:
        return error.retry_after * random.uniform(1.0, 1.25)
    return None


def read(method: str, request: Message, *, timeout: float, retries: int, now: Clock) -> Plan[Any]:
    """An idempotent call: tried again, within its time, for as long as that may help."""
    deadline = now() + timeout
    attempt = 0
    while True:
        try:
            return (yield Call(method, request, deadline - now()))
        except HeadwaterError as error:
            delay = retry_seconds(error, attempt) if attempt < retries else None
            if delay is None or now() + delay >= deadline:
                raise
        attempt += 1
        yield Sleep(delay)
