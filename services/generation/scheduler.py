"""Stands before the engine: refuses what cannot be done in time, lets tenants take turns, ends what is over."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from serving import deadlines, telemetry
from serving.errors import DeadlineExceeded, HeadwaterError, ResourceExhausted

from . import metrics
from .engines import Generator
from .fairness import FairQueue
from .pace import Pace
from .requests import Delta, Finished, FinishReason, Model, Priority, Prompt, Request, TokenCounts, Usage
from .settings import SchedulingSettings

_MIN_RETRY_AFTER_MS = 100
_MAX_RETRY_AFTER_MS = 60_000


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer. Times in seconds."""

    reason: FinishReason
    usage: Usage
    queue_seconds: float
    """From arrival to the start in the engine."""
    first_token_seconds: float
    """From there to the first text."""
    generate_seconds: float
    """From the start in the engine to the end."""


@dataclass(slots=True, eq=False)
class _Job:
    """A request from its admission to its end."""

    prompt: Prompt
    arrived: float
    deadline: float
    cost: float
    """What it is expected to cost, in generated tokens."""
    started: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    done: float = 0.0
    """What it has cost so far."""
    queued: bool = False

    @property
    def tenant(self) -> str:
        return self.prompt.request.tenant

    @property
    def priority(self) -> Priority:
        return self.prompt.request.priority

    @property
    def reserved_tokens(self) -> int:
        """What it may come to hold in the engine."""
        return self.prompt.tokens + self.prompt.request.sampling.max_tokens


