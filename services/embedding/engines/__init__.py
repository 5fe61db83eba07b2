"""What turns tokens into vectors: one Protocol, and one module an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.embedding.settings import EmbeddingSettings


class TextKind(StrEnum):
    """What a text is; some models are trained with a prompt before each kind."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Model:
    """The model that an engine runs."""

    fingerprint: str
    """Name, revision, precision, pooling and SHA-256 of the weights. Vectors of equal ones can be compared."""
    name: str
    dimensions: int
    max_tokens: int
    """The window, special tokens included."""
    engine: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as the model reads it."""

    ids: NDArray[np.int64]
    truncated: bool
    """The text was longer than the window."""


class Embedder(Protocol):
    """An engine. Its methods block: call them on threads, `infer` on one at a time, beside any number of `tokenize`."""

    @property
    def model(self) -> Model:
        """What it runs."""
        ...

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[Tokens]:
        """Each text's tokens, at least one and cut to the window."""
        ...

    def infer(self, batch: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """One row a text, [len(batch), dimensions], before they are made unit vectors."""
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...


def open_engine(settings: EmbeddingSettings) -> Embedder:
    """Load the engine that the settings name. Blocks while the model loads. Raises HeadwaterError saying what to do."""
    match settings.engine:
        case "openvino":
            from .openvino import OpenVinoEmbedder

            return OpenVinoEmbedder(settings)
        case "sentence_transformers":
            from .sentence_transformers import SentenceTransformersEmbedder

            return SentenceTransformersEmbedder(settings)
        case "fake":
            from .fake import FakeEmbedder

            return FakeEmbedder(settings)
