"""Every metric of the retrieval service. None carries a tenant or a collection."""

import math
import shutil
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

READY = Gauge("headwater_retrieval_ready", "1 while the shard answers, 0 while it catches up or is rebuilt")
LAG = Gauge("headwater_retrieval_lag_records", "Offsets of the index log not yet applied", ["partition"])
APPLIED = Counter("headwater_retrieval_records_applied", "Records of the index log that were applied")
APPLY_FAILURES = Counter("headwater_retrieval_apply_failures", "Batches that could not be written and are tried again")
REBUILDS = Counter("headwater_retrieval_rebuilds", "Times the index was made anew from the log", ["reason"])
for _reason in ("log_replaced", "damaged"):
    REBUILDS.labels(_reason)  # there from the start, or the first rebuild would not count as an increase
SEARCHES = Counter("headwater_retrieval_queries", "Queries searched")
SEARCH_SECONDS = Histogram(
    "headwater_retrieval_search_seconds", "Time of one search of queries gathered together", buckets=_SECONDS
)
QUEUE_SECONDS = Histogram(
    "headwater_retrieval_queue_seconds", "Time that a call's queries waited for their search", buckets=_SECONDS
)
TOKEN_WAIT_SECONDS = Histogram(
    "headwater_retrieval_token_wait_seconds", "Time until a search's write token was applied", buckets=_SECONDS
)
BATCH_QUERIES = Histogram(
    "headwater_retrieval_batch_queries", "Queries searched together", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
QUEUED = Gauge("headwater_retrieval_queued_queries", "Queries that wait for the search before theirs")
SEARCHED_AGAIN = Counter(
    "headwater_retrieval_searched_again", "Searches repeated because a chunk was replaced before its text was read"
)
STATE_FREE_BYTES = Gauge("headwater_retrieval_state_free_bytes", "Free space where the index is kept")
STATE_SIZE_BYTES = Gauge("headwater_retrieval_state_size_bytes", "Size of the file system where the index is kept")


def watch_disk(folder: Path) -> None:
    """Show the file system that has the folder, as it is when somebody looks; NaN while the folder is not there."""
    STATE_FREE_BYTES.set_function(lambda: _disk_bytes(folder, "free"))
    STATE_SIZE_BYTES.set_function(lambda: _disk_bytes(folder, "total"))


def _disk_bytes(folder: Path, what: str) -> float:
    try:
        return float(getattr(shutil.disk_usage(folder), what))
    except OSError:
        return math.nan
