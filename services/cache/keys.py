"""What makes two questions the same, and where their answer lies in the store."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from serving import limits
from serving.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Question:
    """All that shapes an answer; `filter` and `parameters` are serialised deterministically by their owners."""

    tenant: str
    access_groups: tuple[str, ...]
    collection_id: str
    generation: int
    text: str
    filter: bytes
    model: str
    prompt_version: str
    parameters: bytes


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a question's answer: its key, and the names of its tenant and its collection in the store."""

    tenant_hash: str
    collection_id: str
    collection_hash: str
    key_hash: bytes


def slot_of(question: Question) -> Slot:
    """The question's slot.

    Raises InvalidArgument when the tenant, the collection or the question is empty, or the question too long.
    """
    if len(question.text.encode()) > limits.MAX_QUERY_BYTES:
        raise InvalidArgument(
            f"the question is longer than {limits.MAX_QUERY_BYTES} bytes; ask a shorter one", field="key.question"
        )
    text = normalise(question.text)
    if not text:
        raise InvalidArgument("the question is empty; ask something", field="key.question")
    tenant_hash, collection_hash = collection_hashes(question.tenant, question.collection_id)
    groups = sorted({group.encode() for group in question.access_groups})
    parts = [
        question.tenant.encode(),
        _encode(groups),
        question.collection_id.encode(),
        str(question.generation).encode(),
        text.encode(),
        question.filter,
        question.model.encode(),
        question.prompt_version.encode(),
        question.parameters,
    ]
    return Slot(tenant_hash, question.collection_id, collection_hash, hashlib.sha256(_encode(parts)).digest())


def collection_hashes(tenant: str, collection_id: str) -> tuple[str, str]:
    """Hex names of a tenant and of its collection in the store's keys, free of the store's wildcards and hash tags.

    Raises InvalidArgument when either is empty: an empty scope is nobody's.
    """
    if not tenant:
        raise InvalidArgument("the scope has no tenant", field="scope.tenant")
    if not collection_id:
        raise InvalidArgument("the scope has no collection_id", field="scope.collection_id")
    return _short_hash(tenant), _short_hash(collection_id)


def normalise(text: str) -> str:
    """Unicode NFKC, whitespace runs as one space, trimmed; case is kept, as it can change what is meant."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _encode(parts: Iterable[bytes]) -> bytes:
    # each part behind its length: no two lists of parts have the same encoding
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _short_hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]
