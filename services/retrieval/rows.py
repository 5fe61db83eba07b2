"""What a shard stores and answers with, free of protos, databases and FAISS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
RowIds = npt.NDArray[np.int64]
NO_VECTORS: Matrix = np.empty((0, 0), np.float32)
MetadataValue = str | float | bool | list[str]


GENERATION = 1
"""The only generation of a collection's index that there is as yet."""


class CollectionKey(NamedTuple):
    """A collection under its owner. Everything is looked up by both, so that another tenant finds nothing."""

    tenant: str
    collection_id: str


class State(StrEnum):
    """What became of a document."""

    INDEXED = "indexed"
    REJECTED = "rejected"
    DELETED = "deleted"


class Progress(NamedTuple):
    """How far a partition is: the first offsets not yet applied."""

    documents_offset: int
    index_offset: int


NO_PROGRESS = Progress(0, 0)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as the index knows it."""

    key: CollectionKey
    document_id: str
    partition: int
    version: int
    """Its offset in its documents partition."""
    write_id: bytes
    state: State
    reason: str = ""
    """Why it was rejected."""
    title: str = ""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    access_groups: tuple[str, ...] = ()
    """Empty for the whole tenant."""
    content_hash: bytes = b""
    embedding_fingerprint: str = ""
    dimensions: int = 0
    characters: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document's text; `start` and `end` count characters of the extracted text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """A document with all that makes it searchable."""

    document: Document
    chunks: tuple[Chunk, ...] = ()
    vectors: Matrix = field(default_factory=lambda: NO_VECTORS)
    """(chunks, dimensions)."""

    def rejected(self, reason: str) -> Write:
        """The same refused."""
        of = self.document
        kept = Document(of.key, of.document_id, of.partition, of.version, of.write_id, State.REJECTED)
        return Write(replace(kept, reason=reason, access_groups=of.access_groups))


@dataclass(frozen=True, slots=True)
class Change:
    """What one record of the index log says."""

    index_offset: int
    documents_offset: int
    """Every documents offset up to and including it is covered, unless `progress_held`."""
    progress_held: bool = False
    """Says nothing of earlier offsets: the partition's progress stays where it is."""
    write: Write | None = None
    """None when nothing changed but the progress."""


class Label(NamedTuple):
    """All that decides, beside the collection, who may see a row."""

    partition: int
    access_groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class NewRows:
    """Chunks that one transaction added to one collection, in the order of their ids."""

    ids: RowIds
    vectors: Matrix
    labels: list[Label]
    """One a row."""
    embedding_fingerprint: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What one transaction changed."""

    partition: int
    progress: Progress
    removed: Mapping[CollectionKey, RowIds]
    added: Mapping[CollectionKey, NewRows]


@dataclass(frozen=True, slots=True)
class HitRow:
    """A chunk and what is shown of its document."""

    document_id: str
    chunk: int
    text: str
    start: int
    end: int
    title: str
    metadata: Mapping[str, MetadataValue]
    version: int
    partition: int
