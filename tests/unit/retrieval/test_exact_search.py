"""Whatever was put, replaced and deleted, in however many segments: the hits of brute force over what is visible."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retrieval.batcher import Query, search_together
from services.retrieval.rows import Applied, CollectionKey, Label, NewRows, Progress
from services.retrieval.searcher import Searcher
from services.retrieval.segment import Candidates, Segment, merged

KEY = CollectionKey("acme", "c")
DIMENSIONS = 8
GROUPS = st.frozensets(st.sampled_from(["hr", "law", "it"]), max_size=2)


@dataclass
class Row:
    number: int
    vector: np.ndarray
    label: Label


@dataclass
class Step:
    """So many rows added, and which of those there are removed (as shares of 1)."""

    added: int
    removed: list[float]
    labels: list[Label]


LABELS = st.builds(Label, st.integers(0, 2), GROUPS)
STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 60),
        st.lists(st.floats(0, 0.999), max_size=30),
        st.lists(LABELS, min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=12,
)


def play(steps: list[Step], seed: int) -> tuple[Searcher, list[Row]]:
    generator = np.random.default_rng(seed)
    searcher = Searcher(b"log", {0: Progress(0, 0)})
    live: dict[int, Row] = {}
    following = 1
    for step in steps:
        removed = sorted({list(live)[int(share * len(live))] for share in step.removed if live})
        for number in removed:
            del live[number]
        vectors = generator.standard_normal((step.added, DIMENSIONS)).astype(np.float32)
        rows = [Row(following + at, vectors[at], step.labels[at % len(step.labels)]) for at in range(step.added)]
        following += step.added
        live.update((row.number, row) for row in rows)
        added = NewRows(np.array([row.number for row in rows]), vectors, [row.label for row in rows], "model")
        applied = Applied(
            0,
            Progress(0, 0),
            {KEY: np.array(removed, np.int64)} if removed else {},
            {KEY: added} if rows else {},
        )
        searcher = searcher.after(applied).tidied([KEY])
    return searcher, list(live.values())


def query(vectors: np.ndarray, k: int, partitions: frozenset[int], groups: frozenset[str]) -> Query:
    return Query(KEY, vectors, k, partitions, groups)


def assert_same(found: object, vectors: np.ndarray, k: int, visible: list[Row]) -> None:
    assert isinstance(found, Candidates)
    expected = min(k, len(visible))
    assert found.rows.shape == (len(vectors), expected)
    by_number = {row.number: row for row in visible}
    for scores, numbers, vector in zip(found.scores, found.rows.tolist(), vectors, strict=True):
        assert len(set(numbers)) == expected
        best = sorted((float(vector @ row.vector) for row in visible), reverse=True)[:expected]
        np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-5)
        # only what is visible, and each with its own score
        np.testing.assert_allclose(
            scores, [vector @ by_number[number].vector for number in numbers], rtol=1e-4, atol=1e-5
        )


@settings(max_examples=150, deadline=None)
@given(
    STEPS,
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.frozensets(st.integers(0, 2), min_size=1),
    GROUPS,
    st.integers(1, 24),
)
def test_hits_are_those_of_brute_force_over_the_visible_rows(
    steps: list[Step], seed: int, k: int, partitions: frozenset[int], groups: frozenset[str], queries: int
) -> None:
    searcher, rows = play(steps, seed)
    vectors = np.random.default_rng(seed + 1).standard_normal((queries, DIMENSIONS)).astype(np.float32)

    (found,) = search_together(searcher, [query(vectors, k, partitions, groups)])

    visible = [
        row
        for row in rows
        if row.label.partition in partitions and (not row.label.access_groups or row.label.access_groups & groups)
    ]
    assert_same(found, vectors, k, visible)


def test_the_nearest_being_all_hidden_does_not_lose_the_visible_ones() -> None:
    # the hidden rows are exactly the nearest, so that no surplus fetched by their share of all rows is enough
    count = 4000
    vectors = np.zeros((count, DIMENSIONS), np.float32)
    vectors[:, 0] = np.arange(count, 0, -1)
    labels = np.zeros(count, np.uint32)
    labels[: count // 2] = 1
    segment = Segment(np.arange(count), vectors, labels)

    found = segment.search(np.eye(1, DIMENSIONS, dtype=np.float32), 10, np.array([True, False]))

    assert found.rows.tolist() == [list(range(count // 2, count // 2 + 10))]


@settings(max_examples=50, deadline=None)
@given(STEPS, st.integers(0, 2**32 - 1))
def test_segments_stay_few_and_mostly_alive(steps: list[Step], seed: int) -> None:
    searcher, rows = play(steps, seed)

    collection = searcher.collections.get(KEY)

    assert (collection is None) == (not rows)
    if collection is not None:
        sizes = [segment.live for segment in collection.segments]
        assert sum(sizes) == len(rows)
        assert all(older >= 4 * newer for older, newer in pairwise(sizes))
        assert all(segment.live >= 0.75 * len(segment.rows) for segment in collection.segments)


def test_a_searcher_is_not_changed_by_what_is_applied_after_it() -> None:
    before, rows = play([Step(50, [], [Label(0, frozenset())])], seed=1)
    vectors = rows[7].vector[None]

    after = before.after(Applied(0, Progress(9, 9), {KEY: np.array([rows[7].number])}, {})).tidied([KEY])

    everything = query(vectors, 50, frozenset({0}), frozenset())
    assert_same(search_together(before, [everything])[0], vectors, 50, rows)
    assert_same(search_together(after, [everything])[0], vectors, 50, rows[:7] + rows[8:])
    assert (before.progress[0], after.progress[0]) == (Progress(0, 0), Progress(9, 9))


def test_callers_searched_together_get_each_their_own() -> None:
    public, secret = Label(0, frozenset()), Label(0, frozenset({"hr"}))
    searcher, rows = play([Step(60, [], [public, secret])], seed=2)
    seen_by = {
        frozenset[str](): [row for row in rows if row.label == public],
        frozenset({"hr"}): rows,
    }
    vectors = np.stack([row.vector for row in rows[:6]])
    asked = [(groups, k, vectors[at : at + 2]) for at, groups in enumerate(seen_by) for k in (1, 5)]

    found = search_together(searcher, [query(v, k, frozenset({0}), groups) for groups, k, v in asked])

    for one, (groups, k, v) in zip(found, asked, strict=True):
        assert_same(one, v, k, seen_by[groups])


def test_merging_keeps_the_live_rows_in_order() -> None:
    first = Segment(np.array([1, 2, 5]), np.eye(3, DIMENSIONS, dtype=np.float32), np.zeros(3, np.uint32))
    second = Segment(np.array([7, 9]), np.ones((2, DIMENSIONS), np.float32), np.ones(2, np.uint32))

    whole = merged([first.without(np.array([2, 9])), second.without(np.array([2, 9]))])

    assert whole.rows.tolist() == [1, 5, 7]
    assert whole.labels.tolist() == [0, 0, 1]
    assert whole.vectors.tolist() == [*first.vectors[[0, 2]].tolist(), [1.0] * DIMENSIONS]
