import pytest
from headwater.log.v1 import log_pb2

from services.cache.follower import digest
from services.cache.history import Change
from serving.errors import FailedPrecondition
from serving.eventlog import Batch, Record, Topic
from serving.eventlog.keys import PROGRESS_KEY, index_key

COLLECTION = "c" * 32


def batch(*records: Record) -> Batch:
    return Batch(Topic.INDEX, 3, records, next_offset=9, end_offset=12, asked_at=5.0)


def record(offset: int, outcome: str, documents_offset: int, schema_version: int = 1) -> Record:
    message = log_pb2.IndexRecord(schema_version=schema_version, documents_offset=documents_offset)
    getattr(message, outcome).SetInParent()
    key = PROGRESS_KEY
    if outcome != "progress":
        message.collection_id, message.document_id = COLLECTION, "d"
        key = index_key(COLLECTION, 1, "d")
    return Record(offset, 0, key, message.SerializeToString())


@pytest.mark.parametrize("outcome", ["indexed", "deleted", "rejected"])
def test_data_records_are_changes(outcome: str) -> None:
    advance = digest(batch(record(7, outcome, 41)))
    assert advance.changes == [Change(3, 7, COLLECTION, "d")]
    assert advance.documents_offset == 42


def test_progress_is_no_change() -> None:
    advance = digest(batch(record(7, "progress", 41)))
    assert advance.changes == []
    assert advance.documents_offset == 42


def test_nulled_key_of_a_retired_collection_is_a_change() -> None:
    advance = digest(batch(Record(7, 0, index_key(COLLECTION, 1, "a/b"), None)))
    assert [change.collection_id for change in advance.changes] == [COLLECTION]
    assert advance.documents_offset is None


def test_bounds_are_taken_over() -> None:
    advance = digest(batch())
    assert (advance.next_offset, advance.end_offset, advance.asked_at, advance.documents_offset) == (9, 12, 5.0, None)


@pytest.mark.parametrize("unreadable", [record(7, "indexed", 1, schema_version=2), Record(7, 0, b"k", b"\xff")])
def test_record_that_cannot_be_read_stops_the_follower(unreadable: Record) -> None:
    with pytest.raises(FailedPrecondition, match="offset 7"):
        digest(batch(unreadable))
