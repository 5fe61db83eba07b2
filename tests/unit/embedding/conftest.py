"""A fake engine that runs when it is told to, and says what it ran."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from services.embedding.engines.fake import FakeEmbedder
from services.embedding.settings import EmbeddingSettings


class HeldEngine(FakeEmbedder):
    """The fake engine behind a gate: a batch begins when there is a pass for it."""

    def __init__(self) -> None:
        super().__init__(EmbeddingSettings(engine="fake"))
        self.batches: list[list[int]] = []
        """The token counts of each batch, in the order they were begun."""
        self.began = threading.Semaphore(0)
        self._passes = threading.Semaphore(0)

    def let(self, batches: int) -> None:
        """Let so many batches through."""
        self._passes.release(batches)

    def infer(self, batch: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        self.batches.append([len(ids) for ids in batch])
        self.began.release()
        self._passes.acquire()
        return super().infer(batch)

    def close(self) -> None:
        self.let(1_000_000)


@pytest.fixture
def held() -> HeldEngine:
    return HeldEngine()
