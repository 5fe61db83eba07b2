"""Progress under compaction of the documents (rule 4)."""

from __future__ import annotations

import time

from services.ingestion.hold import Held, Hold
from services.ingestion.records import Position
from serving.eventlog import Batch, Record, Topic

DAY_MS = 86_400_000
NOW_MS = 100 * DAY_MS
LAG_SECONDS = 6 * 86_400.0


def batch(*offsets: int, end: int, next_offset: int | None = None, stamped_ms: int = NOW_MS) -> Batch:
    records = tuple(Record(offset, stamped_ms, b"key", b"value") for offset in offsets)
    after = next_offset if next_offset is not None else offsets[-1] + 1
    return Batch(Topic.DOCUMENTS, 0, records, after, end, time.monotonic())


def test_a_reader_that_was_here_lately_holds_nothing() -> None:
    hold = Hold(Position(4, accepted_ms=NOW_MS - DAY_MS), LAG_SECONDS)

    assert hold.of(batch(5, 6, end=9), NOW_MS) == Held([False, False], release=False)


def test_a_reader_that_was_away_holds_until_the_end_it_saw() -> None:
    hold = Hold(Position(4, accepted_ms=NOW_MS - 8 * DAY_MS), LAG_SECONDS)

    assert hold.of(batch(5, 6, end=8), NOW_MS) == Held([True, True], release=False)
    assert hold.of(batch(7, 8, end=12), NOW_MS) == Held([True, False], release=False)
    assert hold.of(batch(9, end=12), NOW_MS) == Held([False], release=False)


def test_one_that_reads_what_is_old_goes_on_holding() -> None:
    old_ms = NOW_MS - 7 * DAY_MS
    hold = Hold(Position(4, accepted_ms=old_ms), LAG_SECONDS)

    hold.of(batch(5, end=7, stamped_ms=old_ms), NOW_MS)

    assert hold.of(batch(6, 7, end=20, stamped_ms=NOW_MS), NOW_MS) == Held([True, True], release=False)
    assert hold.of(batch(*range(8, 20), end=20), NOW_MS) == Held([True] * 11 + [False], release=False)


def test_an_end_without_records_is_released_by_a_record_of_its_own() -> None:
    hold = Hold(Position(4, accepted_ms=0), LAG_SECONDS)

    assert hold.of(batch(5, end=7), NOW_MS) == Held([True], release=False)
    assert hold.of(batch(end=7, next_offset=7), NOW_MS) == Held([], release=True)
    assert hold.of(batch(end=7, next_offset=7), NOW_MS) == Held([], release=False)


def test_what_the_owner_before_held_is_released() -> None:
    hold = Hold(Position(6, accepted_ms=NOW_MS, held=True), LAG_SECONDS)

    assert hold.of(batch(end=7, next_offset=7), NOW_MS) == Held([], release=True)


def test_an_idle_partition_holds_nothing_back_when_a_write_comes() -> None:
    hold = Hold(Position(6, accepted_ms=NOW_MS - 30 * DAY_MS), LAG_SECONDS)

    assert hold.of(batch(end=7, next_offset=7), NOW_MS) == Held([], release=False)
    assert hold.of(batch(7, end=8), NOW_MS) == Held([False], release=False)
