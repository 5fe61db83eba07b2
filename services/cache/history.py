"""What this process knows of the index log: how far it follows, how lately that was the end, and the recent changes.

Pure bookkeeping, on one event loop: nothing here waits, so that a check and what rests on it cannot be torn apart.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Change:
    """A data record of the index log: something was indexed, rejected or deleted. Progress is none."""

    partition: int
    offset: int
    collection_id: str
    document_id: str


@dataclass(frozen=True, slots=True)
class Advance:
    """A batch of one partition, digested."""

    partition: int
    changes: Sequence[Change]
    documents_offset: int | None
    """The first documents offset not yet covered; None when no record speaks of one."""
    next_offset: int
    end_offset: int
    asked_at: float
    """time.monotonic() before `end_offset` was asked for."""


@dataclass(slots=True)
class _Partition:
    reaches_back_to: int
    next_offset: int
    capacity: int
    documents_offset: int = 0
    current_at: float = -math.inf
    end_offset: int = 0
    end_asked_at: float = -math.inf
    changes: deque[Change] = field(default_factory=deque)

    def apply(self, advance: Advance) -> None:
        for change in advance.changes:
            self.changes.append(change)
            if len(self.changes) > self.capacity:
                self.reaches_back_to = self.changes.popleft().offset + 1
        if advance.documents_offset is not None:
            self.documents_offset = max(self.documents_offset, advance.documents_offset)
        self.next_offset = advance.next_offset
        # the end seen with an earlier batch may be reached before the newest one is: under a steady stream only that
        # one ever is
        if self.next_offset >= self.end_offset:
            self.current_at = max(self.current_at, self.end_asked_at)
        self.end_offset, self.end_asked_at = advance.end_offset, advance.asked_at
        if self.next_offset >= self.end_offset:
            self.current_at = max(self.current_at, self.end_asked_at)


class History:
    """The followed part of one log. Without one (`log_id` empty) it covers nothing, and nothing passes its check."""

    def __init__(self, ring_records: int) -> None:
        self.log_id = b""
        self._ring_records = ring_records
        self._partitions: dict[int, _Partition] = {}

    def start(self, log_id: bytes, positions: Mapping[int, int]) -> None:
        """Begin with this log, from these index offsets on; all that was known before is forgotten."""
        capacity = max(1, self._ring_records // max(1, len(positions)))
        self.log_id = log_id
        self._partitions = {
            partition: _Partition(reaches_back_to=offset, next_offset=offset, capacity=capacity)
            for partition, offset in positions.items()
        }

    def stop(self) -> None:
        """Forget the log."""
        self.log_id = b""
        self._partitions = {}

    def apply(self, advance: Advance) -> None:
        """Take in a batch."""
        self._partitions[advance.partition].apply(advance)

    def positions(self) -> dict[int, int]:
        """Per partition, the first index offset not yet applied."""
        return {number: partition.next_offset for number, partition in self._partitions.items()}

    def documents_offsets(self) -> dict[int, int]:
        """Per partition, the first documents offset not known to be applied."""
        return {number: partition.documents_offset for number, partition in self._partitions.items()}

    def changes_since(self, index_offsets: Mapping[int, int]) -> Iterator[Change] | None:
        """Every change at or after these offsets, newest first; None when the ring does not reach back that far."""
        for number, since in index_offsets.items():
            partition = self._partitions.get(number)
            if partition is None or since < partition.reaches_back_to:
                return None
        return self._changes_since(index_offsets)

    def _changes_since(self, index_offsets: Mapping[int, int]) -> Iterator[Change]:
        for number, since in index_offsets.items():
            for change in reversed(self._partitions[number].changes):
                if change.offset < since:
                    break
                yield change

    def current_since(self, partitions: Iterable[int]) -> float:
        """When the oldest of the ends that all these partitions are known to have reached was asked for (monotonic)."""
        return min(
            (self._partitions[number].current_at if number in self._partitions else -math.inf for number in partitions),
            default=-math.inf,
        )

    def covers(self, partition: int, documents_offset: int) -> bool:
        """Whether the documents record at this offset has been applied."""
        return partition in self._partitions and self._partitions[partition].documents_offset > documents_offset
