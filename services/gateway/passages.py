"""Which chunks become the passages of a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .support import COMMON_WORDS
from .values import Hit, Passage

# English runs at four to five characters a token; three leaves room for text that does not.
CHARACTERS_PER_TOKEN = 3

_TELLING_CHARACTERS = 3
_WORD = re.compile(r"\w+")


def select(hits: Sequence[Hit], *, max_passages: int, max_tokens: int) -> tuple[Passage, ...]:
    """The best hits (best first) that fit, numbered from 1 in the order of their documents and chunks.

    That order is the same whichever question found them, so that prompts over the same passages share their beginning,
    and the model's prefix cache with it. The best hit is always taken; a text that was already taken is not.
    """
    chosen: list[Hit] = []
    texts: set[str] = set()
    left = max_tokens * CHARACTERS_PER_TOKEN
    for hit in hits:
        if len(chosen) == max_passages:
            break
        if hit.text in texts or (chosen and len(hit.text) > left):
            continue
        chosen.append(hit)
        texts.add(hit.text)
        left -= len(hit.text)
    chosen.sort(key=lambda hit: (hit.document_id, hit.chunk))
    return tuple(Passage(number, hit) for number, hit in enumerate(chosen, 1))


def are_noise(question: str, passages: Sequence[Passage], *, min_score: float) -> bool:
    """Whether the passages are just the least unlike of what there is: none reaches the score, and none has a word of
    the question (of three letters or more, and not one that any text has). A question of common words alone is never
    judged by them."""
    if any(passage.hit.score >= min_score for passage in passages):
        return False
    wanted = {word for word in _words(question) - COMMON_WORDS if len(word) >= _TELLING_CHARACTERS}
    return bool(wanted) and all(wanted.isdisjoint(_words(passage.hit.text)) for passage in passages)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}
