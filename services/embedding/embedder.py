"""Texts to vectors: what is checked, what is remembered, and what goes to the batcher."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.embedding import metrics
from services.embedding.batcher import Batcher, Lane, Row, Timings
from services.embedding.engines import Model, TextKind
from services.embedding.errors import FingerprintMismatch
from serving.errors import InvalidArgument
from serving.limits import MAX_TEXT_BYTES, MAX_TEXTS


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of a call's texts, in their order."""

    vectors: NDArray[np.float32]
    """[texts, dimensions], each row of length 1."""
    token_counts: list[int]
    truncated: list[int]
    """Indices of the texts that were longer than the window."""
    timings: Timings


class TextEmbedder:
    """What the service does, in its own terms."""

    def __init__(self, model: Model, batcher: Batcher, *, max_cached_queries: int) -> None:
        self.model = model
        self._batcher = batcher
        self._remembered = _Remembered(max_cached_queries)

    async def embed(
        self, texts: Sequence[str], kind: TextKind, *, interactive: bool, expected_fingerprint: str = ""
    ) -> Embedded:
        """Raises InvalidArgument naming the field and the limit, FingerprintMismatch, or what the batcher raises."""
        _check(texts)
        if expected_fingerprint and expected_fingerprint != self.model.fingerprint:
            raise FingerprintMismatch(expected_fingerprint, self.model.fingerprint)
        keys = [_key(text, kind) for text in texts]
        remembers = kind is TextKind.QUERY
        rows = self._remembered.find(keys) if remembers else {}
        metrics.TEXTS.labels("cached").inc(len(rows))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
        timings = Timings()
        if missing:
            found, timings = await self._batcher.embed(missing, kind, Lane.QUESTIONS if interactive else Lane.DOCUMENTS)
            rows |= found
            if remembers:
                self._remembered.keep(found)
        ordered = [rows[key] for key in keys]
        return Embedded(
            vectors=np.stack([row.vector for row in ordered]),
            token_counts=[row.tokens for row in ordered],
            truncated=[index for index, row in enumerate(ordered) if row.truncated],
            timings=timings,
        )

    async def warm_up(self) -> None:
        """Run the model on a short and a long text, so that no caller pays for what is made on first use."""
        await self.embed(["warm", "up " * self.model.max_tokens], TextKind.DOCUMENT, interactive=False)


class _Remembered:
    """The vectors of the questions asked last."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows: OrderedDict[bytes, Row] = OrderedDict()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        found = {key: self._rows[key] for key in keys if key in self._rows}
        for key in found:
            self._rows.move_to_end(key)
        return found

    def keep(self, rows: dict[bytes, Row]) -> None:
        for key, row in rows.items():
            self._rows[key] = replace(row, vector=row.vector.copy())  # a row of a batch would keep the whole batch
            self._rows.move_to_end(key)
        while len(self._rows) > self._max_rows:
            self._rows.popitem(last=False)


def _key(text: str, kind: TextKind) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16, person=kind.value.encode()).digest()


def _check(texts: Sequence[str]) -> None:
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise InvalidArgument(f"texts: there are {len(texts)}; send 1 to {MAX_TEXTS}", field="texts")
    for index, text in enumerate(texts):
        if not text.strip():
            raise InvalidArgument(f"texts[{index}] is empty", field=f"texts[{index}]")
        size = len(text.encode())
        if size > MAX_TEXT_BYTES:
            raise InvalidArgument(
                f"texts[{index}] has {size} bytes; the limit is {MAX_TEXT_BYTES}", field=f"texts[{index}]"
            )
