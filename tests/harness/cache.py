"""A log, a writer of index records and any number of cache processes on them, for tests of the cache."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

from headwater.log.v1 import log_pb2

from services.cache.admissions import AdmissionLimits, Admissions
from services.cache.answers import AnswerCache, Hit, Miss, MissReason, Offer, Token, now_unix_ms
from services.cache.engines import Store, open_store
from services.cache.engines.fake import FakeStore
from services.cache.entries import Candidate
from services.cache.follower import Follower
from services.cache.history import History
from services.cache.keys import Question
from services.cache.settings import CacheSettings
from serving.eventlog import Batch, EventLog, LogSettings, LogUnavailable, OwnedPartition, Topic, init_log, open_log
from serving.eventlog.keys import PROGRESS_KEY, index_key

COLLECTION = "c" * 32
PARTITIONS = (0, 1)


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Return once the condition holds; fail, saying what did not come, when it never does."""
    for _ in range(4000):
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"this never came: {what}")


def question(
    text: str = "how much leave do I get?",
    *,
    tenant: str = "acme",
    groups: tuple[str, ...] = (),
    collection_id: str = COLLECTION,
) -> Question:
    """A question to the collection."""
    return Question(tenant, groups, collection_id, 1, text, b"", "model", "prompt-1", b"k=5")


class IndexWriter:
    """Appends index records as the partitions' owner does."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._owned: dict[int, OwnedPartition] = {}
        self._documents_offsets: dict[int, int] = dict.fromkeys(PARTITIONS, 0)

    async def change(self, outcome: str = "indexed", *, partition: int = 0, collection_id: str = COLLECTION) -> Token:
        """Append a document's record; the token of its write."""
        message = log_pb2.IndexRecord(collection_id=collection_id, generation=1, document_id=secrets.token_hex(4))
        getattr(message, outcome).SetInParent()
        return await self._append(partition, index_key(collection_id, 1, message.document_id), message)

    async def progress(self, *, partition: int = 0) -> Token:
        """Append a progress record; the token of the write it covers."""
        message = log_pb2.IndexRecord()
        message.progress.SetInParent()
        return await self._append(partition, PROGRESS_KEY, message)

    async def retire(self, partition: int = 0, collection_id: str = COLLECTION) -> None:
        """Null a key of the collection."""
        await (await self._own(partition)).append([(index_key(collection_id, 1, "gone"), None)])

    async def index_offsets(self) -> dict[int, int]:
        """The progress of a retrieval that has applied everything."""
        return {partition: (await self._log.bounds(Topic.INDEX, partition))[1] for partition in PARTITIONS}

    async def _append(self, partition: int, key: bytes, message: log_pb2.IndexRecord) -> Token:
        self._documents_offsets[partition] += 1
        message.schema_version = 1
        message.documents_offset = self._documents_offsets[partition]
        await (await self._own(partition)).append([(key, message.SerializeToString())])
        return Token(self._log.log_id, {partition: message.documents_offset})

    async def _own(self, partition: int) -> OwnedPartition:
        if partition not in self._owned:
            self._owned[partition] = await self._log.take(Topic.INDEX, partition)
        return self._owned[partition]


class Sight:
    """Whether a process sees the log: held, it gets nothing more, not even the end; failing, it is told so."""

    def __init__(self) -> None:
        self.going = asyncio.Event()
        self.going.set()
        self.failing = False

    def check(self) -> None:
        if self.failing:
            raise LogUnavailable("the log cannot be reached")


class SightedLog:
    """A log as far as it is seen."""

    def __init__(self, log: EventLog, sight: Sight) -> None:
        self._log = log
        self._sight = sight

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def follow(self, positions: Mapping[tuple[Topic, int], int]) -> AsyncIterator[Batch]:
        async for batch in self._log.follow(positions):
            # a batch that was read before the hold has still to be given after it: that is what lag is
            await self._sight.going.wait()
            self._sight.check()
            yield batch


@dataclass
class CacheProcess:
    """A cache process's inside."""

    answers: AnswerCache
    admissions: Admissions
    follower: Follower
    store: Store
    sight: Sight

    def hold_log(self) -> None:
        """Let it see nothing more of the log."""
        self.sight.going.clear()

    def let_log_go(self) -> None:
        """Let it see the log again."""
        self.sight.going.set()
        self.sight.failing = False

    def fail_log(self) -> None:
        """Let it find the log unavailable."""
        self.sight.failing = True

    async def lookup(self, asked: Question, *, token: Token | None = None, wait_seconds: float = 0.0) -> Hit | Miss:
        """Look up as the gateway does; where the log is not held, not before this process is current on it."""
        while True:
            outcome = await self.answers.lookup(asked, partitions=PARTITIONS, token=token, wait_seconds=wait_seconds)
            if outcome != Miss(MissReason.BEHIND) or not self.sight.going.is_set() or self.sight.failing:
                return outcome
            # a busy machine can keep a follower from the log's end for longer than it may serve without
            await asyncio.sleep(0.01)

    async def lease(self, asked: Question) -> bytes:
        """Look up, miss, and get the lease."""
        missed = await self.lookup(asked)
        assert isinstance(missed, Miss)
        assert missed.lease_id
        return missed.lease_id

    async def offer(
        self, asked: Question, lease_id: bytes, index_offsets: Mapping[int, int], payload: bytes = b"an answer"
    ) -> str:
        """Store an answer retrieved at this progress; why it was not taken, or ""."""
        offer = Offer(payload, self.admissions.history.log_id, index_offsets, (Candidate("a", 0.5),), 0.1, 0.2, b"")
        return await self.answers.store(asked, lease_id, offer)

    async def caught_up(self, index_offsets: Mapping[int, int]) -> None:
        """Return once it follows the log that far."""
        positions = self.admissions.history.positions
        await until(
            lambda: all(positions().get(number, -1) >= offset for number, offset in index_offsets.items()), "caught up"
        )


class CacheWorld(AbstractAsyncContextManager["CacheWorld"]):
    """One log, one store, and the cache processes on them."""

    def __init__(self, log_settings: LogSettings, cache_settings: CacheSettings) -> None:
        self.log_settings = log_settings
        self.cache_settings = cache_settings
        self._fake = FakeStore()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await init_log(self.log_settings)
        self.log = await self._stack.enter_async_context(open_log(self.log_settings))
        self.writer = IndexWriter(self.log)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start(self, **changes: Any) -> CacheProcess:
        """Start a cache process, with these settings changed, and return when it is current."""
        settings = self.cache_settings.model_copy(update=changes)
        sight = Sight()

        @asynccontextmanager
        async def open_sighted() -> AsyncIterator[EventLog]:
            sight.check()
            async with open_log(self.log_settings) as log:
                yield cast(EventLog, SightedLog(log, sight))

        enter = self._stack.enter_async_context
        store: Store = self._fake if settings.engine == "fake" else await enter(open_store(settings))
        limits = AdmissionLimits(
            settings.max_entries, settings.max_memory_bytes, int(settings.entry_ttl_seconds * 1000)
        )
        admissions = Admissions(History(settings.ring_records), limits, now_unix_ms)
        follower = await enter(Follower(open_sighted, admissions, backfill_records=settings.backfill_records))
        answers = await enter(AnswerCache(store, admissions, settings))
        await follower.caught_up()
        return CacheProcess(answers, admissions, follower, store, sight)

    async def fill(self, process: CacheProcess, asked: Question, payload: bytes = b"an answer") -> None:
        """Have the process admit an answer retrieved now."""
        lease_id = await process.lease(asked)
        assert await process.offer(asked, lease_id, await self.writer.index_offsets(), payload) == ""
