"""A backup of a log in one file, and a log made from it. Both engines; a backup of one restores into the other.

What is kept is what all else is made from: each live collection, and of each of its documents the newest write. The
file is gzip: a line of JSON that says what it is, records, and a line with their number and SHA-256, without which it
is not whole.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwater.log.v1.log_pb2 import CollectionRecord, DocumentRecord

from serving.errors import FailedPrecondition

from . import EventLog, Record, Topic
from ._rules import MAX_RECORD_BYTES, topic_partitions
from .keys import document_key, partition_of

FORMAT: Final = "headwater-log-backup"
VERSION: Final = 1
_COLLECTION, _DOCUMENT, _END = b"C", b"D", b"E"
_LENGTH_BYTES: Final = 4
_MAX_LINE_BYTES: Final = 4096
_IN_FLIGHT: Final = 64
_APPEND_SECONDS: Final = 60.0

Progress = Callable[[int], None]


class BackupUnusable(FailedPrecondition):
    """The file is no backup, is not whole, or is damaged."""


class LogNotEmpty(FailedPrecondition):
    """A backup is restored into a log without collections and documents."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is in a backup."""

    collections: int
    documents: int
    bytes: int
    """Of the records, uncompressed."""


async def backup(log: EventLog, path: Path, progress: Progress = lambda _: None) -> Summary:
    """Write everything that was committed when this began. The file appears under its name only once it is whole.

    Memory: some hundred bytes a document. Raises FailedPrecondition when the file exists.
    """
    _refuse_existing(path)
    ends = {p: (await log.bounds(Topic.DOCUMENTS, p))[1] for p in range(log.partitions)}
    collections = await _live_collections(log)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=5, mtime=0) as out:
                summary = await _write(log, out, collections, ends, progress)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return summary


async def restore(log: EventLog, path: Path, progress: Progress = lambda _: None) -> Summary:
    """Fill an initialised log that is empty. The file is read once before, to see that it is whole.

    The number of partitions may be another than before. Documents are stamped anew. Workers then index everything.
    Raises BackupUnusable, LogNotEmpty.
    """
    summary = await asyncio.to_thread(inspect, path)
    for topic in (Topic.COLLECTIONS, Topic.DOCUMENTS):
        for partition in range(topic_partitions(topic, log.partitions)):
            if await anext(_all(log, topic, partition, None), None) is not None:
                raise LogNotEmpty("this log has collections or documents already; restore into one that was just made")
    spreads, collections_offset = await _restore_collections(log, path)
    await _restore_documents(log, path, spreads, collections_offset, progress)
    return summary


def inspect(path: Path) -> Summary:
    """What a backup holds. Raises BackupUnusable."""
    collections = documents = size = 0
    for kind, value in _read(path):
        collections += kind == _COLLECTION
        documents += kind == _DOCUMENT
        size += len(value)
    return Summary(collections, documents, size)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FailedPrecondition(f"{path} exists already; name another file")


async def _live_collections(log: EventLog) -> dict[str, CollectionRecord]:
    live: dict[str, CollectionRecord] = {}
    retired: set[str] = set()
    async for record in _all(log, Topic.COLLECTIONS, 0, None):
        if record.value is None:
            continue
        message = CollectionRecord.FromString(record.value)
        collection_id = message.collection.collection_id
        if message.retired:
            retired.add(collection_id)
            live.pop(collection_id, None)
        elif collection_id not in retired:
            live[collection_id] = message
    return live


async def _write(
    log: EventLog,
    out: gzip.GzipFile,
    collections: dict[str, CollectionRecord],
    ends: dict[int, int],
    progress: Progress,
) -> Summary:
    checked = _Checked(out)
    out.write(
        _line({"format": FORMAT, "version": VERSION, "log_id": log.log_id.hex(), "made_unix_s": int(time.time())})
    )
    for message in collections.values():
        checked.write(_COLLECTION, message.SerializeToString())
    for partition, end in ends.items():
        newest: dict[bytes, int] = {}
        async for record in _all(log, Topic.DOCUMENTS, partition, end):
            newest[record.key] = record.offset
        async for record in _all(log, Topic.DOCUMENTS, partition, end):
            if record.value is None or newest[record.key] != record.offset:
                continue
            document = DocumentRecord.FromString(record.value)
            if document.collection_id in collections and document.WhichOneof("operation") == "put":
                checked.write(_DOCUMENT, record.value)
                progress(checked.count)
    documents = checked.count - len(collections)
    out.write(_END + _line({"records": checked.count, "sha256": checked.digest.hexdigest()}))
    return Summary(len(collections), documents, checked.size)


