"""What each service needs and does on this machine, with the default models: the points of the sizing table."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from headwater import Client, CollectionSettings, Document

from benchmarks.report import Row, Size
from benchmarks.texts import texts
from services.retrieval.settings import RetrievalSettings
from serving.eventlog import LogSettings, init_log
from tests.harness.processes import Processes, free_port_base, running_stack
from tests.harness.retrieval import ShardProcess, fill

DIMENSIONS, PARTITIONS = 384, 4
WORDS = 150
CALLERS = 8
MEGABYTE = 1e6


def run(size: Size) -> list[Row]:
    """Memory is resident memory, a service's child processes included; rates are with every core at work."""
    few, many = (50_000, 200_000) if size == "small" else (200_000, 1_000_000)
    documents, seconds = (400, 40) if size == "small" else (4000, 300)
    return [*_stack(documents, seconds), *_shards(few, many)]


def _stack(documents: int, seconds: float) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder)) as processes:
        started = [Row(f"memory once ready: {name}", _memory(processes, name), "MB") for name in processes.names]
        with Client(processes.stack.address) as client:
            client.create_collection("sizing", settings=CollectionSettings(spread=16))
            ingested = _ingest(client, documents)
            answered = _answers(client, seconds)
        log = sum(path.stat().st_size for path in (Path(folder) / "log").iterdir())
        busy = [Row(f"memory afterwards: {name}", _memory(processes, name), "MB") for name in processes.names]
    return [*started, *ingested, Row("log, a document of 150 words", log / documents / 1e3, "kB"), *answered, *busy]


def _ingest(client: Client, documents: int) -> list[Row]:
    written = [Document(f"d{number}", text=text) for number, text in enumerate(texts(documents, WORDS, seed=1))]
    began = time.perf_counter()
    for start in range(0, documents, 100):
        client.put("sizing", written[start : start + 100])
    client.search("sizing", "harbour", k=1, timeout=600)  # with the token of the last
    return [Row("documents of 150 words indexed", documents / (time.perf_counter() - began), "a second")]


def _answers(client: Client, seconds: float) -> list[Row]:
    """Whole answers by the default model, 8 callers who each ask again once answered, past the cache."""
    questions = iter(texts(10_000, 8, seed=2))
    lock = threading.Lock()
    done: list[float] = []
    ends = time.perf_counter() + seconds

    def ask() -> None:
        while time.perf_counter() < ends:
            with lock:
                question = next(questions)
            began = time.perf_counter()
            client.answer("sizing", question, cache=False, timeout=120)
            done.append(time.perf_counter() - began)

    began = time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [
        Row(
            f"questions answered by the default model, {CALLERS} callers",
            len(done) / (time.perf_counter() - began),
            "/s",
        ),
        Row(f"the same: time of one, {CALLERS} callers", float(np.median(done)), "s"),
    ]


def _shards(few: int, many: int) -> list[Row]:
    small, large = _shard(few), _shard(many)
    million = 1e6 / (many - few)
    return [
        Row("shard, a million vectors more: memory", (large[0] - small[0]) * million, "MB"),
        Row("shard, a million vectors more: disk", (large[1] - small[1]) * million, "MB"),
        Row("shard, a million vectors more: the log's disk", (large[2] - small[2]) * million, "MB"),
        Row("shard, a million vectors more: rebuilt from the log in", (large[3] - small[3]) * million, "s"),
    ]


def _shard(count: int) -> tuple[float, float, float, float]:
    """Memory, disk and the log's disk in MB, and how long it took from nothing to ready, in seconds."""
    vectors = np.random.default_rng(3).standard_normal((count, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = LogSettings(path=folder / "log" / "log.sqlite3", partitions=PARTITIONS)
        log.path.parent.mkdir()
        asyncio.run(_fill(log, vectors))
        settings = RetrievalSettings(state_dir=folder / "shard")
        with ShardProcess(settings, log, free_port_base() + 1, folder / "shard.out") as shard:
            began = time.perf_counter()
            shard.start()
            asyncio.run(_ready(shard))
            seconds = time.perf_counter() - began
            memory = psutil.Process(shard.pid).memory_info().rss / MEGABYTE
        return memory, _size(folder / "shard"), _size(log.path.parent), seconds


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / MEGABYTE


async def _fill(log: LogSettings, vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    await init_log(log)
    await fill(log, vectors)


async def _ready(shard: ShardProcess) -> None:
    async with shard.stub():
        pass


def _memory(processes: Processes, name: str) -> float:
    process = psutil.Process(processes.pid(name))
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / MEGABYTE
