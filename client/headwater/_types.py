"""What goes into the client and comes out of it: plain values, no protos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from ._errors import HeadwaterError

MetadataValue: TypeAlias = str | float | bool | Sequence[str]
"""One metadata value: a keyword, a number, a flag, or several keywords."""

_NO_METADATA: Final[Mapping[str, MetadataValue]] = MappingProxyType({})


class WriteToken(str):
    """What a write promised, opaque. A read that carries it sees the write, or fails within its deadline.

    Tokens merge: a read after `one | other` sees both writes. It is a string, to be stored or handed to another
    process.
    """

    __slots__ = ()

    def __or__(self, other: str) -> WriteToken:
        parts = dict.fromkeys(part for token in (str(self), str(other)) for part in token.split(",") if part)
        return WriteToken(",".join(parts))

    __ror__ = __or__


class OwnWrites(Enum):
    """The default of `after`: what this client itself wrote to the collection."""

    OWN_WRITES = "OWN_WRITES"


OWN_WRITES: Final = OwnWrites.OWN_WRITES


@dataclass(frozen=True, slots=True)
class Document:
    """A document to put.

    id: unique in its collection; 1 to 512 bytes of UTF-8 without control characters.
    text: the body as text; or else
    body: the body as bytes, 1 byte to 16 MiB, of `content_type`.
    content_type: "text/plain", "text/markdown", "text/html" or "application/pdf"; empty for "text/plain".
    title: up to 1 KiB.
    metadata: up to 16 KiB.
    access_groups: at most 32; a document without any is visible to the whole tenant.
    """

    id: str
    text: str = ""
    body: bytes = b""
    content_type: str = ""
    title: str = ""
    metadata: Mapping[str, MetadataValue] = field(default_factory=lambda: _NO_METADATA)
    access_groups: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.text and self.body:
            raise ValueError("a document has either text or a body, not both")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A document that was not written, and why."""

    document_id: str
    error: HeadwaterError


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a put or a delete. It can be given as `after` itself.

    token: a read that carries it sees every write accepted; empty when nothing was written.
    accepted: number of documents that the log has.
    refused: documents that did not land.
    unknown: documents of which it is not known whether they landed.
    """

    token: WriteToken
    accepted: int
    refused: tuple[Refusal, ...] = ()
    unknown: tuple[Refusal, ...] = ()

    def __or__(self, other: WriteResult | str) -> WriteToken:
        return self.token | (other.token if isinstance(other, WriteResult) else other)

    __ror__ = __or__


OnOutcome: TypeAlias = Callable[[str, "HeadwaterError | None"], None]
"""Told of each write as its outcome is known: the document's id, and why it was not written (None when it was)."""

After: TypeAlias = WriteToken | WriteResult | str | OwnWrites | None
"""What a read must see: a token (or the result of a write), the client's own writes, or None for nothing."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a search: text of up to 8 KiB, or a vector of the collection's dimension."""

    text: str = ""
    id: str = ""
    vector: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found.

    score: higher is better; the inner product of unit vectors, in [-1, 1], when found by vectors.
    start, end: where the chunk stands in the document's extracted text, in characters; end exclusive.
    version: the document's version; higher is newer, within `partition`.
    """

    document_id: str
    chunk: int
    score: float
    text: str
    title: str = ""
    start: int = 0
    end: int = 0
    metadata: Mapping[str, MetadataValue] = field(default_factory=lambda: _NO_METADATA)
    version: int = 0
    partition: int = 0


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the partitions that hold the collection, how many answered in time."""

    partitions_answered: int
    partitions_total: int
    partitions_missing: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """True when every partition answered."""
        return self.partitions_answered == self.partitions_total


