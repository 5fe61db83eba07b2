"""What this process may serve: entries that were checked against every index record since they were worked out."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from .entries import Header
from .history import Advance, Change, History


class Refusal(StrEnum):
    """Why an entry was not admitted."""

    ANOTHER_LOG = "it was retrieved from another log than the one followed here"
    OVERTAKEN = "a document of the collection changed after it was retrieved"
    TOO_OLD = "it was retrieved before the changes that are still known here"
    EXPIRED = "its time to live is over"


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds of the admitted set; the least recently used entry goes first."""

    max_entries: int
    max_bytes: int
    ttl_ms: int


class Admissions:
    """The admitted set, held to the history. `now_ms` is the wall clock in milliseconds."""

    def __init__(self, history: History, limits: AdmissionLimits, now_ms: Callable[[], int]) -> None:
        self.history = history
        self._limits = limits
        self._now_ms = now_ms
        self._entries: OrderedDict[bytes, Header] = OrderedDict()
        self._keys_by_collection: defaultdict[str, set[bytes]] = defaultdict(set)
        self._memory_bytes = 0
        self.invalidations = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def memory_bytes(self) -> int:
        """An estimate of the memory held, in bytes."""
        return self._memory_bytes

    def check(self, header: Header) -> Refusal | None:
        """Why the entry may not be served; None when it may.

        An entry retrieved further on than this process has followed may be: what lies between is in the answer already,
        and whatever comes after that drops it when it comes.
        """
        if not self.history.log_id or header.log_id != self.history.log_id:
            return Refusal.ANOTHER_LOG
        if self._expired(header):
            return Refusal.EXPIRED
        changes = self.history.changes_since(header.index_offsets)
        if changes is None:
            return Refusal.TOO_OLD
        return Refusal.OVERTAKEN if any(overtakes(change, header) for change in changes) else None

    def admit(self, header: Header) -> Refusal | None:
        """Check the entry and, if it passes, serve it from now on in place of its key's former one."""
        current = self._entries.get(header.key_hash)
        if current is not None and current.entry_id == header.entry_id:
            return None
        refusal = self.check(header)
        if refusal is None:
            self._remove(header.key_hash)
            self._entries[header.key_hash] = header
            self._keys_by_collection[header.collection_id].add(header.key_hash)
            self._memory_bytes += _size(header)
            while len(self._entries) > self._limits.max_entries or self._memory_bytes > self._limits.max_bytes:
                self._remove(next(iter(self._entries)))
        return refusal

    def get(self, key_hash: bytes) -> Header | None:
        """The admitted entry of the key."""
        header = self._entries.get(key_hash)
        if header is not None and self._expired(header):
            self._remove(key_hash)
            return None
        if header is not None:
            self._entries.move_to_end(key_hash)
        return header

    def discard(self, header: Header) -> None:
        """Serve this entry no more; another one of its key stays."""
        current = self._entries.get(header.key_hash)
        if current is not None and current.entry_id == header.entry_id:
            self._remove(header.key_hash)

    def discard_collection(self, collection_id: str) -> int:
        """Serve nothing of the collection any more; how many entries that were."""
        keys = tuple(self._keys_by_collection.get(collection_id, ()))
        for key_hash in keys:
            self._remove(key_hash)
        return len(keys)

    def apply(self, advance: Advance) -> None:
        """Follow the log by one batch: drop what its changes touch, then count as of its end."""
        for change in advance.changes:
            for key_hash in tuple(self._keys_by_collection.get(change.collection_id, ())):
                if overtakes(change, self._entries[key_hash]):
                    self._remove(key_hash)
                    self.invalidations += 1
        self.history.apply(advance)

    def follow(self, log_id: bytes, positions: Mapping[int, int]) -> None:
        """Begin with a log; entries checked against another one are gone."""
        self.forget_log()
        self.history.start(log_id, positions)

    def forget_log(self) -> None:
        """The log is gone: drop everything, admit nothing."""
        self._entries.clear()
        self._keys_by_collection.clear()
        self._memory_bytes = 0
        self.history.stop()

    def _remove(self, key_hash: bytes) -> None:
        header = self._entries.pop(key_hash, None)
        if header is not None:
            self._memory_bytes -= _size(header)
            keys = self._keys_by_collection[header.collection_id]
            keys.discard(key_hash)
            if not keys:
                del self._keys_by_collection[header.collection_id]

    def _expired(self, header: Header) -> bool:
        return self._now_ms() >= header.stored_unix_ms + self._limits.ttl_ms


def overtakes(change: Change, header: Header) -> bool:
    """Whether the change could alter the answer.

    Any change of the collection that the answer's retrieval had not applied does: a replaced or deleted candidate, and
    a new document that might now be one. Finer rules need the change's vectors.
    """
    if change.collection_id != header.collection_id:
        return False
    retrieved_at = header.index_offsets.get(change.partition)
    return retrieved_at is None or change.offset >= retrieved_at


def _size(header: Header) -> int:
    # objects of CPython weigh some 64 bytes each beside their content
    candidates = sum(len(candidate.document_id) + 192 for candidate in header.candidates)
    return 1024 + candidates + len(header.question_vector) + 192 * len(header.index_offsets)
