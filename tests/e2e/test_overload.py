"""Too many callers: refused early with a hint, never late, and who hangs up costs nothing more."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from headwater import Client, DeadlineExceeded, Document, Done, HeadwaterError, Query, ResourceExhausted

from tests.harness.processes import Processes, running_stack

SLOW = {
    "HEADWATER_EMBEDDING__ENGINE": "fake",
    "HEADWATER_GENERATION__ENGINE": "fake",
    "HEADWATER_GENERATION__FAKE__FIRST_TOKEN_DELAY_MS": "100",
    "HEADWATER_GENERATION__FAKE__TOKEN_DELAY_MS": "20",
}
DEADLINE_SECONDS = 10.0
GRACE_SECONDS = 0.5


@dataclass
class Load:
    """What callers saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    late: list[str] = field(default_factory=list)
    without_hint: int = 0


def load(address: str, callers: int, seconds: float) -> Load:
    """Each caller asks distinct questions, one after another, past the cache."""
    seen = Load()
    end = time.monotonic() + seconds

    def call(caller: int) -> None:
        number = 0
        with Client(address, retries=0) as client:
            while time.monotonic() < end:
                number += 1
                started = time.monotonic()
                outcome = "completed"
                try:
                    client.answer(
                        "load",
                        f"what is fact{caller} number{number}?",
                        timeout=DEADLINE_SECONDS,
                        cache=False,
                    )
                except ResourceExhausted as error:
                    outcome = "refused"
                    seen.without_hint += not error.retry_after
                    time.sleep(min(error.retry_after or 1, 1))
                except DeadlineExceeded:
                    outcome = "deadline"
                except HeadwaterError as error:
                    outcome = f"failed: {error.code} {error.message}"
                took = time.monotonic() - started
                if outcome != "refused" and took > DEADLINE_SECONDS + GRACE_SECONDS:
                    seen.late.append(f"{outcome} after {took:.1f} s")
                seen.outcomes[outcome] += 1

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
    return seen


def resident_bytes(processes: Processes) -> int:
    """Of all services together, with the processes that they keep (the model's, the parsers')."""
    services = [psutil.Process(processes.pid(name)) for name in processes.names]
    family = [member for service in services for member in (service, *service.children(recursive=True))]
    return sum(member.memory_info().rss for member in family)


@pytest.fixture
def stack(state: Path) -> Iterator[Processes]:
    with running_stack(state, settings=SLOW) as processes:
        with Client(processes.stack.address) as client:
            client.create_collection("load")
            client.put("load", [Document(f"d{n}", text=f"This is fact{n} of the load test.") for n in range(100)])
            client.search("load", "fact", k=1)
        yield processes


def hold(processes: Processes, seconds: float) -> tuple[float, float]:
    """Eight callers, then 64 while memory is watched; the ratios of completed answers and of memory."""
    few = load(processes.stack.address, 8, seconds)
    memory: list[int] = []
    watch = threading.Timer(min(10.0, seconds / 3), lambda: memory.append(resident_bytes(processes)))
    watch.start()
    many = load(processes.stack.address, 64, seconds)
    watch.join()
    memory.append(resident_bytes(processes))
    print(f"8 callers: {dict(few.outcomes)}; 64 callers: {dict(many.outcomes)}; memory {memory[1] / memory[0]:.3f}")
    assert not many.late
    assert set(many.outcomes) <= {"completed", "refused", "deadline"}
    assert many.without_hint == 0
    return many.outcomes["completed"] / few.outcomes["completed"], memory[1] / memory[0]


def test_64_callers_are_served_or_refused_in_time(stack: Processes) -> None:
    hold(stack, 12)  # throughput and memory are judged over a minute: see the test below


@pytest.mark.chaos
@pytest.mark.models
def test_64_callers_of_the_default_models_for_a_minute(state: Path) -> None:
    with running_stack(state) as processes:
        with Client(processes.stack.address) as client:
            client.create_collection("load")
            client.put("load", [Document(f"d{n}", text=f"This is fact{n} of the load test.") for n in range(100)])
            client.search("load", "fact", k=1)
        completed, memory = hold(processes, 60)
        assert completed >= 0.8
        assert memory <= 1.1


HANGING_UP = 5


def metric(processes: Processes, port: int, name: str) -> float:
    """Sum of the samples whose name and labels begin so, from the page at the stack's port base + `port`."""
    with urlopen(f"http://127.0.0.1:{processes.stack.port(port)}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def hang_up(client: Client, when: Callable[[], bool]) -> None:
    """Distinct questions at once; all callers hang up when it is time, or at the first answer, which is too late."""
    asking = [client.ask("load", f"what is fact number{n}?", cache=False) for n in range(HANGING_UP)]
    with ThreadPoolExecutor(HANGING_UP) as pool:
        ends = [
            pool.submit(lambda events=events: [event for event in events if isinstance(event, Done)])
            for events in asking
        ]
        until(lambda: when() or any(end.done() for end in ends), "the questions did not come that far")
        for events in asking:
            events.close()
        assert not any(end.result() for end in ends)


def test_hanging_up_while_the_model_speaks_stops_it(state: Path) -> None:
    slow = SLOW | {"HEADWATER_GENERATION__FAKE__FIRST_TOKEN_DELAY_MS": "30000"}
    with running_stack(state, settings=slow) as processes, Client(processes.stack.address) as client:
        client.create_collection("load")
        client.put("load", [Document("d", text="This is a fact of the load test.")])
        hang_up(client, lambda: metric(processes, 32, "headwater_generation_running_requests") == HANGING_UP)
        until(
            lambda: metric(processes, 32, "headwater_generation_cancelled_total") == HANGING_UP,
            "the engine went on after its callers had gone",
        )
        assert metric(processes, 32, "headwater_generation_running_requests") == 0


def test_hanging_up_before_the_embedding_drops_what_waits_and_asks_no_further_stage(state: Path) -> None:
    slow = SLOW | {"HEADWATER_EMBEDDING__FAKE_DELAY_MS": "3000"}
    with running_stack(state, settings=slow) as processes, Client(processes.stack.address) as client:
        client.create_collection("load")
        client.put("load", [Document("d", text="This is a fact of the load test.")])
        client.search("load", Query(vector=[1.0] * 64), k=1)
        waiting = 'headwater_embedding_queued_tokens{lane="questions"}'
        # One question is being embedded, and the others wait for it.
        hang_up(client, lambda: metric(processes, 12, waiting) >= 4 * (HANGING_UP - 1))
        until(
            lambda: metric(processes, 12, 'headwater_embedding_texts_total{outcome="dropped"}') == HANGING_UP - 1,
            "questions were embedded for callers that had gone",
        )
        generate = 'grpc_server_started_total{method="Generate"'
        assert metric(processes, 32, generate) == 0
