"""The cache as a question sees it: asked within its budget, and never the reason why a question fails."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from serving import deadlines
from serving.errors import ErrorCode, HeadwaterError
from serving.telemetry import get_logger

from .settings import GatewaySettings
from .values import CacheOutcome, Done, Progress, Retrieved, Scope, WriteToken

_log = get_logger(__name__)
# Faults of the request itself; everything else means that the cache is no help just now.
_FAULTS = {ErrorCode.FAILED_PRECONDITION, ErrorCode.INVALID_ARGUMENT}
_LEASE_ID_BYTES = 16
# For what no caller waits for. A lease that is not given back keeps others waiting for an answer that never comes.
_BACKGROUND_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What makes two questions the same."""

    scope: Scope
    generation: int
    question: str
    """Unicode NFKC, whitespace runs as one space, trimmed."""
    model: str
    prompt_version: str
    parameters: bytes
    """Everything else that shapes the answer, in one form."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it is kept: its first and its last event."""

    retrieved: Retrieved
    done: Done


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What the cache said."""

    answer: StoredAnswer | None = None
    waited: bool = False
    """Another caller's work was waited for."""
    lease_id: bytes = b""
    """On a miss: under which to store; empty when the answer should not be offered."""
    busy: bool = False
    """Another caller is at work on it."""
    down: bool = False
    """The store behind the cache could not be asked."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What an answer rests on."""

    answer: StoredAnswer
    candidates: Mapping[str, float]
    """Best score by document, of every document whose chunk was retrieved."""
    dense_cutoff: float | None
    """The score below which a chunk would not have been retrieved; None when the list was not full."""
    progress: Sequence[Progress]
    log_id: bytes
    question_vector: bytes
    """Little-endian float32."""


class CacheClient(Protocol):
    """The cache service."""

    async def lookup(
        self,
        key: CacheKey,
        after: WriteToken | None,
        partitions: Sequence[int],
        *,
        wait_ms: int,
        lease_id: bytes,
        timeout_seconds: float,
    ) -> LookedUp:
        """An answer or a lease under this id, waiting up to `wait_ms` for another caller's answer."""
        ...

    async def store(self, key: CacheKey, lease_id: bytes, offer: Offer, timeout_seconds: float) -> None:
        """Offer an answer under a lease; whether it is taken is the cache's affair."""
        ...

    async def release(self, key: CacheKey, lease_id: bytes, timeout_seconds: float) -> None:
        """Give a lease back."""
        ...


class AnswerCache:
    """Looks answers up, and keeps promises about leases: each is stored under or given back."""

    def __init__(self, client: CacheClient | None, settings: GatewaySettings) -> None:
        self._client = client
        self._settings = settings
        self._timeout = settings.cache_timeout_ms / 1000
        self._tasks: set[asyncio.Task[None]] = set()
        self._storing: dict[CacheKey, asyncio.Task[None]] = {}

    async def lookup(self, key: CacheKey | None, after: WriteToken | None, partitions: Sequence[int]) -> Claim:
        """What is cached under the key, or the right to work it out. Without a key the cache is not asked.

        Raises what is wrong with the request itself (a token of another log).
        """
        if key is None or self._client is None:
            return Claim(self, None, CacheOutcome.BYPASSED)
        if (storing := self._storing.get(key)) is not None:
            # So that who asks again finds what was just answered here.
            await asyncio.wait({storing}, timeout=self._timeout)
        lease_id = secrets.token_bytes(_LEASE_ID_BYTES)
        try:
            # First without waiting: so a cache that hangs is found out within its budget, not within the wait.
            looked = await self._client.lookup(
                key,
                after,
                partitions,
                wait_ms=0,
                lease_id=lease_id,
                timeout_seconds=deadlines.budget(self._timeout),
            )
            if looked.busy and (wait := self._wait_seconds()) > 0:
                looked = await self._client.lookup(
                    key,
                    after,
                    partitions,
                    wait_ms=round(wait * 1000),
                    lease_id=lease_id,
                    timeout_seconds=wait + self._timeout,
                )
        except asyncio.CancelledError:
            self.release(key, lease_id)
            raise
        except HeadwaterError as error:
            if error.code in _FAULTS:
                raise
            # It may have been granted, and only the reply be lost.
            self.release(key, lease_id)
            _log.warning("the cache did not answer", code=error.code.value)
            return Claim(self, None, CacheOutcome.MISS, down=True)
        if looked.answer is not None:
            return Claim(self, None, CacheOutcome.SHARED if looked.waited else CacheOutcome.HIT, looked.answer)
        lease = (key, looked.lease_id) if looked.lease_id else None
        return Claim(self, lease, CacheOutcome.MISS, down=looked.down)

    async def close(self) -> None:
        """Finish storing, and giving leases back."""
        await asyncio.gather(*self._tasks)

    def store(self, key: CacheKey, lease_id: bytes, offer: Offer) -> None:
        """Offer an answer, in the background: its caller need not wait."""
        if self._client is not None:
            self._storing[key] = task = self._begin(self._store(self._client, key, lease_id, offer))
            task.add_done_callback(lambda _: self._storing.pop(key))

    def release(self, key: CacheKey, lease_id: bytes) -> None:
        """Give a lease back, in the background: its caller may be gone."""
        if self._client is not None:
            self._begin(self._release(self._client, key, lease_id))

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        # In a context of its own: the call's deadline may have passed.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _store(self, client: CacheClient, key: CacheKey, lease_id: bytes, offer: Offer) -> None:
        try:
            await client.store(key, lease_id, offer, _BACKGROUND_SECONDS)
        except HeadwaterError as error:
            _log.warning("the cache did not take an answer", code=error.code.value)

    async def _release(self, client: CacheClient, key: CacheKey, lease_id: bytes) -> None:
        try:
            await client.release(key, lease_id, _BACKGROUND_SECONDS)
        except HeadwaterError as error:
            _log.info("a lease could not be given back, and will run out", code=error.code.value)

    def _wait_seconds(self) -> float:
        # Half of the time is kept for working it out after all: whoever was at work on it may be gone.
        return min(self._settings.single_flight_wait_ms / 1000, deadlines.remaining() / 2)


class Claim:
    """What a lookup gave: an answer, or the right to work one out. A lease that is still held when it is left is given
    back."""

    def __init__(
        self,
        cache: AnswerCache,
        lease: tuple[CacheKey, bytes] | None,
        outcome: CacheOutcome,
        answer: StoredAnswer | None = None,
        *,
        down: bool = False,
    ) -> None:
        self.outcome = outcome
        self.answer = answer
        self.down = down
        """The cache could not be asked."""
        self._cache = cache
        self._lease = lease

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is not None:
            self._cache.release(*self._lease)

    @property
    def may_store(self) -> bool:
        """Whether the answer should be offered."""
        return self._lease is not None

    def store(self, offer: Offer) -> None:
        """Offer the answer; the lease is used up."""
        if self._lease is not None:
            self._cache.store(*self._lease, offer)
            self._lease = None
