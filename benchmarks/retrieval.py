"""A retrieval shard over FAISS in process: flat, 384 dimensions, k = 10."""

from __future__ import annotations

import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path

import faiss
import grpc
import numpy as np
from headwater.common.v1 import common_pb2
from headwater.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc

from benchmarks.report import Row, Size, median_of_pairs
from services.retrieval.settings import RetrievalSettings
from serving.eventlog import LogSettings, init_log
from tests.harness.processes import free_port_base
from tests.harness.retrieval import ShardProcess, Vectors, fill, search_request

COUNT, DIMENSIONS, K = 200_000, 384, 10
CHUNKS_A_DOCUMENT = 100
TEXT = "text " * 40


def run(size: Size) -> list[Row]:
    """Queries a second through gRPC, one caller, against the same index in this process; each alone in its turn."""
    rounds = {32: 4, 1: 20} if size == "small" else {32: 100, 1: 500}
    chance = np.random.default_rng(3)
    vectors = _unit(chance, COUNT)
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(vectors)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = LogSettings(path=folder / "log.sqlite3", partitions=4)
        asyncio.run(_fill(log, vectors))
        settings = RetrievalSettings(state_dir=folder / "shard")
        with ShardProcess(settings, log, free_port_base() + 1, folder / "shard.out") as shard:
            shard.start()
            asyncio.run(_ready(shard))
            with grpc.insecure_channel(shard.address) as channel:
                stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)

                def ask(queries: Vectors) -> retrieval_pb2.SearchResponse:
                    request = search_request(queries, k=K, mode=common_pb2.SEARCH_MODE_DENSE, log_partitions=4)
                    return stub.Search(request, timeout=60)

                def service(batch: int) -> float:
                    work = [_unit(chance, batch) for _ in range(rounds[batch])]
                    started = time.perf_counter()
                    for queries in work:
                        ask(queries)
                    return batch * len(work) / (time.perf_counter() - started)

                def raw(batch: int) -> float:
                    work = [_unit(chance, batch) for _ in range(rounds[batch])]
                    started = time.perf_counter()
                    for queries in work:
                        index.search(queries, K)
                    return batch * len(work) / (time.perf_counter() - started)

                check = _unit(chance, 32)
                if _rows(ask(check)) != [sorted(found) for found in index.search(check, K)[1].tolist()]:
                    raise SystemExit("the shard and FAISS disagree: this bench would compare unequal work")
                for batch, goal in ((32, ">= 0.8"), (1, "")):
                    ours, theirs, ratio = median_of_pairs(partial(service, batch), partial(raw, batch), runs=5)
                    rows.append(Row(f"shard, batches of {batch}", ours, "queries/s"))
                    rows.append(Row(f"FAISS in process, batches of {batch}", theirs, "queries/s"))
                    rows.append(Row(f"shard over FAISS, batches of {batch}", ratio, "ratio", goal))
    return rows


def _unit(chance: np.random.Generator, count: int) -> Vectors:
    made = chance.standard_normal((count, DIMENSIONS), dtype=np.float32)
    faiss.normalize_L2(made)
    return made


async def _fill(log: LogSettings, vectors: Vectors) -> None:
    await init_log(log)
    await fill(log, vectors, chunks_a_document=CHUNKS_A_DOCUMENT, text=TEXT)


async def _ready(shard: ShardProcess) -> None:
    async with shard.stub():
        pass


def _rows(response: retrieval_pb2.SearchResponse) -> list[list[int]]:
    """The vectors' numbers, a list a query."""
    return [
        sorted(int(hit.document_id[1:]) * CHUNKS_A_DOCUMENT + hit.chunk for hit in result.dense)
        for result in response.results
    ]
