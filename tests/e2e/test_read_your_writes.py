"""A read that carries a write's token sees the write, or says that it cannot: never the version before."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import pytest
from headwater import Client, DeadlineExceeded, Document

from tests.harness.processes import Processes

pytestmark = pytest.mark.anywhere

WRITERS = 40
ROUNDS = 25


@contextmanager
def delayed_worker(processes: Processes | None) -> Iterator[None]:
    """Freezes the ingestion worker, where it is ours, again and again for up to two seconds."""
    if processes is None:
        yield
        return
    stop = threading.Event()

    def freeze() -> None:
        chance = random.Random(5)
        while not stop.is_set():
            processes.signal("ingestion-worker", signal.SIGSTOP)
            time.sleep(chance.uniform(0, 2))
            processes.signal("ingestion-worker", signal.SIGCONT)
            time.sleep(0.3)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_search_with_a_token_never_sees_the_version_before(own_stack: Processes | None, address: str) -> None:
    collection = f"ryw-{uuid4().hex[:8]}"
    with Client(address) as client:
        client.create_collection(collection)
    outcomes: Counter[str] = Counter()

    def replace_and_search(writer: int) -> None:
        chance = random.Random(writer)
        with Client(address) as client:
            for version in range(1, ROUNDS + 1):
                name = f"subject{writer}"
                token = client.put(collection, [Document(name, text=f"{name} is in version{version}.")]).token
                try:
                    hits = client.search(collection, name, k=WRITERS, after=token, timeout=chance.choice([0.5, 10, 10]))
                except DeadlineExceeded:
                    outcomes["deadline"] += 1
                    continue
                assert [hit.text for hit in hits if hit.document_id == name] == [f"{name} is in version{version}."]
                outcomes["new"] += 1

    with delayed_worker(own_stack), ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(replace_and_search, range(WRITERS)))
    assert sum(outcomes.values()) == WRITERS * ROUNDS
    assert outcomes["new"] > WRITERS * ROUNDS / 2, outcomes
    assert outcomes["deadline"] > 0 or own_stack is None, "the worker was never late: the test shows nothing"


def test_a_cached_answer_never_outlives_the_document_it_rests_on(address: str) -> None:
    """Askers without a token keep storing the answer while its document is replaced under them."""
    collection = f"ryw-{uuid4().hex[:8]}"
    with Client(address) as client:
        client.create_collection(collection)
        client.put(collection, [Document("leave", text="Paid leave is version0 days.")])
    question = "how many days is paid leave?"
    stop = threading.Event()
    outcomes: Counter[str] = Counter()

    def keep_asking() -> None:
        with Client(address) as client:
            while not stop.is_set():
                outcomes[client.answer(collection, question, after=None).cache.value] += 1

    askers = [threading.Thread(target=keep_asking) for _ in range(3)]
    with Client(address) as client:
        for asker in askers:
            asker.start()
        try:
            for version in range(1, 101):
                token = client.put(collection, [Document("leave", text=f"Paid leave is version{version} days.")]).token
                answer = client.answer(collection, question, after=token)
                assert f"version{version} " in answer.text, (version, answer.text, answer.cache)
                if version % 10 == 0:
                    time.sleep(0.05)  # let an answer be stored and served for a while
        finally:
            stop.set()
            for asker in askers:
                asker.join()
    assert outcomes["hit"] > 0, f"nothing came from the cache, so the test shows nothing: {outcomes}"