async def _restore_collections(log: EventLog, path: Path) -> tuple[dict[str, int], int]:
    """The collections' spreads, and the offset of the last one."""
    spreads: dict[str, int] = {}
    owned = await log.take(Topic.COLLECTIONS, 0)
    try:
        offset = owned.end - 1
        for kind, value in _read(path):
            if kind == _COLLECTION:
                collection = CollectionRecord.FromString(value).collection
                spreads[collection.collection_id] = collection.settings.spread
                (offset,) = await owned.append([(collection.collection_id.encode(), value)])
    finally:
        await owned.close()
    return spreads, offset


async def _restore_documents(
    log: EventLog, path: Path, spreads: dict[str, int], collections_offset: int, progress: Progress
) -> None:
    room = asyncio.Semaphore(_IN_FLIGHT)
    done = 0

    async def append(value: bytes) -> None:
        nonlocal done
        document = DocumentRecord.FromString(value)
        document.collections_offset = collections_offset
        document.ClearField("traceparent")
        partition = partition_of(
            document.collection_id,
            document.document_id,
            spread=min(spreads[document.collection_id], log.partitions),
            partitions=log.partitions,
        )
        key = document_key(document.collection_id, document.document_id)
        try:
            await log.append(
                Topic.DOCUMENTS,
                partition,
                key,
                document.SerializeToString(),
                timestamp_ms=int(time.time() * 1000),
                timeout_seconds=_APPEND_SECONDS,
            )
        finally:
            room.release()
        done += 1
        progress(done)

    # each document is in the file once, so that their order is nobody's concern
    async with asyncio.TaskGroup() as group:
        for kind, value in _read(path):
            if kind == _DOCUMENT:
                await room.acquire()
                group.create_task(append(value))


async def _all(log: EventLog, topic: Topic, partition: int, end: int | None) -> AsyncIterator[Record]:
    """The partition's records up to an end, or the committed one."""
    position, known_end = await log.bounds(topic, partition)
    stop = known_end if end is None else end
    while position < stop:
        batch = await log.read(topic, partition, position)
        for record in batch.records:
            if record.offset < stop:
                yield record
        if batch.next_offset <= position:
            return
        position = batch.next_offset


class _Checked:
    """Records on their way into the file."""

    def __init__(self, out: gzip.GzipFile) -> None:
        self._out = out
        self.digest = hashlib.sha256()
        self.count = 0
        self.size = 0

    def write(self, kind: bytes, value: bytes) -> None:
        framed = kind + len(value).to_bytes(_LENGTH_BYTES, "big") + value
        self._out.write(framed)
        self.digest.update(framed)
        self.count += 1
        self.size += len(value)


def _read(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Kind and value of every record; raises BackupUnusable at whatever is not as it was written."""
    digest = hashlib.sha256()
    count = 0
    try:
        with gzip.open(path, "rb") as file:
            head = _parsed(file)
            if head.get("format") != FORMAT:
                raise BackupUnusable(f"{path} is no backup of a Headwater log")
            if head.get("version") != VERSION:
                raise BackupUnusable(f"{path} has version {head.get('version')}; this release reads {VERSION}")
            while (kind := file.read(1)) != _END:
                length = file.read(_LENGTH_BYTES)
                size = int.from_bytes(length, "big")
                if kind not in (_COLLECTION, _DOCUMENT) or len(length) < _LENGTH_BYTES or size > MAX_RECORD_BYTES:
                    raise BackupUnusable(f"{path} is damaged, or ends too soon, after {count} records")
                value = file.read(size)
                digest.update(kind + length + value)
                count += 1
                yield kind, value
            tail = _parsed(file)
            if (tail.get("records"), tail.get("sha256")) != (count, digest.hexdigest()) or file.read(1):
                raise BackupUnusable(f"{path} is damaged: its records are not those that were written")
    except (EOFError, OSError, ValueError) as error:
        raise BackupUnusable(f"{path} cannot be read as a backup ({type(error).__name__}: {error})") from error


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _parsed(file: gzip.GzipFile) -> dict[str, Any]:
    value = json.loads(file.readline(_MAX_LINE_BYTES))
    if not isinstance(value, dict):
        raise ValueError("a line of JSON was expected")
    return value
