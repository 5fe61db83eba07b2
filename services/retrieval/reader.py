"""The read side of the store: a few threads with a connection each. One statement sees one state of the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import apsw

from .errors import rebuilding
from .rows import CollectionKey, Document, HitRow, Progress, State
from .store import BUSY_MILLISECONDS, errors_named, fetch

T = TypeVar("T")

_PLAIN = (
    "document_id",
    "partition",
    "version",
    "write_id",
    "reason",
    "title",
    "content_hash",
    "embedding_fingerprint",
    "dimensions",
    "characters",
    "chunks",
)
_DOCUMENT = f"tenant, collection_id, state, metadata, access_groups, {', '.join(_PLAIN)}"
# Documents that the caller's groups (a JSON list, parameter 1) may see; null sees all.
_VISIBLE = """(?1 IS NULL OR access_groups = '[]' OR EXISTS (
    SELECT 1 FROM json_each(access_groups) AS theirs JOIN json_each(?1) AS ours ON theirs.value = ours.value))"""
_BY_ID = f"""
SELECT {_DOCUMENT} FROM json_each(?4) AS asked CROSS JOIN documents
WHERE tenant = ?2 AND collection_id = ?3 AND document_id = asked.value AND {_VISIBLE}
"""
_PAGE = f"""
SELECT {_DOCUMENT} FROM documents
WHERE tenant = ?2 AND collection_id = ?3 AND document_id > ?4
    AND state IN (SELECT value FROM json_each(?5)) AND {_VISIBLE}
ORDER BY document_id LIMIT ?6
"""
_HITS = """
SELECT chunks.id, document_id, ordinal, text, start, "end", title, metadata, version, partition
FROM json_each(?) AS asked CROSS JOIN chunks ON chunks.id = asked.value JOIN documents ON documents.id = chunks.document
"""
_COUNTS = """
SELECT state, count(*), sum(chunks) FROM documents
WHERE ?1 IS NULL OR (collection_id = ?1 AND tenant = ?2) GROUP BY state
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is stored."""

    documents: int
    rejected: int
    chunks: int


class Reader:
    """Reads what is committed. Every method raises Damaged, and CannotWrite when the disk fails."""

    def __init__(self, path: Path, threads: int) -> None:
        self._closed = False
        self._idle: SimpleQueue[apsw.Connection] = SimpleQueue()
        for _ in range(threads):
            with errors_named():
                self._idle.put(_connect(path))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="retrieval-read")

    def close(self) -> None:
        """Wait for reads in progress, then let go of the file; what is asked after that raises NotReady."""
        self._closed = True
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    async def hits(self, ids: Sequence[int]) -> dict[int, HitRow]:
        """The chunks with these ids; those that are there no more are left out."""
        return await self._run(lambda connection: _hits(connection, ids))

    async def documents(
        self, key: CollectionKey, document_ids: Iterable[str], access_groups: Iterable[str] | None
    ) -> tuple[dict[str, Document], dict[int, Progress]]:
        """Those of the documents that the groups may see (None: all), and the progress that this was read at."""
        parameters = (_json(access_groups), *key, _json(document_ids))
        documents, progress = await self._run(lambda connection: _documents(connection, _BY_ID, parameters))
        return {document.document_id: document for document in documents}, progress

    async def page(
        self,
        key: CollectionKey,
        *,
        states: Iterable[State],
        access_groups: Iterable[str],
        after_document_id: str,
        size: int,
    ) -> tuple[list[Document], dict[int, Progress]]:
        """The next documents by id, and the progress that this was read at."""
        parameters = (_json(access_groups), *key, after_document_id, _json(states), size)
        return await self._run(lambda connection: _documents(connection, _PAGE, parameters))

    async def counts(self, key: CollectionKey | None) -> Counts:
        """Of one collection, or of the whole shard."""
        tenant, collection_id = key or (None, None)
        rows = await self._run(lambda connection: fetch(connection, _COUNTS, (collection_id, tenant)))
        by_state = {state: (documents, chunks) for state, documents, chunks in rows}
        documents, chunks = by_state.get(State.INDEXED, (0, 0))
        return Counts(documents, by_state.get(State.REJECTED, (0, 0))[0], chunks)

    async def _run(self, work: Callable[[apsw.Connection], T]) -> T:
        def on_idle() -> T:
            connection = self._idle.get()
            try:
                with errors_named():
                    return work(connection)
            finally:
                self._idle.put(connection)

        if self._closed:
            raise rebuilding()
        return await asyncio.get_running_loop().run_in_executor(self._threads, on_idle)


def _hits(connection: apsw.Connection, ids: Sequence[int]) -> dict[int, HitRow]:
    return {
        chunk_id: HitRow(document_id, chunk, text, start, end, title, _metadata(metadata), version, partition)
        for chunk_id, document_id, chunk, text, start, end, title, metadata, version, partition in fetch(
            connection, _HITS, (_json(ids),)
        )
    }


def _documents(
    connection: apsw.Connection, statement: str, parameters: Sequence[Any]
) -> tuple[list[Document], dict[int, Progress]]:
    with connection:  # one state of the database for both
        rows = fetch(connection, statement, parameters)
        progress = fetch(connection, "SELECT partition, documents_offset, index_offset FROM progress")
    return [_document(row) for row in rows], {partition: Progress(*offsets) for partition, *offsets in progress}


def _document(row: tuple[Any, ...]) -> Document:
    tenant, collection_id, state, metadata, access_groups, *plain = row
    return Document(
        CollectionKey(tenant, collection_id),
        state=State(state),
        metadata=_metadata(metadata),
        access_groups=tuple(json.loads(access_groups)),
        **dict(zip(_PLAIN, plain, strict=True)),
    )


def _metadata(stored: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {} if stored == "{}" else json.loads(stored)
    return metadata


def _json(values: Iterable[Any] | None) -> str | None:
    return None if values is None else json.dumps(list(values))


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    return connection
