"""What Headwater itself adds to a question: `Ask` on fake engines of known delay, and an exact hit of the cache."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path

from headwater import CacheOutcome, Client, Document, Sampling

from benchmarks import bare_calls
from benchmarks.report import Row, Size
from benchmarks.texts import WORDS
from tests.harness.processes import running_stack

EMBED_MS, FIRST_TOKEN_MS, TOKEN_MS = 10, 50, 5
SAMPLING = Sampling(max_tokens=16)
WARM_UP = 30


def run(size: Size) -> list[Row]:
    """Medians over sequential questions of one client: each asked once, then all of them again."""
    count = 200 if size == "small" else 2000
    settings = {
        "HEADWATER_EMBEDDING__ENGINE": "fake",
        "HEADWATER_EMBEDDING__FAKE_DELAY_MS": str(EMBED_MS),
        "HEADWATER_GENERATION__ENGINE": "fake",
        "HEADWATER_GENERATION__FAKE__FIRST_TOKEN_DELAY_MS": str(FIRST_TOKEN_MS),
        "HEADWATER_GENERATION__FAKE__TOKEN_DELAY_MS": str(TOKEN_MS),
    }
    chance = random.Random(5)
    # The fake model says the question again: of the documents' words, or its answer would not be supported.
    questions = [" ".join(chance.sample(WORDS, 8)) for _ in range(WARM_UP + count)]
    with (
        tempfile.TemporaryDirectory() as folder,
        running_stack(Path(folder), settings=settings) as processes,
        Client(processes.stack.address) as client,
    ):
        client.create_collection("bench")
        client.put("bench", [Document(f"d{n}", text=" ".join(WORDS) + f" {n}.") for n in range(4)])
        walls, overheads, hits = [], [], []
        for question in questions:
            started = time.perf_counter()
            answer = client.answer("bench", question, sampling=SAMPLING)
            walls.append((time.perf_counter() - started) * 1000)
            if not answer.usage.completion_tokens:
                raise SystemExit("a question was answered without the model: this bench would measure less")
            # The documents' sentences are the same each time, so that the question alone is embedded.
            delays = EMBED_MS + FIRST_TOKEN_MS + TOKEN_MS * (answer.usage.completion_tokens - 1)
            overheads.append(walls[-1] - delays)
        cached_walls = []
        for question in questions:
            started = time.perf_counter()
            answer = client.answer("bench", question, sampling=SAMPLING)
            cached_walls.append((time.perf_counter() - started) * 1000)
            hits.append(answer.cache is CacheOutcome.HIT)
    generate_ms = statistics.median(walls[WARM_UP:]) - statistics.median(overheads[WARM_UP:]) - EMBED_MS
    bare = bare_calls.median_ms(EMBED_MS, generate_ms, count)
    return [
        Row("Ask, wall time minus engine delays, median", statistics.median(overheads[WARM_UP:]), "ms", "<= 8"),
        Row("the same calls on bare gRPC with nothing done in them, median", bare, "ms"),
        Row("Ask, wall time, median", statistics.median(walls[WARM_UP:]), "ms"),
        Row("exact cache hit through the gateway, median", statistics.median(cached_walls[WARM_UP:]), "ms", "<= 5"),
        Row("share of second questions answered from the cache", sum(hits) / len(hits), "of 1", ">= 0.99"),
    ]