class Scheduler:
    """Belongs to one event loop. `clock` gives seconds and never goes back."""

    def __init__(
        self, engine: Generator, settings: SchedulingSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._queue: FairQueue[_Job] = FairQueue()
        self._running: set[_Job] = set()
        self._pace = Pace()

    @property
    def model(self) -> Model:
        """The model that is served."""
        return self._engine.model

    async def count_tokens(self, texts: Sequence[str]) -> TokenCounts:
        """Counts tokens as the model would."""
        return await self._engine.count_tokens(texts)

    async def generate(self, request: Request) -> AsyncGenerator[Delta | Done, None]:
        """Streams deltas, then one Done; closing it stops the engine's work.

        Raises ResourceExhausted with a hint when it could not end by the call's deadline, DeadlineExceeded when it
        did not, and what the engine raises.
        """
        arrived = self._clock()
        deadline = arrived + deadlines.remaining()
        prompt = await self._engine.prompt(request)
        job = _Job(prompt, arrived, deadline, self._cost(prompt))
        self._admit(job)
        finished = False
        try:
            async with asyncio.timeout(self._seconds_left(job)):
                await job.started
            began = self._clock()
            metrics.QUEUE_SECONDS.observe(began - arrived)
            telemetry.record_span("generation.queue", arrived, began)
            first: float | None = None
            async with aclosing(self._engine.generate(prompt)) as events:
                while True:
                    async with asyncio.timeout(self._seconds_left(job)):
                        event = await anext(events)
                    now = self._clock()
                    first = now if first is None else first
                    if isinstance(event, Delta):
                        self._progressed(job, event.tokens, now)
                        yield event
                    else:
                        finished = True
                        yield self._done(job, event, began, first)
                        return
        except TimeoutError as error:
            metrics.CANCELLED.labels("deadline").inc()
            finished = True
            raise DeadlineExceeded("the answer did not end by the call's deadline; allow more time") from error
        except HeadwaterError:
            finished = True
            raise
        finally:
            if not finished:
                metrics.CANCELLED.labels("caller" if self._clock() < deadline else "deadline").inc()
            self._leave(job)

    def _admit(self, job: _Job) -> None:
        """Queues a job, or refuses it early: a refusal now costs nobody anything."""
        if len(self._queue) >= self._settings.max_queued_requests:
            raise self._refusal("QUEUE_FULL", "the queue is full", self._start_seconds(job))
        idle = not self._running and not self._queue
        late = self._start_seconds(job) + self._run_seconds(job) - (job.deadline - self._clock())
        # An idle engine tries everything, or an estimate that is too high would never be corrected.
        if late > 0 and not idle:
            raise self._refusal("TOO_BUSY", "this could not be answered by the call's deadline", late)
        self._queue.push(job)
        job.queued = True
        self._dispatch()

    def _dispatch(self) -> None:
        """Starts what is next while there is room; drops what can no longer end in time: it would slow the rest."""
        while (job := self._queue.peek()) is not None:
            late = self._run_seconds(job) - (job.deadline - self._clock())
            if late > 0 and self._running:
                self._take(job)
                if not job.started.done():
                    job.started.set_exception(
                        self._refusal("TOO_BUSY", "its turn came too late to be answered by the call's deadline", late)
                    )
                continue
            if not self._has_room(job):
                break
            self._take(job)
            self._queue.charge(job.tenant, self._prompt_cost(job.prompt))
            self._running.add(job)
            if not job.started.done():
                job.started.set_result(None)
        self._show()

    def _take(self, job: _Job) -> None:
        self._queue.remove(job)
        job.queued = False

    def _has_room(self, job: _Job) -> bool:
        if not self._running:
            return True
        held = sum(other.reserved_tokens for other in self._running)
        return (
            len(self._running) < self._settings.max_running_requests
            and held + job.reserved_tokens <= self._engine.model.capacity_tokens
        )

    def _progressed(self, job: _Job, tokens: int, now: float) -> None:
        cost = float(tokens)
        self._queue.charge(job.tenant, cost)
        if not job.done:
            cost += self._prompt_cost(job.prompt)
        job.done += cost
        self._pace.worked(cost, now, saturated=bool(self._queue))

    def _done(self, job: _Job, event: Finished, began: float, first: float) -> Done:
        now = self._clock()
        usage = event.usage
        telemetry.record_span("generation.prefill", began, first)
        telemetry.record_span("generation.decode", first, now)
        self._pace.answered(usage.completion_tokens, job.prompt.request.sampling.max_tokens)
        metrics.TOKENS.labels("input").inc(usage.prompt_tokens)
        metrics.TOKENS.labels("output").inc(usage.completion_tokens)
        metrics.TIME_TO_FIRST_TOKEN.observe(first - job.arrived)
        if usage.completion_tokens > 1:
            metrics.TIME_PER_OUTPUT_TOKEN.observe((now - first) / (usage.completion_tokens - 1))
        metrics.REQUEST_SECONDS.observe(now - job.arrived)
        return Done(event.reason, usage, began - job.arrived, first - began, now - began)

    def _leave(self, job: _Job) -> None:
        if job in self._running:
            self._running.remove(job)
            if not self._running:
                self._pace.idle()
        elif job.queued:
            self._take(job)
        self._dispatch()

    def _refusal(self, reason: str, why: str, late_seconds: float) -> ResourceExhausted:
        metrics.REFUSED.labels(reason.lower()).inc()
        # or an engine that slows down while it refuses most would go on taking more than it can end
        self._pace.pressed()
        retry_after_ms = min(max(round(late_seconds * 1000), _MIN_RETRY_AFTER_MS), _MAX_RETRY_AFTER_MS)
        return ResourceExhausted(
            f"{why}; come back in {retry_after_ms} ms or allow more time", reason=reason, retry_after_ms=retry_after_ms
        )

    def _seconds_left(self, job: _Job) -> float | None:
        seconds = job.deadline - self._clock()
        return None if math.isinf(seconds) else seconds

    def _prompt_cost(self, prompt: Prompt) -> float:
        return prompt.tokens * self._settings.prompt_token_cost

    def _cost(self, prompt: Prompt) -> float:
        return self._prompt_cost(prompt) + self._pace.expected_tokens(prompt.request.sampling.max_tokens)

    def _start_seconds(self, job: _Job) -> float:
        """How long a new job would wait: until the first running one ends, and for what goes before it."""
        ahead = self._queue.cost_ahead(job.tenant, job.priority)
        if not ahead and self._has_room(job):
            return 0.0
        next_end = min((max(other.cost - other.done, 1.0) for other in self._running), default=0.0)
        return (next_end * len(self._running) + ahead) / self._pace.cost_per_second

    def _run_seconds(self, job: _Job) -> float:
        """How long a job would run, sharing the engine with as many as there will be."""
        together = min(len(self._running) + len(self._queue) + 1, self._settings.max_running_requests)
        return job.cost * together / self._pace.cost_per_second

    def _show(self) -> None:
        metrics.QUEUED_REQUESTS.set(len(self._queue))
        metrics.QUEUED_TOKENS.set(sum(job.reserved_tokens for job in self._queue))
        metrics.RUNNING_REQUESTS.set(len(self._running))
