"""Batches: what many callers ask for at once is run together, questions first, until a budget of tokens is full.

A text is looked up among those in flight, cut into tokens (on a thread when it is long), queued in its lane, put into a
batch with others of its length, run (on a thread), and its vector given to all who wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from services.embedding import metrics
from services.embedding.engines import Embedder, TextKind, Tokens
from services.embedding.errors import InferenceFailed, NotFinite
from serving import deadlines, telemetry
from serving.errors import DeadlineExceeded, HeadwaterError, ResourceExhausted, Unavailable

_log = telemetry.get_logger(__name__)

# Texts are sorted by length over this many batches: enough for little padding, few enough that none waits for long.
_BATCHES_PLANNED = 4
# After this many batches of questions in a row one of documents goes, so that questions cannot stop ingestion for good.
_QUESTIONS_IN_A_ROW = 16
_WORTH_A_RUN_TOKENS = 256
_TOKENIZING_THREADS = 2
# A question is cut in less time than it takes to hand it to a thread.
_TOKENIZED_AT_ONCE_CHARACTERS = 500
_MIN_RETRY_AFTER_MS, _MAX_RETRY_AFTER_MS = 50, 10_000


class Lane(StrEnum):
    """Who goes first."""

    QUESTIONS = "questions"
    DOCUMENTS = "documents"


@dataclass(frozen=True, slots=True)
class Row:
    """One text's vector."""

    vector: NDArray[np.float32]
    """[dimensions], of length 1."""
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a call's time went, in milliseconds."""

    tokenize: float = 0.0
    queue: float = 0.0
    infer: float = 0.0


@dataclass(slots=True, eq=False)
class _Work:
    """A text in flight, and those who wait for it."""

    key: bytes
    tokens: Tokens
    done: asyncio.Future[Row]
    waiters: int = 0
    ends_at: float = 0.0
    """When the last of them stops waiting, on the monotonic clock."""
    queued_at: float = field(default_factory=time.monotonic)
    began: float = 0.0
    ended: float = 0.0

    @property
    def size(self) -> int:
        return len(self.tokens.ids)

    def join(self) -> None:
        self.waiters += 1
        self.ends_at = max(self.ends_at, time.monotonic() + deadlines.remaining())

    def fail(self, error: HeadwaterError) -> None:
        if self.waiters and not self.done.done():
            self.done.set_exception(error)
        else:
            self.done.cancel()


@dataclass(slots=True)
class _Queue:
    """A lane: what is in flight, and of that what waits, in order of arrival and in batches planned from its head."""

    in_flight: dict[bytes, _Work] = field(default_factory=dict)
    arrived: deque[_Work] = field(default_factory=deque)
    planned: deque[list[_Work]] = field(default_factory=deque)
    tokens: int = 0
    """Tokens that wait."""


