"""Admission, turns, deadlines and cancellation in front of an engine whose steps the test decides."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from services.generation.requests import (
    Delta,
    Finished,
    FinishReason,
    Message,
    Model,
    Priority,
    Prompt,
    PromptStyle,
    Request,
    Role,
    Sampling,
    TokenCounts,
    Usage,
)
from services.generation.scheduler import Done, Scheduler
from services.generation.settings import SchedulingSettings
from serving.deadlines import with_deadline
from serving.errors import DeadlineExceeded, ResourceExhausted, Unavailable


class _Stepped:
    """An engine whose every token is let through by the test; a character of a prompt is a token."""

    model = Model("stepped", "stepped", 8192, 1000, PromptStyle.EVIDENCE)

    def __init__(self) -> None:
        self.started: list[str] = []
        self.closed: list[str] = []
        self.tokens: dict[str, asyncio.Queue[int | Exception]] = {}

    async def prompt(self, request: Request) -> Prompt:
        return Prompt(request, len(request.messages[0].text))

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Delta | Finished, None]:
        name = prompt.request.messages[0].text
        self.started.append(name)
        steps = self.tokens.setdefault(name, asyncio.Queue())
        try:
            for _ in range(prompt.request.sampling.max_tokens):
                step = await steps.get()
                if isinstance(step, Exception):
                    raise step
                yield Delta("x", step)
            yield Finished(FinishReason.LENGTH, Usage(prompt.tokens, prompt.request.sampling.max_tokens))
        finally:
            self.closed.append(name)

    async def count_tokens(self, texts: Sequence[str]) -> TokenCounts:
        return TokenCounts(tuple(map(len, texts)), estimated=False)

    async def failure(self) -> None:
        await asyncio.Event().wait()

    def step(self, name: str, tokens: int = 1) -> None:
        self.tokens.setdefault(name, asyncio.Queue()).put_nowait(tokens)


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class _Stage:
    def __init__(self, **settings: int) -> None:
        self.engine = _Stepped()
        self.clock = _Clock()
        self.scheduler = Scheduler(self.engine, SchedulingSettings(**settings), self.clock)
        self.tasks: list[asyncio.Task[list[Delta | Done]]] = []

    async def ask(
        self,
        name: str,
        tenant: str = "t",
        max_tokens: int = 2,
        priority: Priority = Priority.INTERACTIVE,
        seconds: float = 600.0,
    ) -> asyncio.Task[list[Delta | Done]]:
        request = Request(tenant, (Message(Role.USER, name),), Sampling(max_tokens=max_tokens), priority)

        async def run() -> list[Delta | Done]:
            with with_deadline(seconds):
                async with aclosing(self.scheduler.generate(request)) as events:
                    return [event async for event in events]

        task = asyncio.create_task(run())
        self.tasks.append(task)
        await _settle()
        return task

    async def finish(self, name: str, tokens: int = 2) -> None:
        for _ in range(tokens):
            self.engine.step(name)
        await _settle()

    async def learn(self, cost_per_second: float) -> None:
        """Let the scheduler see a saturated engine of this speed."""
        first = await self.ask("first", max_tokens=64)
        second = await self.ask("second", max_tokens=64)
        for name in ("first", "second"):
            for _ in range(64):
                self.clock.now += 1 / cost_per_second
                self.engine.step(name)
                await _settle()
        await asyncio.gather(first, second)


async def _settle() -> None:
    """Let everything that can run run: nothing here waits for real time."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_no_more_run_at_once_than_allowed() -> None:
    stage = _Stage(max_running_requests=2)
    tasks = [await stage.ask(name) for name in "abc"]
    assert stage.engine.started == ["a", "b"]
    await stage.finish("b")
    assert stage.engine.started == ["a", "b", "c"]
    await stage.finish("a")
    await stage.finish("c")
    for task in tasks:
        assert isinstance((await task)[-1], Done)


async def test_tenants_take_turns() -> None:
    stage = _Stage(max_running_requests=1)
    for name, tenant in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")]:
        await stage.ask(name, tenant)
    for name in ("a1", "b1", "a2", "a3"):
        await stage.finish(name)
    await asyncio.gather(*stage.tasks)
    assert stage.engine.started == ["a1", "b1", "a2", "a3"]


async def test_interactive_goes_before_batch() -> None:
    stage = _Stage(max_running_requests=1)
    await stage.ask("running")
    await stage.ask("batch", priority=Priority.BATCH)
    await stage.ask("interactive")
    for name in ("running", "interactive", "batch"):
        await stage.finish(name)
    assert stage.engine.started == ["running", "interactive", "batch"]


