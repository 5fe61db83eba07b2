"""What goes into a batch, in what order, and what never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from services.embedding.batcher import Batcher, Lane, Row
from services.embedding.engines import TextKind
from services.embedding.engines.fake import FakeEmbedder
from services.embedding.errors import InferenceFailed, NotFinite
from services.embedding.settings import EmbeddingSettings
from serving import deadlines
from serving.errors import DeadlineExceeded, ResourceExhausted, Unavailable

BUDGET = 100


def _texts(*texts: str) -> dict[bytes, str]:
    return {text.encode(): text for text in texts}


def _words(count: int, first: str = "w") -> str:
    return " ".join(f"{first}{index}" for index in range(count))


def _count(outcome: str) -> float:
    return REGISTRY.get_sample_value("headwater_embedding_texts_total", {"outcome": outcome}) or 0.0


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody announces that a text has been queued
        await asyncio.sleep(0.001)


@asynccontextmanager
async def _batching(
    engine: Any, max_queued_tokens: int = 10_000, max_batch_tokens: int = BUDGET
) -> AsyncIterator[Batcher]:
    async with Batcher(engine, max_batch_tokens=max_batch_tokens, max_queued_tokens=max_queued_tokens) as batcher:
        try:
            yield batcher
        finally:
            engine.close()


class Callers:
    """Callers of a batcher whose engine is held, and whose texts are known to be queued before the next one comes."""

    def __init__(self, batcher: Batcher, engine: Any) -> None:
        self._batcher, self._engine = batcher, engine
        self.tasks: list[asyncio.Task[dict[bytes, Row]]] = []

    async def occupy(self) -> None:
        """Have the engine hold a first batch, so that what comes next waits."""
        self.start(_texts("occupying"), Lane.DOCUMENTS)
        await self.batch_began()

    async def batch_began(self) -> None:
        await asyncio.to_thread(self._engine.began.acquire)

    def start(self, texts: dict[bytes, str], lane: Lane) -> asyncio.Task[dict[bytes, Row]]:
        async def call() -> dict[bytes, Row]:
            return (await self._batcher.embed(texts, TextKind.DOCUMENT, lane))[0]

        self.tasks.append(asyncio.create_task(call()))
        return self.tasks[-1]

    async def queue(self, *texts: str, lane: Lane = Lane.DOCUMENTS) -> asyncio.Task[dict[bytes, Row]]:
        before = self._batcher.queued_tokens(lane)
        task = self.start(_texts(*texts), lane)
        await _until(lambda: self._batcher.queued_tokens(lane) != before or task.done())
        return task

    async def finish(self) -> None:
        self._engine.let(1000)
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_batch_closes_at_the_token_budget_padding_included(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        longer = [_words(40, f"a{index}x") for index in range(3)]
        shorter = [_words(10, f"b{index}x") for index in range(6)]
        await callers.queue(*longer, *shorter)
        await callers.finish()
    assert held.batches[1:] == [[40, 40], [40, 10], [10, 10, 10, 10, 10]]
    assert all(max(batch) * len(batch) <= BUDGET for batch in held.batches)


async def test_much_shorter_texts_go_apart_once_a_batch_is_worth_a_run(held: Any) -> None:
    async with _batching(held, max_batch_tokens=10_000) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        lengths = (200, 150, 101, 60, 50, 9)
        await callers.queue(*(_words(length, f"l{length}x") for length in lengths))
        await callers.finish()
    # 9 beside 60 and 50 would be padded as well, but three short texts cost less in one run than in two.
    assert held.batches[1:] == [[200, 150, 101], [60, 50, 9]]


async def test_texts_of_many_callers_are_sorted_by_length_together(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        for length in (5, 30, 6, 31, 7):
            await callers.queue(_words(length, f"l{length}x"))
        await callers.finish()
    assert held.batches[1:] == [[31, 30, 7], [6, 5]]


async def test_a_text_longer_than_the_budget_goes_alone(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        await callers.queue(_words(200), "short")
        await callers.finish()
    assert held.batches[1:] == [[200], [1]]


async def test_questions_go_before_documents_that_came_first(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        await callers.queue(_words(60, "d"), _words(61, "e"))
        await callers.queue(_words(3, "q"), lane=Lane.QUESTIONS)
        await callers.finish()
    assert held.batches[1:] == [[3], [61], [60]]


async def test_questions_cannot_stop_documents_for_good(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        await callers.queue(_words(7, "d"))
        for index in range(40):
            await callers.queue(_words(90, f"q{index}x"), lane=Lane.QUESTIONS)
        await callers.finish()
    assert [7] in held.batches[:20]


async def test_rows_come_back_to_the_texts_they_belong_to() -> None:
    engine = FakeEmbedder(EmbeddingSettings(engine="fake"))
    texts = _texts(*(_words(length, f"t{length}x") for length in range(1, 60)))
    async with _batching(engine) as batcher:
        together, _ = await batcher.embed(texts, TextKind.DOCUMENT, Lane.DOCUMENTS)
        for key, text in texts.items():
            alone, _ = await batcher.embed({key: text}, TextKind.DOCUMENT, Lane.QUESTIONS)
            np.testing.assert_array_equal(together[key].vector, alone[key].vector)
            assert together[key].tokens == len(text.split())


async def test_the_same_text_in_flight_is_computed_once(held: Any) -> None:
    shared = _count("shared")
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        first = await callers.queue("the same", "and another")
        second = callers.start(_texts("the same"), Lane.DOCUMENTS)
        third = callers.start(_texts("the same"), Lane.DOCUMENTS)
        await _until(lambda: _count("shared") == shared + 2)
        await callers.finish()
        rows = [(await task)[b"the same"] for task in (first, second, third)]
    assert sum(len(batch) for batch in held.batches[1:]) == 2
    assert rows[0] is rows[1] is rows[2]


async def test_work_that_every_caller_gave_up_is_dropped_before_inference(held: Any) -> None:
    dropped = _count("dropped")
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        gone = await callers.queue(_words(20, "gone"))
        await callers.queue(_words(5, "kept"))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await callers.finish()
    assert held.batches[1:] == [[5]]
    assert _count("dropped") == dropped + 1


async def test_work_that_another_caller_still_waits_for_is_not_dropped(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        first = await callers.queue("wanted by two")
        shared = _count("shared")
        second = callers.start(_texts("wanted by two"), Lane.DOCUMENTS)
        await _until(lambda: _count("shared") > shared)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await callers.finish()
        assert (await second)[b"wanted by two"].tokens == 3


async def test_a_text_that_was_given_up_can_be_asked_for_again(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        first = await callers.queue("once more")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        again = callers.start(_texts("once more"), Lane.DOCUMENTS)
        await callers.finish()
        assert (await again)[b"once more"].tokens == 2


async def test_work_past_its_deadline_is_dropped_and_says_so(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        with deadlines.with_deadline(0.05):
            late = await callers.queue(_words(20, "late"))
            await _until(lambda: deadlines.remaining() < 0)
        await callers.finish()
        with pytest.raises(DeadlineExceeded):
            await late
    assert held.batches[1:] == []


async def test_a_full_lane_refuses_before_queueing_and_the_other_lane_goes_on(held: Any) -> None:
    async with _batching(held, max_queued_tokens=50) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        await callers.queue(_words(40, "d"))
        with pytest.raises(ResourceExhausted) as caught:
            await batcher.embed(_texts(_words(11, "e")), TextKind.DOCUMENT, Lane.DOCUMENTS)
        question = await callers.queue(_words(30, "q"), lane=Lane.QUESTIONS)
        assert batcher.queued_tokens(Lane.DOCUMENTS) == 40
        await callers.finish()
        assert len(await question) == 1
    assert caught.value.retry_after_ms > 0
    assert held.batches[1:] == [[30], [40]]


async def test_leaving_the_batcher_fails_what_waits(held: Any) -> None:
    async with _batching(held) as batcher:
        callers = Callers(batcher, held)
        await callers.occupy()
        waiting = await callers.queue("too late")
    with pytest.raises(Unavailable):
        await waiting


class _Faulty(FakeEmbedder):
    """Gives no number for the word "nothing", zero for "zero", and raises for "raise"."""

    def __init__(self) -> None:
        super().__init__(EmbeddingSettings(engine="fake"))
        words = ("nothing", "zero", "raise")
        self._bad = {word: int(self.tokenize([word], TextKind.QUERY)[0].ids[0]) for word in words}

    def infer(self, batch: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        if any(self._bad["raise"] in ids for ids in batch):
            raise RuntimeError("the engine broke")
        rows = super().infer(batch)
        rows[[self._bad["nothing"] in ids for ids in batch]] = np.nan
        rows[[self._bad["zero"] in ids for ids in batch]] = 0
        return rows


@pytest.mark.parametrize("bad", ["nothing", "zero"])
async def test_a_vector_that_is_no_direction_is_never_returned_and_harms_no_neighbour(bad: str) -> None:
    async with _batching(_Faulty()) as batcher:
        with pytest.raises(NotFinite):
            await batcher.embed(_texts("fine", bad), TextKind.DOCUMENT, Lane.DOCUMENTS)
        rows, _ = await batcher.embed(_texts("fine"), TextKind.DOCUMENT, Lane.DOCUMENTS)
    assert np.linalg.norm(rows[b"fine"].vector) == pytest.approx(1)


async def test_an_engine_that_raises_fails_its_batch_and_goes_on() -> None:
    async with _batching(_Faulty()) as batcher:
        with pytest.raises(InferenceFailed):
            await batcher.embed(_texts("raise"), TextKind.DOCUMENT, Lane.DOCUMENTS)
        rows, _ = await batcher.embed(_texts("fine"), TextKind.DOCUMENT, Lane.DOCUMENTS)
    assert list(rows) == [b"fine"]
