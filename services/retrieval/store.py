"""The shard's truth: one SQLite database, written by one thread, a transaction a batch of the index log.

WAL with synchronous=NORMAL: after a power cut the newest transactions may be missing, rows and progress together, and
the log brings them again. Ids of chunks are never used twice and chunks never change, so that whoever has an id finds
that very chunk or nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import apsw
import numpy as np

from serving.crashpoints import crash_point
from serving.errors import FailedPrecondition

from .errors import CannotWrite, Damaged, OutOfOrder
from .rows import (
    GENERATION,
    NO_PROGRESS,
    Applied,
    Change,
    CollectionKey,
    Document,
    Label,
    Matrix,
    NewRows,
    Progress,
    State,
    Write,
)
from .searcher import Searcher

SCHEMA_VERSION = 1
BUSY_MILLISECONDS = 5000
MAX_JOURNAL_BYTES = 64 << 20

_SCHEMA = """
CREATE TABLE shard (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    log_id BLOB NOT NULL,
    partitions INTEGER NOT NULL,
    shards INTEGER NOT NULL,
    shard INTEGER NOT NULL
);
CREATE TABLE progress (
    partition INTEGER PRIMARY KEY,
    documents_offset INTEGER NOT NULL,
    index_offset INTEGER NOT NULL,
    last_documents_offset INTEGER NOT NULL
);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    collection_id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    document_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    version INTEGER NOT NULL,
    write_id BLOB NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    title TEXT NOT NULL,
    metadata TEXT NOT NULL,
    access_groups TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    embedding_fingerprint TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    UNIQUE (collection_id, tenant, document_id)
);
CREATE INDEX documents_by_state ON documents (collection_id, tenant, state, chunks);
CREATE INDEX documents_by_partition ON documents (partition);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    text TEXT NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    vector BLOB NOT NULL
);
CREATE INDEX chunks_by_document ON chunks (document, ordinal);
"""

_PUT = """
INSERT INTO documents (collection_id, tenant, document_id, generation, partition, version, write_id, state, reason,
    title, metadata, access_groups, content_hash, embedding_fingerprint, dimensions, characters, chunks)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (collection_id, tenant, document_id) DO UPDATE SET generation = excluded.generation,
    partition = excluded.partition, version = excluded.version, write_id = excluded.write_id, state = excluded.state,
    reason = excluded.reason, title = excluded.title, metadata = excluded.metadata,
    access_groups = excluded.access_groups, content_hash = excluded.content_hash,
    embedding_fingerprint = excluded.embedding_fingerprint, dimensions = excluded.dimensions,
    characters = excluded.characters, chunks = excluded.chunks
RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a database is of."""

    log_id: bytes
    partitions: int
    shards: int
    shard: int

    @property
    def owned(self) -> frozenset[int]:
        """The partitions p with p * shards // partitions == shard."""
        return frozenset(p for p in range(self.partitions) if p * self.shards // self.partitions == self.shard)


class Store:
    """The write side. Every method belongs on the one thread that writes; all raise Damaged and CannotWrite."""

    def __init__(self, connection: apsw.Connection, identity: Identity) -> None:
        self._connection = connection
        self.identity = identity

    @classmethod
    def open(cls, path: Path, identity: Identity) -> Self:
        """Open or create it: another log's is deleted, and rows of partitions not owned any more are dropped."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with errors_named():
            connection = apsw.Connection(str(path))
        try:
            with errors_named():
                _prepare(connection)
                found = _identity(connection)
                if found is not None and (found.log_id, found.partitions) != (identity.log_id, identity.partitions):
                    connection.close()
                    delete(path)
                    connection, found = apsw.Connection(str(path)), None
                    _prepare(connection)
            store = cls(connection, identity)
            with store._transaction():
                if found is None:
                    store._create()
                elif found != identity:
                    store._keep_only(identity.owned)
        except BaseException:
            # SQLite would otherwise close it later, and remove the journal of whatever has that name by then
            connection.close()
            raise
        return store

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def progress(self) -> dict[int, Progress]:
        """Of each owned partition."""
        with errors_named():
            rows = fetch(self._connection, "SELECT partition, documents_offset, index_offset FROM progress")
        stored = {partition: Progress(*offsets) for partition, *offsets in rows}
        return {partition: stored.get(partition, NO_PROGRESS) for partition in sorted(self.identity.owned)}

    def load(self) -> Searcher:
        """The searcher of all that is stored."""
        with errors_named():
            rows = _load_rows(self._connection)
        searcher = Searcher(self.identity.log_id, self.progress())
        return searcher.with_rows(rows)

    def apply(
        self, partition: int, changes: Sequence[Change], next_index_offset: int, is_retired: Callable[[str], bool]
    ) -> Applied:
        """Apply what was read of a partition, up to next_index_offset, in one transaction.

        Records applied before are skipped; those of retired collections only move the progress. Raises OutOfOrder.
        """
        batch = _Batch()
        with self._transaction():
            documents_offset, index_offset, last = self._progress(partition)
            for change in changes:
                if change.index_offset < index_offset:
                    continue
                # progress may be said again: after a retired collection's nulls, and to release what was held
                if change.documents_offset < last or (change.documents_offset == last and change.write is not None):
                    raise OutOfOrder(
                        f"index partition {partition}: the record at {change.index_offset} is of documents offset"
                        f" {change.documents_offset}, and {last} was applied before it"
                    )
                last = change.documents_offset
                if not change.progress_held:
                    documents_offset = last + 1
                write = change.write
                if write is not None and not is_retired(write.document.key.collection_id):
                    self._put(self._comparable(write), batch)
            reached = Progress(documents_offset, max(next_index_offset, index_offset))
            self._connection.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?)", (partition, *reached, last))
            crash_point("retrieval.before_commit")
        return batch.applied(partition, reached)

    def collection_ids(self) -> set[str]:
        """All collections that have documents here, whatever their state."""
        with errors_named():
            return {found for (found,) in fetch(self._connection, "SELECT DISTINCT collection_id FROM documents")}

    def drop_collections(self, collection_ids: Collection[str]) -> None:
        """Forget every document of these."""
        with self._transaction():
            for collection_id in collection_ids:
                self._drop("collection_id = ?", collection_id)

    def _create(self) -> None:
        identity = self.identity
        self._connection.execute(_SCHEMA)
        self._connection.execute(
            "INSERT INTO shard VALUES (1, ?, ?, ?, ?)",
            (identity.log_id, identity.partitions, identity.shards, identity.shard),
        )
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _keep_only(self, owned: frozenset[int]) -> None:
        """Drop the partitions that belong to other shards by now; those that are new here have no progress yet."""
        for (partition,) in fetch(self._connection, "SELECT partition FROM progress"):
            if partition not in owned:
                self._drop("partition = ?", partition)
                self._connection.execute("DELETE FROM progress WHERE partition = ?", (partition,))
        self._connection.execute("UPDATE shard SET shards = ?, shard = ?", (self.identity.shards, self.identity.shard))

    def _drop(self, condition: str, value: str | int) -> None:
        self._connection.execute(
            f"DELETE FROM chunks WHERE document IN (SELECT id FROM documents WHERE {condition})", (value,)
        )
        self._connection.execute(f"DELETE FROM documents WHERE {condition}", (value,))

    def _progress(self, partition: int) -> tuple[int, int, int]:
        """Documents and index offset not yet applied, and the last documents offset seen (-1 for none)."""
        rows = fetch(
            self._connection,
            "SELECT documents_offset, index_offset, last_documents_offset FROM progress WHERE partition = ?",
            (partition,),
        )
        return rows[0] if rows else (0, 0, -1)

    def _comparable(self, write: Write) -> Write:
        """The write; rejected when its vectors cannot be compared with the collection's others."""
        document = write.document
        if not document.chunks:
            return write
        others = fetch(
            self._connection,
            "SELECT embedding_fingerprint, dimensions FROM documents"
            " WHERE collection_id = ? AND tenant = ? AND state = ? AND chunks > 0 AND document_id != ? LIMIT 1",
            (document.key.collection_id, document.key.tenant, State.INDEXED, document.document_id),
        )
        if others in ([], [(document.embedding_fingerprint, document.dimensions)]):
            return write
        return write.rejected("EMBEDDING_MISMATCH: its vectors are of another model than the collection's")

    def _put(self, write: Write, batch: _Batch) -> None:
        """Write a document in the place of its former version."""
        document = write.document
        parameters = (
            document.key.collection_id,
            document.key.tenant,
            document.document_id,
            GENERATION,
            document.partition,
            document.version,
            document.write_id,
            document.state,
            document.reason,
            document.title,
            json.dumps(dict(document.metadata), ensure_ascii=False),
            json.dumps(document.access_groups, ensure_ascii=False),
            document.content_hash,
            document.embedding_fingerprint,
            document.dimensions,
            document.characters,
            document.chunks,
        )
        ((row,),) = fetch(self._connection, _PUT, parameters)
        former = fetch(self._connection, "DELETE FROM chunks WHERE document = ? RETURNING id", (row,))
        self._connection.executemany(
            'INSERT INTO chunks (document, ordinal, text, start, "end", vector) VALUES (?, ?, ?, ?, ?, ?)',
            [
                (row, ordinal, chunk.text, chunk.start, chunk.end, vector.tobytes())
                for ordinal, (chunk, vector) in enumerate(zip(write.chunks, write.vectors, strict=True))
            ],
        )
        # one writer and AUTOINCREMENT: the ids given here follow each other
        end = self._connection.last_insert_rowid() + 1
        batch.remove(document.key, [chunk_id for (chunk_id,) in former])
        batch.add(document, range(end - len(write.chunks), end), write.vectors)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with errors_named():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself after some errors, a full disk among them
                with suppress(apsw.Error):
                    if not self._connection.get_autocommit():
                        self._connection.execute("ROLLBACK")
                raise


@dataclass(slots=True)
class _Batch:
    """What a transaction did to the chunks; what it added and removed again is in neither."""

    removed: dict[CollectionKey, list[int]] = field(default_factory=dict)
    added: dict[CollectionKey, dict[int, tuple[Matrix, Document]]] = field(default_factory=dict)

    def remove(self, key: CollectionKey, ids: Sequence[int]) -> None:
        added = self.added.get(key, {})
        older = [chunk_id for chunk_id in ids if added.pop(chunk_id, None) is None]
        if older:
            self.removed.setdefault(key, []).extend(older)

    def add(self, document: Document, ids: Sequence[int], vectors: Matrix) -> None:
        rows = self.added.setdefault(document.key, {})
        rows.update((chunk_id, (vector, document)) for chunk_id, vector in zip(ids, vectors, strict=True))

    def applied(self, partition: int, progress: Progress) -> Applied:
        removed = {key: np.array(sorted(ids), np.int64) for key, ids in self.removed.items()}
        return Applied(partition, progress, removed, {key: _new_rows(rows) for key, rows in self.added.items() if rows})


def _new_rows(rows: dict[int, tuple[Matrix, Document]]) -> NewRows:
    documents = [document for _, document in rows.values()]
    return NewRows(
        np.fromiter(rows, np.int64),
        np.stack([vector for vector, _ in rows.values()]),
        [Label(document.partition, frozenset(document.access_groups)) for document in documents],
        documents[0].embedding_fingerprint,
    )


def _load_rows(connection: apsw.Connection) -> dict[CollectionKey, NewRows]:
    """All chunks, one scan in the order of their ids."""
    rows = {
        CollectionKey(tenant, collection_id): NewRows(
            np.empty(count, np.int64), np.empty((count, dimensions), np.float32), [], fingerprint
        )
        for tenant, collection_id, fingerprint, dimensions, count in connection.execute(
            "SELECT tenant, collection_id, embedding_fingerprint, dimensions, sum(chunks) FROM documents"
            " WHERE state = ? AND chunks > 0 GROUP BY tenant, collection_id",
            (State.INDEXED,),
        )
    }
    labels: dict[tuple[int, str], Label] = {}
    scan = connection.execute(
        "SELECT chunks.id, tenant, collection_id, partition, access_groups, vector FROM chunks"
        " CROSS JOIN documents ON documents.id = chunks.document ORDER BY chunks.id"
    )
    try:
        for chunk_id, tenant, collection_id, partition, access_groups, vector in scan:
            of = rows[CollectionKey(tenant, collection_id)]
            at = len(of.labels)
            of.ids[at] = chunk_id
            of.vectors[at] = np.frombuffer(vector, np.float32)
            label = labels.get((partition, access_groups))
            if label is None:
                label = Label(partition, frozenset(json.loads(access_groups)))
                labels[partition, access_groups] = label
            of.labels.append(label)
    except (KeyError, IndexError, ValueError) as error:
        raise Damaged("the database's documents and chunks do not agree") from error
    if any(len(of.labels) != len(of.ids) for of in rows.values()):
        raise Damaged("the database's documents and chunks do not agree")
    return rows


def delete(path: Path) -> None:
    """Remove a database."""
    for file in _files(path):
        file.unlink(missing_ok=True)


def put_aside(path: Path) -> Path:
    """Rename a damaged database, in the place of one put aside before, and say where it is."""
    aside = path.with_suffix(".damaged")
    for file, to in zip(_files(path), _files(aside), strict=True):
        to.unlink(missing_ok=True)
        if file.exists():
            file.rename(to)
    return aside


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes off the folder while inside: two shards in one would each undo the other's progress."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise FailedPrecondition(f"another process uses {folder}; give each shard a folder of its own") from error
    finally:
        os.close(descriptor)


def _files(path: Path) -> tuple[Path, ...]:
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _prepare(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "normal")
    connection.pragma("journal_size_limit", MAX_JOURNAL_BYTES)


def fetch(connection: apsw.Connection, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of one statement."""
    rows: list[tuple[Any, ...]] = connection.execute(statement, parameters).fetchall()
    return rows


def _identity(connection: apsw.Connection) -> Identity | None:
    """Whose the database is; None when it is new. Raises Damaged."""
    if fetch(connection, "PRAGMA quick_check(1)") != [("ok",)]:
        raise Damaged("the database fails SQLite's check")
    if not connection.pragma("user_version"):
        return None
    try:
        return Identity(*fetch(connection, "SELECT log_id, partitions, shards, shard FROM shard")[0])
    except (apsw.SQLError, IndexError) as error:
        raise Damaged("the database is not one of this service") from error


@contextmanager
def errors_named() -> Iterator[None]:
    """Tell a broken database and a disk that cannot be written apart from bugs."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Damaged(f"the database is damaged: {error}") from error
    except (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.BusyError) as error:
        raise CannotWrite(f"the database cannot be written: {error}") from error
