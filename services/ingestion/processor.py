"""One document on its way from the log to the index: parse, split, embed, encode."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Protocol

from serving import limits, telemetry
from serving.errors import ErrorCode, HeadwaterError

from . import metrics, parsers, records
from .documents import CollectionSpec, Content, Vectors
from .errors import DocumentRejected
from .parsers.pool import Parsed
from .records import Source

_log = telemetry.get_logger(__name__)

_LIBRARIES: Final = ("charset-normalizer", "pypdf", "selectolax", "semantic-text-splitter")
_MAX_CALL_TEXTS: Final = 64
_RECORD_SLACK_BYTES: Final = 64 * 1024
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0
_SAY_AGAIN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of some texts."""

    vectors: Vectors
    truncated: int
    """How many texts were longer than the model's window."""


class Embedder(Protocol):
    """Who makes vectors."""

    async def embed(self, texts: Sequence[str], fingerprint: str) -> Embedded:
        """One row a text, by the model of that fingerprint. Raises HeadwaterError."""
        ...


class Parser(Protocol):
    """Who makes text."""

    async def parse(self, content_type: str, body: bytes, *, max_tokens: int, overlap_tokens: int) -> Parsed:
        """Text and chunks. Raises DocumentRejected."""
        ...


class Processor:
    """Makes index records of documents, many at once, for all of a worker's partitions."""

    def __init__(self, parser: Parser, embedder: Embedder, *, tokenizer_fingerprint: str, max_embed_calls: int) -> None:
        self._parser = parser
        self._embedder = embedder
        self._embed_calls = asyncio.Semaphore(max_embed_calls)
        libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
        self._fingerprint = json.dumps([parsers.VERSION, libraries, tokenizer_fingerprint])
        self._said_at = 0.0

    def content_hash(self, content: Content, collection: CollectionSpec) -> bytes:
        """Hash of all content fields and of what processes them: equal hashes give equal records."""
        described = json.dumps(
            [
                self._fingerprint,
                collection.embedding_fingerprint,
                collection.max_chunk_tokens,
                collection.chunk_overlap_tokens,
                content.content_type,
                content.title,
                sorted(content.access_groups),
                dict(content.metadata),
            ],
            sort_keys=True,
        )
        return hashlib.blake2b(described.encode() + b"\0" + content.body, digest_size=32).digest()

    async def process(
        self,
        source: Source,
        content: Content,
        collection: CollectionSpec,
        content_hash: bytes,
        wanted: Callable[[], bool],
    ) -> bytes:
        """The index record. Raises DocumentRejected, and nothing else: a dependency that fails is waited for, for as
        long as the document is wanted."""
        with metrics.PARSE_SECONDS.labels(content.content_type).time(), telemetry.span("ingestion.parse"):
            parsed = await self._parser.parse(
                content.content_type,
                content.body,
                max_tokens=collection.max_chunk_tokens,
                overlap_tokens=collection.chunk_overlap_tokens,
            )
        with metrics.EMBED_SECONDS.time(), telemetry.span("ingestion.embed"):
            vectors = await self._embed(parsed, collection.embedding_fingerprint, wanted)
        value = records.encode_indexed(source, content, collection, parsed, vectors, content_hash)
        _check_size(len(value))
        metrics.CHUNKS.inc(vectors.count)
        return value

    async def _embed(self, parsed: Parsed, fingerprint: str, wanted: Callable[[], bool]) -> Vectors:
        texts = [piece.text for piece in parsed.pieces]
        text_bytes = sum(len(text.encode()) for text in texts)
        rows: list[bytes] = []
        dimensions = 0
        for start in range(0, len(texts), _MAX_CALL_TEXTS):
            vectors = await self._embed_call(texts[start : start + _MAX_CALL_TEXTS], fingerprint, wanted)
            rows.append(vectors.data)
            dimensions = vectors.dimensions
            # known after the first call: nobody embeds for hours what the log cannot hold
            _check_size(text_bytes + 4 * dimensions * len(texts))
        return Vectors(b"".join(rows), dimensions, len(texts))

    async def _embed_call(self, texts: Sequence[str], fingerprint: str, wanted: Callable[[], bool]) -> Vectors:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._embed_calls:
                    embedded = await self._embedder.embed(texts, fingerprint)
                if embedded.vectors.count != len(texts):
                    raise HeadwaterError("the embedding service gave another number of vectors than texts")
                metrics.TRUNCATED_CHUNKS.inc(embedded.truncated)
                return embedded.vectors
            except HeadwaterError as error:
                if error.code is ErrorCode.INVALID_ARGUMENT:
                    raise DocumentRejected(
                        "EMBEDDING_REFUSED", "the embedding service does not take the document's text"
                    ) from error
                if not wanted():
                    raise DocumentRejected("COLLECTION_DELETED", "its collection was deleted") from error
                self._say(error)
                pause = max(pause_seconds * random.uniform(0.5, 1.0), error.retry_after_ms / 1000)
                await asyncio.sleep(min(pause, _LONGEST_PAUSE_SECONDS))
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _say(self, error: HeadwaterError) -> None:
        metrics.DEPENDENCY_RETRIES.labels(error.reason).inc()
        if time.monotonic() - self._said_at >= _SAY_AGAIN_SECONDS:
            self._said_at = time.monotonic()
            _log.warning(
                "embedding does not answer; partitions wait for it", reason=error.reason, message=error.message
            )


def _check_size(record_bytes: int) -> None:
    if record_bytes + _RECORD_SLACK_BYTES > limits.MAX_LOG_RECORD_BYTES:
        raise DocumentRejected(
            "RECORD_TOO_LARGE",
            f"the document's text and vectors are more than the {limits.MAX_LOG_RECORD_BYTES} bytes that one record of"
            " the log may have; split it",
        )
