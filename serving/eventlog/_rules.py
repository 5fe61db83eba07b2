"""What both engines check alike."""

import time
from typing import Final

from serving.errors import FailedPrecondition, InvalidArgument

from . import TimestampRefused, Topic

MAX_RECORD_BYTES: Final = 32 * 1024 * 1024
"""Key and value of one record together."""
MAX_CLOCK_DIFFERENCE_MS: Final = 5_000
"""How far a document's stamp may be from the log's clock (rule 6)."""
FENCED_TOPICS: Final = frozenset({Topic.COLLECTIONS, Topic.INDEX})
"""Appended to by the partition's owner alone (rule 1)."""
MIN_COMPACTION_AGE_SECONDS: Final = {Topic.COLLECTIONS: 0, Topic.DOCUMENTS: 7 * 86_400, Topic.INDEX: 3_600}
"""No record younger than this is compacted away, nor counts as the newer one (rule 4). Dead letters all stay."""
READ_BYTES: Final = 8 * 1024 * 1024
"""A batch ends once it holds this much, so that large records do not add up."""
HEARTBEAT_SECONDS: Final = 0.5
"""A follower hears of each of its partitions at least this often."""


def topic_partitions(topic: Topic, partitions: int) -> int:
    """How many partitions the topic has in a log of that many."""
    return partitions if topic in (Topic.DOCUMENTS, Topic.INDEX) else 1


def check_size(key: bytes, value: bytes | None) -> None:
    """Raises InvalidArgument for a record above the limit."""
    size = len(key) + len(value or b"")
    if size > MAX_RECORD_BYTES:
        raise InvalidArgument(
            f"a log record may have {MAX_RECORD_BYTES} bytes, this one has {size}", reason="RECORD_TOO_LARGE"
        )


def check_unfenced(topic: Topic) -> None:
    """Raises InvalidArgument for an append that would go round the fence."""
    if topic in FENCED_TOPICS:
        raise InvalidArgument(f"records of {topic} are appended by the partition's owner alone: take() it first")


def check_stamp(timestamp_ms: int) -> None:
    """Raises TimestampRefused for a document stamped too far from this machine's clock."""
    late_ms = now_ms() - timestamp_ms
    if abs(late_ms) > MAX_CLOCK_DIFFERENCE_MS:
        raise TimestampRefused(
            f"the record is stamped {abs(late_ms)} ms {'before' if late_ms > 0 else 'after'} the log's clock;"
            f" at most {MAX_CLOCK_DIFFERENCE_MS} ms are allowed",
            reason="TIMESTAMP_REFUSED",
        )


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def check_partitions(found: int, wanted: int) -> None:
    """Raises FailedPrecondition where `init` would change the partitions of a log that is there."""
    if found != wanted:
        raise FailedPrecondition(
            f"the log has {found} partitions and keeps them for its life, so it cannot have {wanted}:"
            f" set HEADWATER_LOG__PARTITIONS={found}, or start a new log elsewhere"
        )
