"""An entry and what is told of it, as this process handles them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document whose chunk was a candidate, used or not."""

    document_id: str
    score: float


@dataclass(frozen=True, slots=True)
class Header:
    """All of an entry but its answer."""

    entry_id: bytes
    key_hash: bytes
    collection_id: str
    log_id: bytes
    index_offsets: Mapping[int, int]
    """Per partition, the first index offset that was not applied when the answer was retrieved."""
    candidates: tuple[Candidate, ...]
    dense_cutoff: float
    lexical_cutoff: float
    question_vector: bytes
    """Little-endian float32; may be empty."""
    stored_unix_ms: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry was stored."""

    header: Header


@dataclass(frozen=True, slots=True)
class Released:
    """A lease was given back without an answer."""

    key_hash: bytes


@dataclass(frozen=True, slots=True)
class Invalidated:
    """Entries of the collection are to be dropped."""

    collection_id: str


Event = Stored | Released | Invalidated
