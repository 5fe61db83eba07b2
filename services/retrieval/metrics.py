"""Every metric of the retrieval service. None carries a tenant or a collection."""

from prometheus_client import Counter, Gauge, Histogram

READY = Gauge("headwater_retrieval_ready", "1 while the shard answers, 0 while it catches up or is rebuilt")
LAG = Gauge("headwater_retrieval_lag_records", "Offsets of the index log not yet applied", ["partition"])
APPLIED = Counter("headwater_retrieval_records_applied", "Records of the index log that were applied")
APPLY_FAILURES = Counter("headwater_retrieval_apply_failures", "Batches that could not be written and are tried again")
REBUILDS = Counter("headwater_retrieval_rebuilds", "Times the index was made anew from the log", ["reason"])
SEARCHES = Counter("headwater_retrieval_queries", "Queries searched")
SEARCH_SECONDS = Histogram("headwater_retrieval_search_seconds", "Time of one search of queries gathered together")
BATCH_QUERIES = Histogram(
    "headwater_retrieval_batch_queries", "Queries searched together", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
QUEUED = Gauge("headwater_retrieval_queued_queries", "Queries that wait for the search before theirs")
SEARCHED_AGAIN = Counter(
    "headwater_retrieval_searched_again", "Searches repeated because a chunk was replaced before its text was read"
)
