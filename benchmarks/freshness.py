"""How long after its acknowledgement a document is searchable, at a steady rate of writes."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path

from headwater import Client, Document, Query

from benchmarks.report import Row, Size
from tests.harness.processes import running_stack

A_SECOND = 5
SENTENCE = "The lighthouse at point {n} was painted in {n} shades of white by keeper number {n}. "


def run(size: Size) -> list[Row]:
    """From acknowledgement to a search that carries the token; default models, open loop."""
    count = 150 if size == "small" else 1500
    waits: list[float] = []
    settings = {"HEADWATER_GENERATION__ENGINE": "extractive"}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stack(Path(folder), settings=settings) as processes,
        Client(processes.stack.address) as client,
    ):
        client.create_collection("bench")
        client.put("bench", [Document(f"warm{n}", text=SENTENCE.format(n=n) * 8) for n in range(20)])
        client.search("bench", "lighthouse", timeout=60)
        vector = [1.0] + [0.0] * 383

        def put_and_wait(number: int) -> None:
            token = client.put("bench", [Document(f"d{number}", text=SENTENCE.format(n=number) * 8)]).token
            acknowledged = time.perf_counter()
            client.search("bench", Query(vector=vector), k=1, after=token, timeout=60)
            waits.append((time.perf_counter() - acknowledged) * 1000)

        threads = []
        started = time.perf_counter()
        for number in range(count):
            time.sleep(max(0.0, started + number / A_SECOND - time.perf_counter()))
            threads.append(threading.Thread(target=put_and_wait, args=(number,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    waits.sort()
    return [
        Row(f"acknowledged to searchable, {A_SECOND} documents/s, p50", statistics.median(waits), "ms"),
        Row(f"acknowledged to searchable, {A_SECOND} documents/s, p99", waits[int(len(waits) * 0.99)], "ms", "<= 1000"),
    ]
