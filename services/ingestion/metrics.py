"""Every metric of the ingestion service."""

from prometheus_client import Counter, Gauge, Histogram

WRITES = Counter("headwater_ingestion_writes", "Writes asked of the API, by what became of them.", ["outcome"])
LAG = Gauge(
    "headwater_ingestion_lag_records",
    "Documents offsets that a partition's owner has not done yet. Partitions owned by this worker alone.",
    ["partition"],
)
TAKE_OVERS = Counter(
    "headwater_ingestion_take_overs", "Partitions taken over, by what ended the time before.", ["after"]
)
DOCUMENTS = Counter("headwater_ingestion_documents", "Documents records done, by what became of them.", ["outcome"])
REJECTIONS = Counter("headwater_ingestion_rejections", "Documents rejected, by reason.", ["reason"])
CHUNKS = Counter("headwater_ingestion_chunks", "Chunks embedded.")
TRUNCATED_CHUNKS = Counter(
    "headwater_ingestion_truncated_chunks",
    "Chunks that the model's window cut: the tokenizer setting is not the model's own.",
)
PARSE_SECONDS = Histogram(
    "headwater_ingestion_parse_seconds",
    "Time to parse and split a document, waiting for a parser included.",
    ["content_type"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300),
)
EMBED_SECONDS = Histogram(
    "headwater_ingestion_embed_seconds",
    "Time until a document's vectors are there, retries included.",
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300),
)
DEPENDENCY_RETRIES = Counter(
    "headwater_ingestion_dependency_retries", "Calls tried again because a dependency failed, by reason.", ["reason"]
)
INDEXED_SECONDS = Histogram(
    "headwater_ingestion_indexed_seconds",
    "Time from a write's acceptance to its record in the index log, by the clocks of the gateway and the worker.",
    buckets=(0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
)
APPEND_SECONDS = Histogram(
    "headwater_ingestion_append_seconds",
    "Time of one transaction on the index log.",
    buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 2, 10),
)
