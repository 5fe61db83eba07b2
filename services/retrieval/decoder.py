"""From the index log's protos to changes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from google.protobuf.message import DecodeError
from headwater.common.v1 import common_pb2
from headwater.log.v1 import log_pb2

from serving.eventlog import Record

from .errors import UnreadableRecord
from .rows import GENERATION, Change, Chunk, CollectionKey, Document, Matrix, MetadataValue, State, Write

SCHEMA_VERSION = 1
# Far above any embedding, far below where sums of products overflow. Anything that is not a number fails it too.
MAX_COMPONENT = 1e6


def decode(partition: int, record: Record) -> Change | None:
    """What a record changes; None for a retired collection's null. Raises UnreadableRecord.

    Vectors that do not fit their chunks make the document rejected: it is listed with the reason, and the rest goes on.
    """
    if record.value is None:
        return None
    where = f"{partition}/{record.offset} of the index log"
    try:
        message = log_pb2.IndexRecord.FromString(record.value)
    except DecodeError as error:
        raise UnreadableRecord(f"record {where} is not an index record") from error
    if message.schema_version != SCHEMA_VERSION:
        raise UnreadableRecord(f"record {where} has schema version {message.schema_version}; update this service")
    outcome = message.WhichOneof("outcome")
    if outcome is None:
        raise UnreadableRecord(f"record {where} has an outcome that this version does not know; update this service")
    return Change(
        record.offset,
        message.documents_offset,
        message.progress_held,
        None if outcome == "progress" else _to_write(partition, where, message),
    )


def _to_write(partition: int, where: str, message: log_pb2.IndexRecord) -> Write:
    if message.generation != GENERATION:
        raise UnreadableRecord(f"record {where} has generation {message.generation}; update this service")
    document = Document(
        CollectionKey(message.tenant, message.collection_id),
        message.document_id,
        partition,
        message.documents_offset,
        message.write_id,
        State.DELETED,
    )
    match message.WhichOneof("outcome"):
        case "indexed":
            return _to_indexed(document, message.indexed)
        case "rejected":
            rejection = message.rejected
            said = f": {rejection.message}" if rejection.message else ""
            groups = tuple(sorted(set(rejection.access_groups)))
            return Write(replace(document, access_groups=groups)).rejected(rejection.reason + said)
        case _:
            return Write(document)


def _to_indexed(document: Document, indexed: log_pb2.IndexedDocument) -> Write:
    vectors = to_matrix(indexed.vectors)
    document = replace(document, access_groups=tuple(sorted(set(indexed.access_groups))))
    if vectors is None or len(vectors) != len(indexed.chunks):
        return Write(document).rejected("INDEX_RECORD_INVALID: its vectors do not fit its chunks")
    return Write(
        replace(
            document,
            state=State.INDEXED,
            title=indexed.title,
            metadata={name: _to_value(value) for name, value in sorted(indexed.metadata.items())},
            content_hash=indexed.content_hash,
            embedding_fingerprint=indexed.embedding_fingerprint,
            dimensions=vectors.shape[1],
            characters=indexed.characters,
            chunks=len(vectors),
        ),
        tuple(Chunk(chunk.text, chunk.start, chunk.end) for chunk in indexed.chunks),
        vectors,
    )


def to_matrix(vectors: common_pb2.Vectors) -> Matrix | None:
    """(count, dimensions) float32; None when the bytes are not that, or not all ordinary numbers."""
    if len(vectors.data) != 4 * vectors.dimensions * vectors.count:
        return None
    matrix = np.frombuffer(vectors.data, "<f4").reshape(vectors.count, vectors.dimensions)
    if matrix.size and not np.abs(matrix).max() <= MAX_COMPONENT:
        return None
    return matrix.astype(np.float32, copy=False)


def _to_value(value: common_pb2.MetadataValue) -> MetadataValue:
    match value.WhichOneof("kind"):
        case "number_value":
            return value.number_value if math.isfinite(value.number_value) else str(value.number_value)
        case "bool_value":
            return value.bool_value
        case "string_list":
            return list(value.string_list.values)
        case _:
            return value.string_value
