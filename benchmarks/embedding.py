"""The embedding service over its own engine in process, and over sentence-transformers in fp32."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import grpc
from headwater.common.v1 import common_pb2
from headwater.embedding.v1 import embedding_pb2, embedding_pb2_grpc

from benchmarks.report import Row, Size, median_of_pairs
from benchmarks.texts import texts
from deploy.local.stack import Stack
from services.embedding.engines import TextKind, open_engine
from services.embedding.settings import EmbeddingSettings
from tests.harness.processes import Processes, free_port_base

CALLERS, BATCH = 4, 32


def run(size: Size) -> list[Row]:
    """Texts a second; both sides the same texts in the same batches of 32, every core theirs alone in turn."""
    batches = 8 if size == "small" else 40
    runs = 5 if size == "small" else 9
    rows: list[Row] = []
    fresh = count()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(state=Path(folder), port_base=free_port_base())
        with Processes(stack, only=("embedding",)), grpc.insecure_channel(f"127.0.0.1:{stack.port(11)}") as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            engine = open_engine(EmbeddingSettings())
            reference = open_engine(EmbeddingSettings(engine="sentence_transformers", precision="f32"))

            def prepared(words: int) -> list[list[str]]:
                # new texts every time, or the service would answer from its memory
                all_texts = sorted(texts(batches * BATCH, words, seed=next(fresh)), key=len)
                return [all_texts[start : start + BATCH] for start in range(0, len(all_texts), BATCH)]

            def service(words: int) -> float:
                def call(batch: list[str]) -> None:
                    stub.Embed(
                        embedding_pb2.EmbedRequest(
                            texts=batch,
                            kind=embedding_pb2.TEXT_KIND_DOCUMENT,
                            priority=common_pb2.PRIORITY_BATCH,
                        ),
                        timeout=120,
                    )

                work = prepared(words)
                started = time.perf_counter()
                with ThreadPoolExecutor(CALLERS) as pool:
                    list(pool.map(call, work))
                return batches * BATCH / (time.perf_counter() - started)

            def in_process(which: object, words: int) -> float:
                work = prepared(words)
                started = time.perf_counter()
                for batch in work:
                    tokens = which.tokenize(batch, TextKind.DOCUMENT)  # type: ignore[attr-defined]
                    which.infer([text.ids for text in tokens])  # type: ignore[attr-defined]
                return batches * BATCH / (time.perf_counter() - started)

            for name, words in (("long texts (about 190 tokens)", 140), ("short texts (about 12 tokens)", 9)):
                ours, raw, ratio = median_of_pairs(
                    lambda w=words: service(w), lambda w=words: in_process(engine, w), runs=runs
                )  # type: ignore[misc]
                goal = words > 100
                rows.append(Row(f"service, {name}", ours, "texts/s"))
                rows.append(Row(f"engine in process, {name}", raw, "texts/s"))
                rows.append(Row(f"service over engine, {name}", ratio, "ratio", ">= 0.9" if goal else ""))
                _, peer, ratio = median_of_pairs(
                    lambda w=words: service(w), lambda w=words: in_process(reference, w), runs=3
                )  # type: ignore[misc]
                rows.append(Row(f"sentence-transformers fp32, {name}", peer, "texts/s"))
                rows.append(
                    Row(f"service over sentence-transformers, {name}", ratio, "ratio", ">= 2.5" if goal else "")
                )
            engine.close()
            reference.close()
    return rows
