"""What the gateway speaks of inside: plain values, without protos.

Hits and documents pass through as the shards' own messages, read through the Protocols below, so that nothing is
copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose request it is, and what it may see."""

    tenant: str
    collection_id: str
    access_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection, resolved for one caller."""

    scope: Scope
    generation: int
    fingerprint: str
    """Of the embedding model."""
    spread: int
    partitions: tuple[int, ...]
    """All partitions that may hold its documents."""


@dataclass(frozen=True, slots=True)
class WriteToken:
    """What a read must see. `collections_offset` 0 asks for nothing."""

    log_id: bytes
    collections_offset: int = 0
    documents_offsets: Mapping[int, int] = field(default_factory=dict)

    def only(self, partitions: Sequence[int]) -> WriteToken | None:
        """What it asks of these partitions; None when that is nothing."""
        offsets = {p: self.documents_offsets[p] for p in partitions if p in self.documents_offsets}
        return WriteToken(self.log_id, 0, offsets) if offsets else None

    def including(self, other: WriteToken | None) -> WriteToken:
        """The token that asks for all that both ask for; both are of the same log."""
        if other is None:
            return self
        offsets = dict(self.documents_offsets)
        for partition, offset in other.documents_offsets.items():
            offsets[partition] = max(offsets.get(partition, -1), offset)
        return WriteToken(self.log_id, max(self.collections_offset, other.collections_offset), offsets)


class Hit(Protocol):
    """A retrieved chunk."""

    @property
    def document_id(self) -> str: ...
    @property
    def chunk(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def text(self) -> str: ...
    @property
    def title(self) -> str: ...


class DocumentState(IntEnum):
    """What became of a document; numbered as in headwater.common.v1."""

    UNSPECIFIED = 0
    PENDING = 1
    INDEXED = 2
    REJECTED = 3
    DELETED = 4
    UNKNOWN = 5


class Document(Protocol):
    """A document as the index knows it."""

    @property
    def document_id(self) -> str: ...
    @property
    def state(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one partition is: the first offsets not yet applied."""

    partition: int
    generation: int
    documents_offset: int
    index_offset: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the partitions that hold the collection, which answered."""

    total: int
    missing: tuple[int, ...] = ()

    @property
    def answered(self) -> int:
        return self.total - len(self.missing)


@dataclass(frozen=True, slots=True)
class Timing:
    """Time spent in one stage, in milliseconds."""

    stage: str
    milliseconds: float


class DegradationKind(StrEnum):
    """The ways in which an answer can be less than it should be; named as in headwater.common.v1."""

    CACHE_UNAVAILABLE = "CACHE_UNAVAILABLE"
    PARTIAL_COVERAGE = "PARTIAL_COVERAGE"
    GENERATION_UNAVAILABLE = "GENERATION_UNAVAILABLE"
    GENERATION_PARTIAL = "GENERATION_PARTIAL"
    SENTENCE_WITHHELD = "SENTENCE_WITHHELD"
    CITATION_WITHHELD = "CITATION_WITHHELD"
    EVIDENCE_UNRANKED = "EVIDENCE_UNRANKED"


@dataclass(frozen=True, slots=True)
class Degradation:
    """Something left out or replaced, in a sentence for a person."""

    kind: DegradationKind
    message: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage given to the model. `number` counts from 1: what a mark [n] points at."""

    number: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence of a passage, and how well it matches the question."""

    passage: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark in the answer: the passage, the sentence of it that holds the claim, the mark's place in characters."""

    passage: int
    document_id: str
    chunk: int
    evidence: str
    position: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0


class CacheOutcome(StrEnum):
    """Where an answer came from; named as in headwater.gateway.v1."""

    MISS = "MISS"
    HIT = "HIT"
    SHARED = "SHARED"
    BYPASSED = "BYPASSED"


@dataclass(frozen=True, slots=True)
class Retrieved:
    """First event of an answer: what was found."""

    passages: tuple[Passage, ...]
    coverage: Coverage
    progress: tuple[Progress, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """Last event of an answer."""

    answer: str
    citations: tuple[Citation, ...]
    evidence: tuple[Evidence, ...]
    usage: Usage
    finish_reason: str
    """"stop" or "length"."""
    model: str
    cache: CacheOutcome
    degradations: tuple[Degradation, ...] = ()
    timings: tuple[Timing, ...] = ()
