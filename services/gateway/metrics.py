"""Every metric of the gateway. Calls, their times and statuses are counted by the server itself."""

from prometheus_client import Counter, Gauge, Histogram

ASKS = Counter("headwater_gateway_asks", "Questions answered, by where the answer came from.", ["cache"])
ASKS_FAILED = Counter(
    "headwater_gateway_asks_failed",
    "Questions whose stream ended with an error, by its code; gRPC's own status is OK.",
    ["code"],
)
ASKS_IN_PROGRESS = Gauge("headwater_gateway_asks_in_progress", "Questions being worked out.")
REFUSED = Counter("headwater_gateway_refused", "Calls refused, by the quota that was used up.", ["quota"])
DEGRADATIONS = Counter(
    "headwater_gateway_degradations", "Answers and searches that are less than they should be, by how.", ["kind"]
)
STAGE_SECONDS = Histogram(
    "headwater_gateway_stage_seconds",
    "Time of a question's stages, in seconds.",
    ["stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
SHARD_FAILURES = Counter("headwater_gateway_shard_failures", "Shards that did not answer in time, by shard.", ["shard"])
WRITES = Counter("headwater_gateway_writes", "Writes, by what became of them.", ["outcome"])
