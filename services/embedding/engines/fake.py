"""An engine without a model: a vector is the sum of its words' vectors, each drawn from a hash of the word.

So texts that share words are near each other, the same everywhere and always, and the system runs without a model.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from services.embedding.engines import Model, TextKind, Tokens
from services.embedding.settings import EmbeddingSettings

_MAX_TOKENS = 256
_REMEMBERED_WORDS = 4096
_WORD = re.compile(r"\w+")


class FakeEmbedder:
    """Words to vectors by hashing, after a delay of choice."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        self._dimensions = settings.fake_dimensions
        self._delay_seconds = settings.fake_delay_ms / 1000
        self._jitter_seconds = settings.fake_delay_jitter_ms / 1000
        self._word_vector = lru_cache(_REMEMBERED_WORDS)(self._new_word_vector)
        self.model = Model(
            fingerprint=f"fake@1/f32/sum/words-{self._dimensions}",
            name="fake",
            dimensions=self._dimensions,
            max_tokens=_MAX_TOKENS,
            engine="fake",
        )

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[Tokens]:
        return [self._tokens(text) for text in texts]

    def infer(self, batch: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        if self._delay_seconds or self._jitter_seconds:
            time.sleep(self._delay_seconds + random.uniform(0, self._jitter_seconds))
        return np.stack([self._vector(ids) for ids in batch])

    def close(self) -> None:
        pass

    def _tokens(self, text: str) -> Tokens:
        words = _WORD.findall(text.lower()) or [text]
        ids = [xxhash.xxh3_64_intdigest(word.encode()) >> 1 for word in words[:_MAX_TOKENS]]
        return Tokens(np.array(ids, dtype=np.int64), truncated=len(words) > _MAX_TOKENS)

    def _new_word_vector(self, word: int) -> NDArray[np.float64]:
        return np.random.default_rng(word).standard_normal(self._dimensions)

    def _vector(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(np.sum([self._word_vector(int(word)) for word in np.unique(ids)], axis=0), dtype=np.float32)
