"""What a record of the index log becomes."""

import numpy as np
import pytest
from headwater.common.v1 import common_pb2
from headwater.log.v1 import log_pb2

from services.retrieval.decoder import decode
from services.retrieval.errors import UnreadableRecord
from services.retrieval.rows import Change, State
from serving.eventlog import Record


def change_of(record: log_pb2.IndexRecord) -> Change:
    change = decode(3, Record(7, 0, b"key", record.SerializeToString()))
    assert change is not None
    return change


def indexed(vectors: common_pb2.Vectors, chunks: int = 1) -> log_pb2.IndexRecord:
    return log_pb2.IndexRecord(
        schema_version=1,
        generation=1,
        tenant="acme",
        collection_id="c",
        document_id="d",
        documents_offset=5,
        indexed=log_pb2.IndexedDocument(chunks=[log_pb2.Chunk(text="t")] * chunks, vectors=vectors),
    )


def test_a_null_changes_nothing() -> None:
    assert decode(3, Record(7, 0, b"key", None)) is None


def test_metadata_keeps_its_types() -> None:
    record = indexed(common_pb2.Vectors(data=b"\0" * 8, dimensions=2, count=1))
    record.indexed.metadata["n"].number_value = 3
    record.indexed.metadata["b"].bool_value = True
    record.indexed.metadata["s"].string_value = "x"
    record.indexed.metadata["l"].string_list.values.extend(["x", "y"])

    write = change_of(record).write

    assert write is not None
    assert write.document.metadata == {"n": 3.0, "b": True, "s": "x", "l": ["x", "y"]}
    assert type(write.document.metadata["n"]) is float


@pytest.mark.parametrize(
    ("vectors", "chunks"),
    [
        (common_pb2.Vectors(data=b"\0" * 7, dimensions=2, count=1), 1),
        (common_pb2.Vectors(data=b"\0" * 8, dimensions=2, count=1), 2),
        (common_pb2.Vectors(data=np.array([np.nan, 0], "<f4").tobytes(), dimensions=2, count=1), 1),
        (common_pb2.Vectors(data=np.array([np.inf, 0], "<f4").tobytes(), dimensions=2, count=1), 1),
    ],
)
def test_vectors_that_do_not_fit_their_chunks_make_the_document_rejected(
    vectors: common_pb2.Vectors, chunks: int
) -> None:
    write = change_of(indexed(vectors, chunks)).write

    assert write is not None
    assert write.document.state is State.REJECTED
    assert write.document.reason.startswith("INDEX_RECORD_INVALID")
    assert not write.chunks


def test_a_rejection_says_why_and_keeps_who_may_know() -> None:
    rejection = log_pb2.Rejection(reason="PDF_ENCRYPTED", message="it needs a password", access_groups=["hr"])
    record = log_pb2.IndexRecord(schema_version=1, generation=1, document_id="d", rejected=rejection)

    write = change_of(record).write

    assert write is not None
    assert write.document.reason == "PDF_ENCRYPTED: it needs a password"
    assert write.document.access_groups == ("hr",)


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xff",
        log_pb2.IndexRecord(schema_version=2, progress=log_pb2.Progress()).SerializeToString(),
        log_pb2.IndexRecord(schema_version=1).SerializeToString(),
        log_pb2.IndexRecord(schema_version=1, generation=2, deleted=log_pb2.Deletion()).SerializeToString(),
    ],
)
def test_what_this_version_cannot_read_stops_it(value: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode(3, Record(7, 0, b"key", value))
