"""Lookups, stores and leases: what is served, to whom, and who works out what is missing."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from serving import telemetry
from serving.errors import InvalidArgument

from . import codec, metrics
from .admissions import Admissions
from .engines import Store
from .entries import Candidate, Header, Invalidated, Released, Stored
from .errors import Corrupt, StoreUnavailable, TokenOfAnotherLog
from .keys import Question, Slot, collection_hashes, slot_of
from .settings import CacheSettings
from .waiters import Waiters

_log = telemetry.get_logger(__name__)
_ID_BYTES = 16


class MissReason(StrEnum):
    """Why there was no hit; the contract's words."""

    ABSENT = "ABSENT"
    BEHIND = "BEHIND"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    CORRUPT = "CORRUPT"
    WAITED = "WAITED"


@dataclass(frozen=True, slots=True)
class Token:
    """A write token: per documents partition, the offset of the newest record to be seen."""

    log_id: bytes
    documents_offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that may be served."""

    payload: bytes
    age_ms: int
    waited: bool


@dataclass(frozen=True, slots=True)
class Miss:
    """No answer; with a lease the caller works it out for all that ask the same."""

    reason: MissReason
    lease_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Offer:
    """A complete answer and what it rests on."""

    payload: bytes
    log_id: bytes
    index_offsets: Mapping[int, int]
    """Per partition of the collection, the first index offset that was not applied when it was retrieved."""
    candidates: tuple[Candidate, ...]
    dense_cutoff: float
    lexical_cutoff: float
    question_vector: bytes


@dataclass(slots=True)
class Statistics:
    """Counters since the start."""

    hits: int = 0
    misses: int = 0
    stores: int = 0


class AnswerCache(AbstractAsyncContextManager["AnswerCache"]):
    """The cache of one process. While entered it listens to its peers, in `task`."""

    task: asyncio.Task[None]

    def __init__(self, store: Store, admissions: Admissions, settings: CacheSettings) -> None:
        self._store = store
        self._admissions = admissions
        self._settings = settings
        self.waiters = Waiters(settings.max_waiters_per_key)
        self.statistics = Statistics()

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def lookup(
        self,
        question: Question,
        *,
        partitions: Collection[int],
        token: Token | None,
        wait_seconds: float,
        lease_id: bytes = b"",
    ) -> Hit | Miss:
        """An answer, or why there is none, waiting for another caller's if one is at work on it.

        partitions: those that hold the collection. lease_id: what a lease is granted under; one is made when there is
        none. Raises InvalidArgument, TokenOfAnotherLog.
        """
        slot = slot_of(question)
        if not partitions:
            raise InvalidArgument("name the partitions that hold the collection", field="partitions")
        lease_id = lease_id or secrets.token_bytes(_ID_BYTES)
        if len(lease_id) != _ID_BYTES:
            raise InvalidArgument(f"a lease's id has {_ID_BYTES} bytes, and this one {len(lease_id)}", field="lease_id")
        try:
            outcome = await self._lookup(slot, frozenset(partitions), token, wait_seconds, lease_id)
        except StoreUnavailable:
            outcome = Miss(MissReason.STORE_UNAVAILABLE)
        if isinstance(outcome, Hit):
            self.statistics.hits += 1
            metrics.LOOKUPS.labels("hit_waited" if outcome.waited else "hit").inc()
        else:
            self.statistics.misses += 1
            metrics.LOOKUPS.labels(outcome.reason.lower()).inc()
        return outcome

    async def store(self, question: Question, lease_id: bytes, offer: Offer) -> str:
        """Take an answer in, under its lease; why it was not, or "".

        Raises InvalidArgument.
        """
        slot = slot_of(question)
        if not offer.index_offsets:
            raise InvalidArgument("say how far each partition was when the answer was retrieved", field="progress")
        try:
            reason = await self._take_in(slot, lease_id, offer)
        except StoreUnavailable as error:
            reason = error.message
        self.statistics.stores += not reason
        metrics.STORES.labels("refused" if reason else "stored").inc()
        return reason

    async def release(self, question: Question, lease_id: bytes) -> None:
        """Give a lease back without an answer; one that cannot be given back runs out."""
        await self._give_back(slot_of(question), lease_id)

    async def invalidate(self, tenant: str, collection_id: str) -> int:
        """Drop the collection's entries, here and everywhere; how many this process dropped.

        Raises InvalidArgument, StoreUnavailable (dropped here, but perhaps not elsewhere).
        """
        tenant_hash, collection_hash = collection_hashes(tenant, collection_id)
        dropped = self._admissions.discard_collection(collection_id)
        await self._store.remove_collection(tenant_hash, collection_hash)
        # once more: a lookup may have found one before it was removed
        dropped += self._admissions.discard_collection(collection_id)
        await self._store.announce(codec.encode_event(Invalidated(collection_id)))
        return dropped

    async def _lookup(
        self, slot: Slot, partitions: frozenset[int], token: Token | None, wait_seconds: float, lease_id: bytes
    ) -> Hit | Miss:
        waits_until = time.monotonic() + wait_seconds
        waited = False
        with self.waiters.join(slot.key_hash) as woken:
            while True:
                # cleared before looking: what happens from here on wakes
                if woken is not None:
                    woken.clear()
                outcome = await self._attempt(slot, partitions, token, waited, lease_id)
                seconds = waits_until - time.monotonic()
                if outcome is not None:
                    return outcome
                if woken is None or seconds <= 0:
                    return Miss(MissReason.WAITED if waited else MissReason.ABSENT)
                with suppress(TimeoutError), metrics.WAITERS.track_inprogress(), telemetry.span("cache.wait"):
                    await asyncio.wait_for(woken.wait(), min(seconds, self._settings.poll_ms / 1000))
                waited = True

    async def _attempt(
        self, slot: Slot, partitions: frozenset[int], token: Token | None, waited: bool, lease_id: bytes
    ) -> Hit | Miss | None:
        """A hit, or a miss with or without a lease; None while another caller holds the lease."""
        if not self._is_current(partitions):
            return Miss(MissReason.BEHIND)
        if not self._covers(token, partitions):
            # it may work on what it finds itself, but neither an entry here nor a leader's is new enough for it
            return Miss(MissReason.BEHIND, lease_id if await self._acquire(slot, lease_id) else b"")
        reason = MissReason.ABSENT
        may_find = True
        admitted = self._admissions.get(slot.key_hash)
        if admitted is not None:
            try:
                found = await self._read(slot)
            except Corrupt:
                found, reason = None, MissReason.CORRUPT
            if found is not None and found[0].entry_id == admitted.entry_id:
                # asked again: time and the log went on while the store was read
                if not self._is_current(partitions):
                    return Miss(MissReason.BEHIND)
                if self._is_admitted(admitted, partitions):
                    return self._hit(admitted, found[1], waited)
            self._admissions.discard(admitted)
            may_find = found is None
        if not await self._acquire(slot, lease_id):
            return None
        try:
            hit = await self._find(slot, partitions, waited) if may_find else None
        except Corrupt:
            return Miss(MissReason.CORRUPT, lease_id)
        except BaseException:
            await self._give_back(slot, lease_id)
            raise
        if hit is not None:
            await self._give_back(slot, lease_id)
            return hit
        return Miss(reason, lease_id)

    async def _find(self, slot: Slot, partitions: frozenset[int], waited: bool) -> Hit | None:
        """An entry whose announcement did not reach this process: stored before its start, or while it was cut off.

        Looked for under the lease, so that nobody stores between this look and the work that follows a miss.
        """
        found = await self._read(slot)
        if found is None or self._admissions.admit(found[0]) is not None:
            return None
        may_serve = self._is_current(partitions) and self._is_admitted(found[0], partitions)
        return self._hit(*found, waited) if may_serve else None

    async def _read(self, slot: Slot) -> tuple[Header, bytes] | None:
        """The stored entry; a damaged one is removed, and raises Corrupt."""
        data = await self._store.get(slot)
        if data is None:
            return None
        try:
            header, payload = codec.decode_entry(data)
            if header.key_hash != slot.key_hash:
                raise Corrupt("the entry is of another key")
        except Corrupt as error:
            _log.warning("a stored entry is damaged", why=error.message)
            await self._store.remove(slot)
            raise
        return header, payload

    async def _take_in(self, slot: Slot, lease_id: bytes, offer: Offer) -> str:
        header = Header(
            entry_id=secrets.token_bytes(_ID_BYTES),
            key_hash=slot.key_hash,
            collection_id=slot.collection_id,
            log_id=offer.log_id,
            index_offsets=offer.index_offsets,
            candidates=offer.candidates,
            dense_cutoff=offer.dense_cutoff,
            lexical_cutoff=offer.lexical_cutoff,
            question_vector=offer.question_vector,
            stored_unix_ms=now_unix_ms(),
        )
        entry = codec.encode_entry(header, offer.payload)
        reason = self._admissions.check(header) or ""
        if len(entry) > self._settings.max_entry_bytes:
            reason = f"the entry has {len(entry)} bytes; at most {self._settings.max_entry_bytes} are kept"
        if reason:
            await self._give_back(slot, lease_id)
            return reason
        held = await self._store.put(
            slot,
            lease_id,
            entry,
            ttl_ms=int(self._settings.entry_ttl_seconds * 1000),
            announcement=codec.encode_event(Stored(header)),
        )
        if not held:
            return "the lease was lost; another caller may be at work on it"
        # checked again: the log went on while the store was written
        refusal = self._admissions.admit(header)
        self.waiters.wake(slot.key_hash)
        return refusal or ""

    async def _acquire(self, slot: Slot, lease_id: bytes) -> bool:
        return await self._store.acquire(slot, lease_id, lease_ms=int(self._settings.lease_seconds * 1000))

    async def _give_back(self, slot: Slot, lease_id: bytes) -> None:
        with suppress(StoreUnavailable):
            await self._store.release(slot, lease_id, announcement=codec.encode_event(Released(slot.key_hash)))
        self.waiters.wake(slot.key_hash)

    async def _listen(self) -> None:
        async with aclosing(self._store.announcements()) as announcements:
            async for data in announcements:
                try:
                    event = codec.decode_event(data)
                except Corrupt:
                    _log.warning("an announcement is damaged")
                    continue
                match event:
                    case Stored(header):
                        self._admissions.admit(header)
                        self.waiters.wake(header.key_hash)
                    case Released(key_hash):
                        self.waiters.wake(key_hash)
                    case Invalidated(collection_id):
                        self._admissions.discard_collection(collection_id)

    def _hit(self, header: Header, payload: bytes, waited: bool) -> Hit:
        return Hit(payload, max(0, now_unix_ms() - header.stored_unix_ms), waited)

    def _is_admitted(self, header: Header, partitions: frozenset[int]) -> bool:
        admitted = self._admissions.get(header.key_hash)
        return (
            admitted is not None
            and admitted.entry_id == header.entry_id
            and partitions <= admitted.index_offsets.keys()
        )

    def _is_current(self, partitions: frozenset[int]) -> bool:
        asked_at = self._admissions.history.current_since(partitions)
        return time.monotonic() - asked_at < self._settings.currency_seconds

    def _covers(self, token: Token | None, partitions: frozenset[int]) -> bool:
        if token is None:
            return True
        if token.log_id != self._admissions.history.log_id:
            raise TokenOfAnotherLog
        return all(
            self._admissions.history.covers(partition, offset)
            for partition, offset in token.documents_offsets.items()
            if partition in partitions
        )


def now_unix_ms() -> int:
    """The wall clock in milliseconds: entries are dated for every process."""
    return int(time.time() * 1000)
