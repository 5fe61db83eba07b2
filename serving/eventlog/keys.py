"""Keys of the log's records, and which partition a document is in."""

import xxhash

IDENTITY_KEY = b"identity"
PROGRESS_KEY = b"progress"
LOG_ID_HEADER = "headwater-log"


def document_key(collection_id: str, document_id: str) -> bytes:
    """Key in `headwater.documents` and `headwater.deadletters`; collection ids all have one length, so none collide."""
    return f"{collection_id}/{document_id}".encode()


def index_key(collection_id: str, generation: int, document_id: str) -> bytes:
    """Key in `headwater.index`."""
    return f"{collection_id}/{generation}/{document_id}".encode()


def partition_of(collection_id: str, document_id: str, *, spread: int, partitions: int) -> int:
    """The partition of a document, in both `headwater.documents` and `headwater.index`."""
    within = xxhash.xxh3_64_intdigest(document_id.encode()) % spread
    return (xxhash.xxh3_64_intdigest(collection_id.encode()) + within) % partitions


def partitions_of(collection_id: str, *, spread: int, partitions: int) -> list[int]:
    """All partitions that may hold a collection's documents, in order."""
    first = xxhash.xxh3_64_intdigest(collection_id.encode())
    return sorted({(first + within) % partitions for within in range(min(spread, partitions))})
