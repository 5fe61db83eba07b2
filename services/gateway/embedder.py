"""Vectors of texts: asked of the embedding service, and remembered by the hash of their text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from serving.errors import HeadwaterError

from .settings import GatewaySettings

Matrix = NDArray[np.float32]


class TextKind(StrEnum):
    """What the texts are; named as in headwater.embedding.v1."""

    QUERY = "QUERY"
    DOCUMENT = "DOCUMENT"


class EmbeddingClient(Protocol):
    """The embedding service."""

    async def embed(self, texts: Sequence[str], kind: TextKind, fingerprint: str) -> Matrix:
        """One unit row a text, of the model with that fingerprint (FailedPrecondition when another is served)."""
        ...


class Embedder:
    """Asks only for vectors it does not remember."""

    def __init__(self, client: EmbeddingClient, settings: GatewaySettings) -> None:
        self._client = client
        self._vectors: LRUCache[bytes, NDArray[np.float32]] = LRUCache(settings.vector_cache_entries)

    async def embed(self, texts: Sequence[str], kind: TextKind, fingerprint: str) -> Matrix:
        """float32 matrix [len(texts), dimensions]; at most 256 texts.

        Raises Unavailable and its like when the service is down, FailedPrecondition when it serves another model.
        """
        keys = [_key(text, kind, fingerprint) for text in texts]
        found = {key: vector for key in keys if (vector := self._vectors.get(key)) is not None}
        wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if wanted:
            rows = await self._client.embed(list(wanted.values()), kind, fingerprint)
            if len(rows) != len(wanted):
                raise HeadwaterError(f"the embedding service returned {len(rows)} vectors for {len(wanted)} texts")
            fresh = dict(zip(wanted, rows, strict=True))
            self._vectors.update(fresh)
            found |= fresh
        return np.stack([found[key] for key in keys])


def _key(text: str, kind: TextKind, fingerprint: str) -> bytes:
    return hashlib.blake2b(f"{fingerprint}\0{kind}\0{text}".encode(), digest_size=16).digest()
