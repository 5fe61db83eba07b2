"""Sends requests, on an event loop in a thread of its own.

Locust runs on gevent, and gRPC does not: in a patched process its streams never end, and after
grpc.experimental.gevent.init_gevent() the answers are right but their times are not (at 32 streams at once, the first
token seemed to take 201 ms instead of 111, and the whole answer 678 ms instead of 323: see loadtests.check_latency).
So gevent patches nothing here (LOCUST_SKIP_MONKEY_PATCH), the SDK's asynchronous client runs on an event loop in a real
thread, which the check found true to plain threads, and Locust is told of outcomes through a queue.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from contextlib import AsyncExitStack
from random import Random

from headwater import AsyncClient

from loadtests.calls import Outcome, Request, perform
from loadtests.options import Options
from loadtests.shapes import arrival_times
from loadtests.workload import Workload

SWITCH_SECONDS = 0.0005
"""Python's threads take turns this often, so that Locust's bookkeeping holds up no time that is taken here."""
DRAIN_SECONDS = 2.0
"""What a call gets beyond its deadline before it is abandoned."""
BURST = 20
"""Requests that are late are sent this many at a time, before answers are looked at again."""


class Generator:
    """One run. `outcomes` is to be emptied by another thread; every request that was due has one outcome in it."""

    def __init__(self, options: Options, workload: Workload) -> None:
        self._options = options
        self._workload = workload
        self._clients: dict[str, AsyncClient] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._callers: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="load-generator", daemon=True)
        self.outcomes: deque[Outcome] = deque()
        self.most_in_flight = 0
        self.seconds = 0.0
        """How long requests arrived."""
        self.elapsed_seconds = 0.0
        """Until the last one's end."""
        self.error: Exception | None = None
        """What ended the run before its time."""

    def start(self) -> None:
        """Begin."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether outcomes may still come."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """No more requests; those in flight are abandoned. It has ended once `running` is false. From any thread."""
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stopping.set)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # told by whoever empties the outcomes: this thread has nobody to raise it to
            self.error = error

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as opened:
            for tenant in self._workload.tenants:
                client = AsyncClient(
                    self._options.address,
                    api_key=tenant.key,
                    insecure=True,  # another machine was allowed by hand, and then its keys may go there, too
                    retries=0,  # each refusal and each failure is to be seen
                )
                self._clients[tenant.name] = await opened.enter_async_context(client)
                await client.status(timeout=self._options.deadline_seconds)  # connected before the clock starts
            began = time.perf_counter()
            await (self._open_loop(began) if self._options.loop == "open" else self._closed_loop(began))
            self.seconds = min(self._options.seconds, time.perf_counter() - began)
            await self._drain()
            self.elapsed_seconds = time.perf_counter() - began

    # -- arrivals ----------------------------------------------------------------------------------------------------

    async def _open_loop(self, began: float) -> None:
        options, sent = self._options, 0
        for number, (offset, phase) in enumerate(
            arrival_times(options.phases, options.arrivals, Random(f"arrivals {options.seed}"))
        ):
            wait = began + offset - time.perf_counter()
            if wait > 0 or number % BURST == 0:
                await self._pause(wait)
            if self._is_stopping() or sent == options.max_requests:
                return
            request = self._workload.draw(phase, began + offset)
            if len(self._in_flight) >= options.max_in_flight:
                self.outcomes.append(Outcome(request.operation, phase, "dropped", request.due))
                continue
            sent += 1
            self._send(request)
        await self._pause(began + options.seconds - time.perf_counter())

    async def _closed_loop(self, began: float) -> None:
        options = self._options
        ends: list[float] = []
        for phase in options.phases:
            ends.append((ends[-1] if ends else began) + phase.seconds)
        sent = 0

        async def caller() -> None:
            nonlocal sent
            while not self._is_stopping() and (now := time.perf_counter()) < ends[-1] and sent < options.max_requests:
                sent += 1
                phase = next(index for index, end in enumerate(ends) if now < end)
                await asyncio.wait([self._send(self._workload.draw(phase, now))])

        callers = {asyncio.create_task(caller()) for _ in range(options.callers)}
        self._callers = callers  # they end with what they sent last, which is drained
        while callers and not self._is_stopping() and time.perf_counter() < ends[-1]:
            _, callers = await asyncio.wait(callers, timeout=0.1)

    def _send(self, request: Request) -> asyncio.Task[None]:
        task = asyncio.create_task(self._perform(request, self._clients[request.tenant.name]))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        self.most_in_flight = max(self.most_in_flight, len(self._in_flight))
        return task

    async def _perform(self, request: Request, client: AsyncClient) -> None:
        sent = time.perf_counter()
        try:
            outcome = await perform(client, request, self._options)
        except asyncio.CancelledError:
            now = time.perf_counter()
            outcome = Outcome(request.operation, request.phase, "abandoned", request.due, sent=sent, ended=now)
        except Exception as error:  # a fault of ours or of the SDK's: counted like any failure, and named
            now, name = time.perf_counter(), f"{type(error).__name__}: {error}"
            outcome = Outcome(request.operation, request.phase, "failed", request.due, sent=sent, ended=now, error=name)
        self.outcomes.append(outcome)

    async def _drain(self) -> None:
        end = time.perf_counter() + self._options.deadline_seconds + DRAIN_SECONDS
        while self._in_flight and not self._is_stopping() and time.perf_counter() < end:
            await asyncio.wait(self._in_flight, timeout=0.1)
        await asyncio.sleep(0)  # a task that never ran would leave no outcome when it is cancelled
        while self._in_flight:
            for task in self._in_flight:
                task.cancel()
            await asyncio.wait(self._in_flight)
        for caller in self._callers:
            await caller

    async def _pause(self, seconds: float) -> None:
        """Sleep, less when the run is stopped meanwhile."""
        # Waiting for the event instead would cost every request a task.
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0.2 and not self._is_stopping():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        await asyncio.sleep(0 if self._is_stopping() else max(0.0, left))

    def _is_stopping(self) -> bool:
        return self._stopping is not None and self._stopping.is_set()
