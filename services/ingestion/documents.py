"""What ingestion speaks of: writes, collections, and what became of a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

MetadataValue: TypeAlias = str | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """A document's content as it was sent."""

    body: bytes
    content_type: str
    title: str
    metadata: Mapping[str, MetadataValue | None]
    """None where a value was left out, which validation refuses."""
    access_groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """A put, or a deletion."""

    tenant: str
    collection_id: str
    document_id: str
    write_id: bytes
    accepted_ms: int
    """Milliseconds since the epoch."""
    collections_offset: int
    content: Content | None
    """None deletes."""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """A collection and its settings, none of them a default any more."""

    collection_id: str
    tenant: str
    name: str
    generation: int
    created_ms: int
    spread: int
    max_chunk_tokens: int
    chunk_overlap_tokens: int
    embedding_fingerprint: str


@dataclass(frozen=True, slots=True)
class Landed:
    """Where the log has a write."""

    partition: int
    offset: int
    collections_offset: int


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an earlier write."""

    landed: Landed | None
    settled: bool
    """Whether it can no longer land."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Rows of little-endian float32."""

    data: bytes
    dimensions: int
    count: int
