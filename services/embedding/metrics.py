"""Every metric of the embedding service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

QUEUED_TOKENS = Gauge("headwater_embedding_queued_tokens", "Tokens waiting for inference.", ["lane"])
QUEUE_SECONDS = Histogram(
    "headwater_embedding_queue_seconds",
    "Time that a text waited for its inference, in seconds.",
    ["lane"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
BATCH_TOKENS = Histogram(
    "headwater_embedding_batch_tokens",
    "Tokens of a batch, padding included.",
    buckets=(64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536, 262144, 1048576),
)
BATCH_SECONDS = Histogram(
    "headwater_embedding_batch_seconds",
    "Time of one inference, in seconds.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
TEXTS = Counter(
    "headwater_embedding_texts",
    "Texts by what became of them: embedded, cached, shared (the same text was in flight), "
    "dropped (nobody waited any more), refused.",
    ["outcome"],
)