@dataclass(frozen=True, slots=True)
class Degradation:
    """Something that was left out or replaced while answering: a kind for programs, a sentence for people."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a query found, best first. Iterating goes over the hits.

    id: the query's.
    timings_ms: wall time by stage, of the call that the query went with.
    """

    id: str
    hits: tuple[Hit, ...]
    coverage: Coverage
    degradations: tuple[Degradation, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    max_tokens: most tokens generated, 1 to 4,096; 0 for the gateway's default.
    temperature: 0 is greedy; at most 2.
    top_p: nucleus, in (0, 1]; 0 for 1.
    """

    max_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage given to the model; a citation mark [n] in the answer points at the one with that number."""

    number: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark in the answer: the passage it points at, the sentence that holds it, and its place in characters."""

    passage: int
    document_id: str
    chunk: int
    evidence: str
    position: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence of a passage that matches the question, without Markdown; a higher score is a better match."""

    passage: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the model read and wrote, and how many it had read before."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0


class CacheOutcome(StrEnum):
    """Where an answer came from."""

    UNSPECIFIED = "unspecified"
    MISS = "miss"
    HIT = "hit"
    SHARED = "shared"
    BYPASSED = "bypassed"


@dataclass(frozen=True, slots=True)
class Retrieved:
    """First event of an answer: the passages found, before anything is generated."""

    passages: tuple[Passage, ...]
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Token:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """Last event of an answer.

    evidence: the sentences that match the question best, best first.
    timings_ms: wall time by stage.
    degradations: empty for a whole answer.
    finish_reason: "stop" or "length".
    """

    answer: str
    citations: tuple[Citation, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    usage: Usage = Usage()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    cache: CacheOutcome = CacheOutcome.UNSPECIFIED
    degradations: tuple[Degradation, ...] = ()
    finish_reason: str = ""
    model: str = ""


Event: TypeAlias = Retrieved | Token | Done
"""An event of an answer, in this order: one `Retrieved`, any number of `Token`, one `Done`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: what `Done` says, with the passages and the coverage of `Retrieved`."""

    text: str
    citations: tuple[Citation, ...]
    passages: tuple[Passage, ...]
    evidence: tuple[Evidence, ...]
    usage: Usage
    timings_ms: Mapping[str, float]
    cache: CacheOutcome
    degradations: tuple[Degradation, ...]
    coverage: Coverage
    finish_reason: str
    model: str

    @classmethod
    def of(cls, retrieved: Retrieved, done: Done) -> Answer:
        """The answer that these two events tell of."""
        return cls(
            text=done.answer,
            citations=done.citations,
            passages=retrieved.passages,
            evidence=done.evidence,
            usage=done.usage,
            timings_ms=done.timings_ms,
            cache=done.cache,
            degradations=done.degradations,
            coverage=retrieved.coverage,
            finish_reason=done.finish_reason,
            model=done.model,
        )


class DocumentState(StrEnum):
    """What became of a document."""

    PENDING = "pending"
    INDEXED = "indexed"
    REJECTED = "rejected"
    DELETED = "deleted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DocumentStatus:
    """A document as the index knows it.

    reason: why it was rejected; empty otherwise.
    chunks: how many it was split into.
    characters: length of its extracted text.
    """

    document_id: str
    state: DocumentState
    reason: str = ""
    title: str = ""
    metadata: Mapping[str, MetadataValue] = field(default_factory=lambda: _NO_METADATA)
    access_groups: tuple[str, ...] = ()
    chunks: int = 0
    characters: int = 0
    version: int = 0
    partition: int = 0


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """What a collection decides for its documents; zero values take the defaults.

    embedding_fingerprint: of the embedding model; empty for the embedding service's current one.
    max_chunk_tokens: longest chunk, in tokens of the embedding model.
    chunk_overlap_tokens: tokens shared by neighbouring chunks.
    spread: how many partitions the documents are spread over.
    """

    embedding_fingerprint: str = ""
    max_chunk_tokens: int = 0
    chunk_overlap_tokens: int = 0
    spread: int = 0


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection. `collection_id` is new each time the name is created; `created_unix_ms` is since the epoch."""

    name: str
    collection_id: str
    tenant: str
    settings: CollectionSettings
    generation: int
    created_unix_ms: int


@dataclass(frozen=True, slots=True)
class CollectionDetails:
    """A collection and how much it holds; `coverage` says of how many partitions the counts are."""

    collection: Collection
    documents: int
    chunks: int
    rejected: int
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How a service is; `detail` is one line: what it runs, or why it is not ready."""

    name: str
    ready: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Status:
    """How the services behind the gateway are, and which tenant the caller is."""

    services: tuple[ServiceStatus, ...]
    tenant: str
