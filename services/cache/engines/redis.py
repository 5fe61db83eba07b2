"""Valkey or Redis, through redis.asyncio. A tenant's keys have one hash tag, so that a cluster keeps them together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serving import telemetry

from ..errors import StoreUnavailable
from ..keys import Slot
from ..settings import CacheSettings
from .breaker import Breaker

_log = telemetry.get_logger(__name__)

_PREFIX = "headwater:1"
_CHANNEL = f"{_PREFIX}:announcements"
_RESUBSCRIBE_SECONDS = 0.2
_SUBSCRIPTION_CHECK_SECONDS = 5.0
_SCAN_COUNT = 1000

# KEYS: lease, entry. ARGV: lease id, entry, time to live in ms, channel, announcement.
_PUT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
"""

# KEYS: lease. ARGV: lease id, channel, announcement.
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""

Answer = TypeVar("Answer")


class RedisStore(AbstractAsyncContextManager["RedisStore"]):
    """A store in Valkey or Redis, behind a time budget and a breaker."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._breaker = Breaker(
            failures_to_open=settings.breaker_failures, cooldown_seconds=settings.breaker_cooldown_seconds
        )
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._client = self._connect(self._settings.max_connections)
        self._subscriber = self._connect(2)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._client.aclose()
        await self._subscriber.aclose()

    def _connect(self, max_connections: int) -> Redis:
        seconds = self._settings.connect_seconds
        pool = BlockingConnectionPool.from_url(
            self._settings.redis_url.get_secret_value(),
            max_connections=max_connections,
            timeout=seconds,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            # a put that was done and is sent again would find its lease gone
            retry=Retry(NoBackoff(), 0),
            # with the newer protocol, idle connections are not checked for having been closed
            protocol=2,
        )
        return Redis.from_pool(pool)

    async def get(self, slot: Slot) -> bytes | None:
        return cast("bytes | None", await self._ask(lambda: self._client.get(_entry_key(slot))))

    async def put(self, slot: Slot, lease_id: bytes, entry: bytes, *, ttl_ms: int, announcement: bytes) -> bool:
        kept = await self._ask(
            lambda: self._script(
                _PUT,
                (_lease_key(slot), _entry_key(slot)),
                (lease_id, entry, str(ttl_ms), _CHANNEL, announcement),
            ),
            budget_ms=self._settings.write_budget_ms,
        )
        return bool(kept)

    async def remove(self, slot: Slot) -> None:
        await self._ask(lambda: self._client.unlink(_entry_key(slot)))

    async def remove_collection(self, tenant_hash: str, collection_hash: str) -> None:
        pattern = f"{_PREFIX}:{{{tenant_hash}}}:entry:{collection_hash}:*"
        cursor: int | None = None
        while cursor != 0:
            cursor, keys = await self._ask(
                partial(self._client.scan, cursor or 0, match=pattern, count=_SCAN_COUNT),
                budget_ms=self._settings.write_budget_ms,
            )
            if keys:
                await self._ask(partial(self._client.unlink, *keys), budget_ms=self._settings.write_budget_ms)

    async def acquire(self, slot: Slot, lease_id: bytes, *, lease_ms: int) -> bool:
        self._breaker.check()
        task = self._begin(lambda: self._client.set(_lease_key(slot), lease_id, nx=True, px=lease_ms))
        try:
            return bool(await self._answer(task, self._settings.read_budget_ms))
        except (StoreUnavailable, asyncio.CancelledError):
            # it may still be granted, to nobody, and would keep everybody waiting
            task.add_done_callback(lambda done: self._begin(lambda: self._undo(done, slot, lease_id)))
            raise

    async def _undo(self, done: asyncio.Task[Any], slot: Slot, lease_id: bytes) -> None:
        if not done.cancelled() and done.exception() is None and done.result():
            await self._script(_RELEASE, (_lease_key(slot),), (lease_id, _CHANNEL, b""))

    async def release(self, slot: Slot, lease_id: bytes, *, announcement: bytes) -> None:
        await self._ask(lambda: self._script(_RELEASE, (_lease_key(slot),), (lease_id, _CHANNEL, announcement)))

    async def announce(self, announcement: bytes) -> None:
        await self._ask(lambda: self._client.publish(_CHANNEL, announcement))

    async def announcements(self) -> AsyncGenerator[bytes]:
        while True:
            try:
                async with self._subscriber.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(_CHANNEL)
                    while True:
                        message = await subscription.get_message(timeout=_SUBSCRIPTION_CHECK_SECONDS)
                        if message is not None:
                            yield message["data"]
            except (RedisError, OSError) as error:
                _log.debug("not subscribed", kind=type(error).__name__)
                await asyncio.sleep(_RESUBSCRIBE_SECONDS)

    def _script(self, script: str, keys: tuple[str, ...], arguments: tuple[str | bytes, ...]) -> Awaitable[Any]:
        return self._client.eval(script, len(keys), *keys, *arguments)

    async def _ask(self, command: Callable[[], Awaitable[Answer]], budget_ms: float | None = None) -> Answer:
        self._breaker.check()
        return await self._answer(self._begin(command), budget_ms or self._settings.read_budget_ms)

    def _begin(self, command: Callable[[], Awaitable[Answer]]) -> asyncio.Task[Answer]:
        async def run() -> Answer:
            return await command()

        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen here, as its caller may have gone on long ago

    async def _answer(self, task: asyncio.Task[Answer], budget_ms: float) -> Answer:
        """The command's answer, within the budget.

        A late command is not cancelled: that would throw its connection away, and where connecting takes longer than
        the budget there would never be one.
        """
        ends_at = time.monotonic() + budget_ms / 1000
        await asyncio.wait({task}, timeout=budget_ms / 1000)
        if not task.done():
            # by as much as this process was itself late to look, the answer may have been waiting for it
            await asyncio.wait({task}, timeout=max(0.0, time.monotonic() - ends_at))
        if not task.done():
            raise self._failed(f"the store did not answer within {budget_ms:g} ms")
        try:
            answer = task.result()
        except (RedisError, OSError) as error:
            raise self._failed(f"the store failed ({type(error).__name__})") from error
        if self._breaker.is_open:
            _log.info("the store answers again")
        self._breaker.succeeded()
        return answer

    def _failed(self, message: str) -> StoreUnavailable:
        was_open = self._breaker.is_open
        self._breaker.failed()
        if self._breaker.is_open and not was_open:
            _log.warning("the store is left alone for a while", why=message)
        return StoreUnavailable(message)


def _entry_key(slot: Slot) -> str:
    return f"{_PREFIX}:{{{slot.tenant_hash}}}:entry:{slot.collection_hash}:{slot.key_hash.hex()}"


def _lease_key(slot: Slot) -> str:
    return f"{_PREFIX}:{{{slot.tenant_hash}}}:lease:{slot.key_hash.hex()}"
