"""The queue in front of the searcher."""

import asyncio
import threading
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from services.retrieval.batcher import Batcher, Query, search_together
from services.retrieval.errors import NotReady
from services.retrieval.publication import Publication, View
from services.retrieval.reader import Reader
from services.retrieval.rows import Applied, CollectionKey, Label, NewRows, Progress
from services.retrieval.searcher import Searcher
from services.retrieval.segment import Candidates
from services.retrieval.settings import RetrievalSettings
from serving.deadlines import with_deadline
from serving.errors import DeadlineExceeded, FailedPrecondition, HeadwaterError, InvalidArgument, ResourceExhausted

KEY = CollectionKey("acme", "c")
VECTORS = np.eye(4, dtype=np.float32)


class Held:
    """The real search, that waits to be let go and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._go = threading.Event()

    def __call__(self, searcher: Searcher, queries: Sequence[Query]) -> list[Candidates | HeadwaterError]:
        self.calls.append(len(queries))
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self._go.wait(60)
        return search_together(searcher, queries)

    def let_go(self) -> None:
        self._go.set()


def publication() -> Publication:
    added = NewRows(np.arange(1, 5), VECTORS, [Label(0, frozenset())] * 4, "model-1")
    searcher = Searcher(b"log", {0: Progress(0, 0)}).after(Applied(0, Progress(1, 1), {}, {KEY: added}))
    published = Publication()
    published.publish(View(searcher, cast(Reader, None)))
    return published


def query(at: int, *, rows: int = 1, dimensions: int = 4, fingerprint: str = "") -> Query:
    vectors = np.repeat(VECTORS[at : at + 1, :dimensions], rows, axis=0)
    return Query(KEY, vectors, 1, frozenset({0}), frozenset(), fingerprint)


async def begin(batcher: Batcher, one: Query) -> asyncio.Task[tuple[View, Candidates]]:
    task = asyncio.create_task(batcher.search(one))
    await asyncio.sleep(0)
    return task


async def test_searches_that_arrive_while_one_runs_run_together_next() -> None:
    held = Held()
    async with Batcher(publication(), RetrievalSettings(), held) as batcher:
        first = await begin(batcher, query(0))
        await held.begun.wait()
        others = [await begin(batcher, query(at)) for at in (1, 2, 3)]
        held.let_go()
        found = await asyncio.gather(first, *others)

    assert held.calls == [1, 3]
    assert [candidates.rows.tolist() for _, candidates in found] == [[[1]], [[2]], [[3]], [[4]]]


async def test_a_batch_is_no_larger_than_set_and_nothing_is_left_behind() -> None:
    held = Held()
    async with Batcher(publication(), RetrievalSettings(max_batch_queries=4), held) as batcher:
        first = await begin(batcher, query(0))
        await held.begun.wait()
        others = [await begin(batcher, query(at, rows=rows)) for at, rows in ((1, 2), (2, 2), (3, 1), (0, 9))]
        held.let_go()
        await asyncio.gather(first, *others)

    assert held.calls == [1, 2, 1, 1]


async def test_what_nobody_waits_for_any_more_is_not_searched() -> None:
    held = Held()
    async with Batcher(publication(), RetrievalSettings(), held) as batcher:
        first = await begin(batcher, query(0))
        await held.begun.wait()
        gone = await begin(batcher, query(1))
        with with_deadline(0):
            late = await begin(batcher, query(2))
        kept = await begin(batcher, query(3))
        gone.cancel()
        held.let_go()
        await asyncio.gather(first, kept)
        with pytest.raises(DeadlineExceeded):
            await late

    assert held.calls == [1, 1]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    held = Held()
    async with Batcher(publication(), RetrievalSettings(max_queued_queries=256), held) as batcher:
        first = await begin(batcher, query(0))
        await held.begun.wait()
        queued = await begin(batcher, query(1, rows=256))
        with pytest.raises(ResourceExhausted) as refused:
            await batcher.search(query(2))
        held.let_go()
        await asyncio.gather(first, queued)
        await batcher.search(query(2))

    assert refused.value.retry_after_ms > 0


async def test_one_bad_query_fails_alone() -> None:
    held = Held()
    async with Batcher(publication(), RetrievalSettings(), held) as batcher:
        good = await begin(batcher, query(0))
        await held.begun.wait()
        short = await begin(batcher, query(1, dimensions=3))
        foreign = await begin(batcher, query(1, fingerprint="model-2"))
        same = await begin(batcher, query(1, fingerprint="model-1"))
        held.let_go()
        await asyncio.gather(good, same)
        with pytest.raises(InvalidArgument, match="3 dimensions; this collection's have 4") as wrong:
            await short
        with pytest.raises(FailedPrecondition):
            await foreign

    assert wrong.value.field == "vectors.dimensions"


async def test_what_waits_when_the_searcher_is_withdrawn_is_told_why() -> None:
    held = Held()
    published = publication()
    async with Batcher(published, RetrievalSettings(), held) as batcher:
        first = await begin(batcher, query(0))
        await held.begun.wait()
        waiting = await begin(batcher, query(1))
        published.withdraw(NotReady("the index is made anew", reason="REBUILDING"))
        held.let_go()
        await first
        with pytest.raises(NotReady) as refused:
            await waiting

    assert refused.value.reason == "REBUILDING"
