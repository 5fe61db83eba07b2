"""A log backed up, and another made from the file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from headwater.common.v1.common_pb2 import Collection, CollectionSettings
from headwater.log.v1.log_pb2 import CollectionRecord, Deletion, DocumentContent, DocumentRecord

from serving.errors import FailedPrecondition
from serving.eventlog import EventLog, LogSettings, Topic, init_log, open_log
from serving.eventlog.backup import BackupUnusable, LogNotEmpty, Summary, backup, inspect, restore
from serving.eventlog.catalog import Catalog
from serving.eventlog.keys import document_key, partition_of
from tests.harness.eventlog import put, read_all

SPREAD = 2


async def collection(log: EventLog, collection_id: str, name: str, *, retired: bool = False) -> int:
    message = Collection(
        tenant="tenant", collection_id=collection_id, name=name, settings=CollectionSettings(spread=SPREAD)
    )
    owned = await log.take(Topic.COLLECTIONS, 0)
    record = CollectionRecord(schema_version=1, collection=message, retired=retired)
    (offset,) = await owned.append([(collection_id.encode(), record.SerializeToString())])
    await owned.close()
    return offset


async def write(log: EventLog, collection_id: str, document_id: str, text: str | None, offset: int) -> None:
    record = DocumentRecord(
        schema_version=1,
        write_id=f"{document_id} {text}".encode(),
        tenant="tenant",
        collection_id=collection_id,
        document_id=document_id,
        collections_offset=offset,
    )
    if text is None:
        record.deletion.CopyFrom(Deletion())
    else:
        record.put.CopyFrom(DocumentContent(body=text.encode()))
    partition = partition_of(collection_id, document_id, spread=SPREAD, partitions=log.partitions)
    await put(log, partition, document_key(collection_id, document_id), record.SerializeToString())


async def texts(log: EventLog) -> dict[tuple[str, str], str]:
    """What is there of each document; where a document lies in no partition of its own, this fails."""
    found = {}
    for partition in range(log.partitions):
        for record in await read_all(log, Topic.DOCUMENTS, partition):
            assert record.value is not None
            document = DocumentRecord.FromString(record.value)
            spread = min(SPREAD, log.partitions)
            at = partition_of(document.collection_id, document.document_id, spread=spread, partitions=log.partitions)
            assert at == partition
            assert (document.collection_id, document.document_id) not in found
            found[document.collection_id, document.document_id] = document.put.body.decode()
    return found


@pytest.fixture
async def file(log: EventLog, tmp_path: Path) -> Path:
    """A backup of a log with a bit of everything in it."""
    offset = await collection(log, "a" * 32, "one")
    gone = await collection(log, "b" * 32, "gone")
    await write(log, "b" * 32, "in a collection that is gone", "canary", gone)
    for number in range(10):
        await write(log, "a" * 32, f"d{number}", f"first {number}", offset)
    await write(log, "a" * 32, "d1", "second 1", offset)
    await write(log, "a" * 32, "d2", None, offset)
    await collection(log, "b" * 32, "gone", retired=True)
    path = tmp_path / "backup.gz"
    summary = await backup(log, path)
    assert (summary.collections, summary.documents) == (1, 9)
    assert inspect(path) == summary
    return path


@pytest.mark.parametrize("partitions", [2, 5])
async def test_a_log_made_from_it_has_the_newest_of_everything_and_nothing_that_was_deleted(
    file: Path, tmp_path: Path, partitions: int
) -> None:
    """Into the other number of partitions too, and from either engine into sqlite."""
    settings = LogSettings(path=tmp_path / "restored.sqlite3", partitions=partitions)
    await init_log(settings)
    async with open_log(settings) as log:
        await restore(log, file)
        expected = {("a" * 32, f"d{number}"): f"first {number}" for number in range(10) if number != 2}
        expected["a" * 32, "d1"] = "second 1"
        assert await texts(log) == expected
        async with Catalog(log) as catalog:
            assert [found.name for found in catalog.list("tenant")] == ["one"]
            for partition in range(partitions):
                for record in await read_all(log, Topic.DOCUMENTS, partition):
                    assert record.value is not None
                    offset = DocumentRecord.FromString(record.value).collections_offset
                    assert offset < catalog.applied, "a worker would wait for it for ever"


async def test_it_restores_into_its_own_engine(file: Path, settings: LogSettings, tmp_path: Path) -> None:
    other = settings.model_copy(
        update={"path": tmp_path / "restored.sqlite3", "topic_prefix": f"{settings.topic_prefix}restored."}
    )
    await init_log(other)
    async with open_log(other) as log:
        assert (await restore(log, file)).documents == 9
        assert len(await texts(log)) == 9


async def test_writes_after_it_began_are_left_out_and_those_before_are_in_it(log: EventLog, tmp_path: Path) -> None:
    offset = await collection(log, "a" * 32, "one")
    await write(log, "a" * 32, "d", "before", offset)
    path = tmp_path / "backup.gz"
    assert await backup(log, path) == Summary(1, 1, inspect(path).bytes)
    await write(log, "a" * 32, "e", "after", offset)
    assert inspect(path).documents == 1


async def test_a_log_with_anything_in_it_is_left_alone(file: Path, log: EventLog) -> None:
    before = await texts_and_offsets(log)
    with pytest.raises(LogNotEmpty):
        await restore(log, file)
    assert await texts_and_offsets(log) == before


async def texts_and_offsets(log: EventLog) -> list[tuple[int, bytes | None]]:
    return [
        (record.offset, record.value)
        for partition in range(log.partitions)
        for record in await read_all(log, Topic.DOCUMENTS, partition)
    ]


def content(path: Path) -> bytes:
    return path.read_bytes()


async def test_an_existing_file_is_not_written_over(file: Path, log: EventLog) -> None:
    before = content(file)
    with pytest.raises(FailedPrecondition, match="exists"):
        await backup(log, file)
    assert content(file) == before


def damaged(file: Path, how: str) -> Path:
    """A copy of a backup with something wrong."""
    data = content(file)
    whole = gzip.decompress(data)
    at = whole.index(b"second")
    bad = file.with_name("bad.gz")
    bad.write_bytes(
        {
            "cut": data[:-20],
            "changed": gzip.compress(whole[:at] + b"SECOND" + whole[at + 6 :]),
            "without its end": gzip.compress(whole[:at]),
            "empty": b"",
            "no backup": b"text",
            "of something else": gzip.compress(b'{"format": "something else"}\n'),
            "longer": gzip.compress(whole + b"more"),
        }[how]
    )
    return bad


@pytest.mark.parametrize(
    "how", ["cut", "changed", "without its end", "empty", "no backup", "of something else", "longer"]
)
async def test_a_damaged_file_is_refused_before_anything_is_appended(file: Path, tmp_path: Path, how: str) -> None:
    settings = LogSettings(path=tmp_path / "restored.sqlite3", partitions=2)
    await init_log(settings)
    async with open_log(settings) as log:
        with pytest.raises(BackupUnusable):
            await restore(log, damaged(file, how))
        assert await texts(log) == {}
        assert await read_all(log, Topic.COLLECTIONS, 0) == []
