"""Every metric of the cache."""

from prometheus_client import Counter, Gauge

LOOKUPS = Counter("headwater_cache_lookups", "Lookups, by outcome: hit, hit_waited, or why not.", ["outcome"])
STORES = Counter("headwater_cache_stores", "Answers offered, by outcome: stored, or why not.", ["outcome"])
INVALIDATIONS = Counter("headwater_cache_invalidations", "Entries dropped because a document changed.")
LOG_REPLACEMENTS = Counter("headwater_cache_log_replacements", "Times the followed log turned out to be another.")
ENTRIES = Gauge("headwater_cache_entries", "Entries that may be served.")
MEMORY_BYTES = Gauge("headwater_cache_memory_bytes", "Estimated memory of what is known of the entries, in bytes.")
WAITERS = Gauge("headwater_cache_waiters", "Callers that wait for another caller's answer.")
INDEX_OFFSET = Gauge("headwater_cache_index_offset", "First index offset not yet applied.", ["partition"])
INDEX_LAG_RECORDS = Gauge("headwater_cache_index_lag_records", "Offsets behind the log's end.", ["partition"])
