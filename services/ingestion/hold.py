"""Progress that stays honest under compaction of the documents (rule 4)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from serving.eventlog import Batch

from .records import Position


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of a batch."""

    records: Sequence[bool]
    """For each record, whether it must leave progress where it is."""
    release: bool
    """Whether progress must be raised by a record of its own, because the batch brought none."""


class Hold:
    """Decides for what is read whether it may raise the partition's progress.

    Compaction takes a record once it is old and its document has a newer one. Progress past it would claim that the
    write was applied while what replaced it was not yet. So a reader that was away for so long that what it has not
    read may be compacted holds progress until it has done all that was there when it noticed.
    """

    def __init__(self, position: Position, compaction_seconds: float) -> None:
        self._compaction_ms = int(compaction_seconds * 1000)
        # all that was stamped before this has been read, or never was
        self._read_ms = position.accepted_ms
        self._until: int | None = None
        self._holding = position.held

    def of(self, batch: Batch, now_ms: int) -> Held:
        """What of the next batch must leave progress where it is."""
        if now_ms - self._read_ms > self._compaction_ms or (self._holding and self._until is None):
            self._until = max(batch.end_offset, self._until or 0)
        if batch.next_offset >= batch.end_offset:
            self._read_ms = now_ms - int((time.monotonic() - batch.asked_at) * 1000)
        elif batch.records:
            self._read_ms = max(self._read_ms, batch.records[-1].timestamp_ms)
        if self._until is None:
            return Held([False] * len(batch.records), release=False)
        if batch.next_offset < self._until:
            self._holding = self._holding or bool(batch.records)
            return Held([True] * len(batch.records), release=False)
        release = self._holding and not batch.records
        self._until, self._holding = None, False
        # the last record speaks for all before it
        return Held([True] * (len(batch.records) - 1) + [False] * bool(batch.records), release=release)