async def test_what_would_not_fit_in_the_engines_cache_waits() -> None:
    stage = _Stage(max_running_requests=8)
    await stage.ask("a" * 500, max_tokens=100)
    await stage.ask("b" * 500, max_tokens=100)
    assert stage.engine.started == ["a" * 500]
    await stage.finish("a" * 500, tokens=100)
    assert stage.engine.started == ["a" * 500, "b" * 500]
    await stage.finish("b" * 500, tokens=100)
    await asyncio.gather(*stage.tasks)


async def test_a_full_queue_refuses_with_a_hint() -> None:
    stage = _Stage(max_running_requests=1, max_queued_requests=1)
    for name in "ab":
        await stage.ask(name)
    refused = await stage.ask("c")
    with pytest.raises(ResourceExhausted) as raised:
        await refused
    assert raised.value.reason == "QUEUE_FULL"
    assert raised.value.retry_after_ms > 0
    for name in "ab":
        await stage.finish(name)


async def test_what_cannot_end_in_time_is_refused_before_it_queues() -> None:
    stage = _Stage(max_running_requests=1)
    await stage.learn(cost_per_second=10.0)
    running = await stage.ask("running", max_tokens=60)
    refused = await stage.ask("late", max_tokens=60, seconds=8.0)
    with pytest.raises(ResourceExhausted) as raised:
        await refused
    assert raised.value.reason == "TOO_BUSY"
    assert raised.value.retry_after_ms > 1000
    assert stage.engine.started[-1] == "running"
    patient = await stage.ask("patient", max_tokens=60, seconds=60.0)
    await stage.finish("running", 60)
    await stage.finish("patient", 60)
    await asyncio.gather(running, patient)


async def test_an_idle_engine_tries_even_what_looks_hopeless() -> None:
    stage = _Stage(max_running_requests=1)
    await stage.learn(cost_per_second=10.0)
    task = await stage.ask("hopeless", max_tokens=60, seconds=1.0)
    await stage.finish("hopeless", 60)
    assert isinstance((await task)[-1], Done)


async def test_nothing_is_started_that_cannot_end_by_its_deadline() -> None:
    stage = _Stage(max_running_requests=2)
    await stage.learn(cost_per_second=100.0)
    await stage.ask("one", max_tokens=60)
    await stage.ask("two", max_tokens=60)
    waiting = await stage.ask("waiting", max_tokens=60, seconds=10.0)
    stage.clock.now += 9.9
    await stage.finish("one", 60)
    with pytest.raises(ResourceExhausted) as raised:
        await waiting
    assert raised.value.reason == "TOO_BUSY"
    assert "waiting" not in stage.engine.started
    await stage.finish("two", 60)


async def test_a_running_request_is_ended_at_its_deadline() -> None:
    stage = _Stage()
    task = await stage.ask("slow", seconds=0.05)
    with pytest.raises(DeadlineExceeded):
        await task
    assert stage.engine.closed == ["slow"]


async def test_a_waiting_request_is_dropped_at_its_deadline() -> None:
    stage = _Stage(max_running_requests=1)
    await stage.ask("running")
    with pytest.raises(DeadlineExceeded):
        await (await stage.ask("waiting", seconds=0.05))
    await stage.finish("running")
    assert stage.engine.started == ["running"]


async def test_a_cancelled_waiter_is_never_started() -> None:
    stage = _Stage(max_running_requests=1)
    await stage.ask("running")
    waiting = await stage.ask("waiting")
    waiting.cancel()
    await _settle()
    await stage.finish("running")
    assert stage.engine.started == ["running"]


async def test_a_cancelled_request_frees_its_place() -> None:
    stage = _Stage(max_running_requests=1)
    running = await stage.ask("running")
    await stage.ask("next")
    running.cancel()
    await _settle()
    assert stage.engine.closed == ["running"]
    assert stage.engine.started == ["running", "next"]
    await stage.finish("next")


async def test_an_engines_failure_reaches_the_caller_and_frees_the_place() -> None:
    stage = _Stage(max_running_requests=1)
    running = await stage.ask("running")
    await stage.ask("next")
    stage.engine.tokens["running"].put_nowait(Unavailable("gone"))
    with pytest.raises(Unavailable):
        await running
    await _settle()
    assert stage.engine.started == ["running", "next"]
    await stage.finish("next")