class Batcher:
    """Runs an engine for many callers. Leaving it fails what still waits."""

    def __init__(self, engine: Embedder, *, max_batch_tokens: int, max_queued_tokens: int) -> None:
        self._engine = engine
        self._max_batch_tokens = max_batch_tokens
        self._max_queued_tokens = max_queued_tokens
        self._queues = {lane: _Queue() for lane in Lane}
        self._arrival = asyncio.Event()
        self._questions_in_a_row = 0
        self._tokens_per_second = 10_000.0
        self._tokenizing = ThreadPoolExecutor(_TOKENIZING_THREADS, thread_name_prefix="tokenize")
        self._inferring = ThreadPoolExecutor(1, thread_name_prefix="infer")

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._run())
        """Runs until the batcher is left; to be watched."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        for queue in self._queues.values():
            for work in queue.in_flight.values():
                work.fail(Unavailable("the embedding service is shutting down; try again"))
            queue.in_flight.clear()
        await asyncio.to_thread(self._inferring.shutdown)
        await asyncio.to_thread(self._tokenizing.shutdown)

    async def embed(self, texts: Mapping[bytes, str], kind: TextKind, lane: Lane) -> tuple[dict[bytes, Row], Timings]:
        """A row for each text, by its key: equal keys, equal texts of one kind.

        Raises ResourceExhausted before anything is queued when the lane is full. When the caller is cancelled, or past
        its deadline, what nobody else waits for is dropped.
        """
        queue = self._queues[lane]
        self._refuse_beyond_bound(lane, 0)
        began = time.monotonic()
        joined = {key: queue.in_flight[key] for key in texts if key in queue.in_flight}
        for work in joined.values():
            work.join()
        try:
            missing = {key: text for key, text in texts.items() if key not in joined}
            tokens = await self._tokenize(missing, kind)
            queued_at = time.monotonic()
            self._queue(lane, tokens, joined)
            await asyncio.wait([work.done for work in joined.values()], return_when=asyncio.FIRST_EXCEPTION)
            rows = {key: joined[key].done.result() for key in texts}
        finally:
            for work in joined.values():
                work.waiters -= 1
        first = min(work.began for work in joined.values())
        last = max(work.ended for work in joined.values())
        began_at = max(first, queued_at)  # what it joined may have begun before
        telemetry.record_span("embedding.tokenize", began, queued_at)
        telemetry.record_span("embedding.queue", queued_at, began_at)
        telemetry.record_span("embedding.infer", began_at, last)
        return rows, Timings(
            tokenize=(queued_at - began) * 1000,
            queue=(began_at - queued_at) * 1000,
            infer=(last - first) * 1000,
        )

    def queued_tokens(self, lane: Lane) -> int:
        """Tokens that wait in a lane."""
        return self._queues[lane].tokens

    async def _tokenize(self, texts: Mapping[bytes, str], kind: TextKind) -> dict[bytes, Tokens]:
        if not texts:
            return {}
        if sum(map(len, texts.values())) <= _TOKENIZED_AT_ONCE_CHARACTERS:
            return dict(zip(texts, self._engine.tokenize(list(texts.values()), kind), strict=True))
        loop = asyncio.get_running_loop()
        tokens = await loop.run_in_executor(self._tokenizing, self._engine.tokenize, list(texts.values()), kind)
        return dict(zip(texts, tokens, strict=True))

    def _queue(self, lane: Lane, tokens: Mapping[bytes, Tokens], joined: dict[bytes, _Work]) -> None:
        """Queue what is not in flight by now, and join it all."""
        queue = self._queues[lane]
        new = {key: cut for key, cut in tokens.items() if key not in queue.in_flight}
        self._refuse_beyond_bound(lane, sum(len(cut.ids) for cut in new.values()))
        loop = asyncio.get_running_loop()
        for key, cut in new.items():
            work = queue.in_flight[key] = _Work(key, cut, loop.create_future())
            queue.arrived.append(work)
            queue.tokens += work.size
        for key in tokens:
            joined[key] = queue.in_flight[key]
            joined[key].join()
        metrics.TEXTS.labels("shared").inc(len(joined) - len(new))
        metrics.QUEUED_TOKENS.labels(lane).set(queue.tokens)
        self._arrival.set()

    def _refuse_beyond_bound(self, lane: Lane, more_tokens: int) -> None:
        waiting = self._queues[lane].tokens
        if waiting + more_tokens <= self._max_queued_tokens:
            return
        metrics.TEXTS.labels("refused").inc()
        retry_after_ms = int(1000 * waiting / self._tokens_per_second)
        raise ResourceExhausted(
            f"{waiting} tokens of {lane} wait already, and {self._max_queued_tokens} may; come back later",
            reason="EMBEDDING_QUEUE_FULL",
            retry_after_ms=min(max(retry_after_ms, _MIN_RETRY_AFTER_MS), _MAX_RETRY_AFTER_MS),
        )

    async def _run(self) -> None:
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            while lane := self._next_lane():
                if batch := self._next_batch(lane):
                    await self._infer(lane, batch)

    def _next_lane(self) -> Lane | None:
        waiting = [lane for lane, queue in self._queues.items() if queue.arrived or queue.planned]
        if not waiting:
            return None
        questions_had_enough = self._questions_in_a_row >= _QUESTIONS_IN_A_ROW
        lane = waiting[-1] if questions_had_enough else waiting[0]
        self._questions_in_a_row = self._questions_in_a_row + 1 if lane is Lane.QUESTIONS else 0
        return lane

    def _next_batch(self, lane: Lane) -> list[_Work]:
        """Texts of similar length that together fill the budget; none when nobody waits for them any more."""
        queue = self._queues[lane]
        if not queue.planned:
            self._plan(queue)
        batch = queue.planned.popleft()
        queue.tokens -= sum(work.size for work in batch)
        metrics.QUEUED_TOKENS.labels(lane).set(queue.tokens)
        now = time.monotonic()
        wanted = []
        for work in batch:
            if work.waiters and now < work.ends_at:
                wanted.append(work)
                continue
            del queue.in_flight[work.key]
            work.fail(DeadlineExceeded("the call's deadline passed before its texts' turn; allow more time"))
        metrics.TEXTS.labels("dropped").inc(len(batch) - len(wanted))
        return wanted

    def _plan(self, queue: _Queue) -> None:
        """Take what came first, sort it by length, longest first, and cut it where a batch's padded size is full, or
        the rest much shorter."""
        window: list[_Work] = []
        tokens = 0
        while queue.arrived and tokens < _BATCHES_PLANNED * self._max_batch_tokens:
            window.append(queue.arrived.popleft())
            tokens += window[-1].size
        window.sort(key=lambda work: work.size, reverse=True)
        batch: list[_Work] = []
        for work in window:
            padded = batch[0].size * (len(batch) + 1) if batch else 0
            # What is half as long would be padding for the most part, once a batch is worth a run of its own.
            mostly_padding = padded >= _WORTH_A_RUN_TOKENS and 2 * work.size <= batch[0].size
            if padded > self._max_batch_tokens or mostly_padding:
                queue.planned.append(batch)
                batch = []
            batch.append(work)
        queue.planned.append(batch)

    async def _infer(self, lane: Lane, batch: list[_Work]) -> None:
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            vectors = await loop.run_in_executor(self._inferring, self._unit_vectors, batch)
        except Exception as error:
            _log.error("inference failed", texts=len(batch), exc_info=error)
            vectors = [None] * len(batch)
            failure: Callable[[], HeadwaterError] = InferenceFailed
        else:
            failure = NotFinite
        ended = time.monotonic()
        for work, vector in zip(batch, vectors, strict=True):
            work.began, work.ended = began, ended
            metrics.QUEUE_SECONDS.labels(lane).observe(began - work.queued_at)
            del self._queues[lane].in_flight[work.key]
            if vector is None:
                work.fail(failure())
            else:
                work.done.set_result(Row(vector, work.size, work.tokens.truncated))
        self._account(batch, ended - began)

    def _unit_vectors(self, batch: list[_Work]) -> list[NDArray[np.float32] | None]:
        """Each text's vector at length 1; None where the model gave none that has a direction."""
        rows = self._engine.infer([work.tokens.ids for work in batch])
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        usable = np.isfinite(lengths) & (lengths > 0)
        units = rows / np.where(usable, lengths, 1)
        return [unit if fine else None for unit, fine in zip(units, usable[:, 0], strict=True)]

    def _account(self, batch: list[_Work], seconds: float) -> None:
        tokens = sum(work.size for work in batch)
        self._tokens_per_second += 0.1 * (tokens / max(seconds, 1e-6) - self._tokens_per_second)
        metrics.TEXTS.labels("embedded").inc(len(batch))
        metrics.BATCH_TOKENS.observe(batch[0].size * len(batch))
        metrics.BATCH_SECONDS.observe(seconds)
