"""Finding chunks: `Search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from serving.errors import HeadwaterError, InvalidArgument, Unavailable

from . import metrics
from .answerer import coverage_degradation, embedding_unavailable
from .authentication import Caller
from .embedder import Embedder, Matrix, TextKind
from .resolver import Resolver
from .retriever import Found, Retriever
from .stages import Stages
from .values import Collection, Degradation, Timing, WriteToken


@dataclass(frozen=True, slots=True)
class Queries:
    """What is looked for: each query is a text or a vector (little-endian float32)."""

    collection: str
    queries: Sequence[str | bytes]
    k: int
    after: WriteToken | None
    strict: bool


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What was found."""

    found: Found
    degradations: tuple[Degradation, ...]
    timings: tuple[Timing, ...]


class ModelClient(Protocol):
    """Whoever knows the embedding model."""

    async def dimensions(self, fingerprint: str) -> int | None:
        """Columns of that model's vectors; None when another is served. Raises Unavailable and its like."""
        ...


class Searching:
    """Embeds the texts in one call, then asks the shards."""

    def __init__(self, resolver: Resolver, embedder: Embedder, models: ModelClient, retriever: Retriever) -> None:
        self._resolver = resolver
        self._embedder = embedder
        self._models = models
        self._retriever = retriever

    async def search(self, caller: Caller, queries: Queries) -> SearchAnswer:
        """The k best chunks a query, in the order of the queries."""
        stages = Stages()
        collection = await self._resolver.resolve(caller, queries.collection, queries.after)
        with stages.stage("embed"):
            vectors = await self._vectors(collection, queries.queries)
        with stages.stage("retrieve"):
            found = await self._retriever.search(collection, vectors, queries.k, queries.after, strict=queries.strict)
        degradation = coverage_degradation(found.coverage)
        if degradation:
            metrics.DEGRADATIONS.labels(degradation.kind.value).inc()
        return SearchAnswer(found, (degradation,) if degradation else (), stages.timings())

    async def _vectors(self, collection: Collection, queries: Sequence[str | bytes]) -> Matrix:
        texts = [query for query in queries if isinstance(query, str)]
        embedded = iter(await self._embed(texts, collection) if texts else ())
        dimensions = await self._dimensions(collection) if len(texts) < len(queries) else 0
        rows = [
            next(embedded) if isinstance(query, str) else _row(query, n, dimensions) for n, query in enumerate(queries)
        ]
        if len({len(row) for row in rows}) > 1:
            raise InvalidArgument(
                "the queries' vectors have different dimensions", field="queries", reason="WRONG_DIMENSION"
            )
        return np.stack(rows)

    async def _embed(self, texts: Sequence[str], collection: Collection) -> Matrix:
        try:
            return await self._embedder.embed(texts, TextKind.QUERY, collection.fingerprint)
        except Unavailable as error:
            raise embedding_unavailable() from error

    async def _dimensions(self, collection: Collection) -> int:
        """0 when it cannot be known here: then the shards check."""
        try:
            return await self._models.dimensions(collection.fingerprint) or 0
        except HeadwaterError:
            return 0


def _row(data: bytes, number: int, dimensions: int) -> Matrix:
    field = f"queries[{number}].vector"
    if len(data) % 4 or (dimensions and len(data) != 4 * dimensions):
        wanted = f"{dimensions} dimensions, {4 * dimensions} bytes" if dimensions else "a multiple of 4 bytes"
        raise InvalidArgument(
            f"the vector has {len(data)} bytes; the collection takes little-endian float32 of {wanted}",
            field=field,
            reason="WRONG_DIMENSION",
        )
    row = np.frombuffer(data, dtype="<f4")
    if not np.isfinite(row).all():
        raise InvalidArgument("the vector holds numbers that are not finite", field=field)
    return row
