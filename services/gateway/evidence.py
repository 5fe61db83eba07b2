"""The sentences of the passages that match the question best."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serving.errors import ErrorCode, HeadwaterError
from serving.limits import MAX_TEXTS

from . import sentences
from .embedder import Embedder, Matrix, TextKind
from .values import Evidence, Passage

# How far below the best sentence's score another may be, as a share of it. Of 41 second-best sentences of XQuAD that
# were further below, none held the answer.
_NEAR = 0.3
_WORD = re.compile(r"\w+")
# What the embedding service says when it cannot answer now; anything else is a fault of ours and must be seen.
_DOWN = {ErrorCode.UNAVAILABLE, ErrorCode.RESOURCE_EXHAUSTED, ErrorCode.DEADLINE_EXCEEDED, ErrorCode.INTERNAL}


@dataclass(frozen=True, slots=True)
class RankedEvidence:
    """The sentences of the passages that match the question, best first; at least one."""

    sentences: tuple[Evidence, ...]
    by_meaning: bool
    """False when they could only be ranked by the words they share with the question."""


async def rank(
    embedder: Embedder, question: str, question_vector: Matrix, passages: Sequence[Passage], fingerprint: str
) -> RankedEvidence:
    """Rank the passages' sentences by their similarity to the question ([1, dimensions]), or by shared words when the
    embedding service does not answer. The same sentence in two passages counts once, and those far below the best are
    left out: small models mix them into what they say."""
    found = _by_text(passages, sentences.split) or _by_text(passages, sentences.without_sentences)
    texts = list(found)[:MAX_TEXTS]
    try:
        vectors = await embedder.embed(texts, TextKind.DOCUMENT, fingerprint)
    except HeadwaterError as error:
        if error.code not in _DOWN:
            raise
        return _ranked(found, texts, _overlap(question, texts), by_meaning=False)
    return _ranked(found, texts, vectors @ question_vector[0], by_meaning=True)


def _by_text(passages: Sequence[Passage], parts: Callable[[str], Sequence[str]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for passage in passages:
        for part in parts(passage.hit.text):
            found.setdefault(part, passage.number)
    return found


def _ranked(found: dict[str, int], texts: list[str], scores: Matrix, *, by_meaning: bool) -> RankedEvidence:
    best = float(scores.max())
    order = [place for place in np.argsort(-scores, kind="stable") if scores[place] >= best - _NEAR * abs(best)]
    return RankedEvidence(tuple(Evidence(found[texts[i]], texts[i], float(scores[i])) for i in order), by_meaning)


def _overlap(question: str, texts: list[str]) -> Matrix:
    """For each text, the share of the question's words that it has; words that most texts have count for less."""
    wanted = _words(question)
    have = [_words(text) for text in texts]
    weights = {word: 1.0 / (1 + sum(word in words for words in have)) for word in wanted}
    total = sum(weights.values()) or 1.0
    return np.array([sum(weights[word] for word in wanted & words) / total for words in have], dtype=np.float32)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}
