import math

from hypothesis import given
from hypothesis import strategies as st

from services.cache.history import Advance, Change, History

LOG = b"log"


def advance(
    partition: int,
    next_offset: int,
    *changes: int,
    end_offset: int | None = None,
    documents_offset: int | None = None,
    asked_at: float = 1.0,
) -> Advance:
    """A batch up to `next_offset` with changes at these offsets."""
    return Advance(
        partition,
        [Change(partition, offset, "c", f"d{offset}") for offset in changes],
        documents_offset,
        next_offset,
        next_offset if end_offset is None else end_offset,
        asked_at,
    )


def followed(ring_records: int = 100, **positions: int) -> History:
    history = History(ring_records)
    history.start(LOG, {0: positions.get("p0", 0), 1: positions.get("p1", 0)})
    return history


def offsets(history: History, since: dict[int, int]) -> list[int] | None:
    changes = history.changes_since(since)
    return None if changes is None else [change.offset for change in changes]


def test_changes_since_are_those_at_or_after_the_offset() -> None:
    history = followed()
    history.apply(advance(0, 10, 3, 5, 8))
    assert offsets(history, {0: 5}) == [8, 5]
    assert offsets(history, {0: 9}) == []
    assert offsets(history, {0: 0, 1: 0}) == [8, 5, 3]


def test_changes_before_the_start_are_unknown() -> None:
    history = followed(p0=7)
    assert offsets(history, {0: 6}) is None
    assert offsets(history, {0: 7}) == []


def test_unknown_partition_cannot_be_checked() -> None:
    assert offsets(followed(), {2: 0}) is None
    assert offsets(History(10), {0: 0}) is None


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 8), st.integers(0, 60))
def test_ring_says_everything_or_that_it_cannot(gaps: list[int], capacity: int, since: int) -> None:
    """Against a list that forgets nothing."""
    history = followed(ring_records=2 * capacity)
    all_offsets = []
    offset = 0
    for gap in gaps:
        offset += gap
        all_offsets.append(offset)
        offset += 1
        history.apply(advance(0, offset, all_offsets[-1]))
    known = offsets(history, {0: since})
    expected = sorted((offset for offset in all_offsets if offset >= since), reverse=True)
    if known is None:
        assert len(expected) > capacity or since <= all_offsets[-capacity - 1]
    else:
        assert known == expected
        assert len(known) <= capacity


def test_current_at_the_end_only() -> None:
    history = followed()
    assert history.current_since([0, 1]) == -math.inf
    history.apply(advance(0, 5, end_offset=5, asked_at=10.0))
    assert history.current_since([0]) == 10.0
    assert history.current_since([0, 1]) == -math.inf
    history.apply(advance(1, 3, end_offset=4, asked_at=11.0))
    assert history.current_since([0, 1]) == -math.inf
    assert history.current_since([]) == -math.inf


def test_an_end_asked_for_earlier_counts_when_it_is_reached() -> None:
    """Under a steady stream the newest end is never reached, the one before always is."""
    history = followed()
    history.apply(advance(0, 5, end_offset=9, asked_at=10.0))
    history.apply(advance(0, 9, end_offset=12, asked_at=11.0))
    assert history.current_since([0]) == 10.0
    history.apply(advance(0, 12, end_offset=20, asked_at=12.0))
    assert history.current_since([0]) == 11.0


def test_documents_progress_only_rises() -> None:
    history = followed()
    history.apply(advance(0, 1, documents_offset=5))
    history.apply(advance(0, 2))
    history.apply(advance(0, 3, documents_offset=4))
    assert history.covers(0, 4)
    assert not history.covers(0, 5)
    assert not history.covers(9, 0)


def test_forgotten_log_covers_nothing() -> None:
    history = followed()
    history.apply(advance(0, 1, documents_offset=5))
    history.stop()
    assert history.log_id == b""
    assert not history.covers(0, 0)
    assert history.current_since([0]) == -math.inf
