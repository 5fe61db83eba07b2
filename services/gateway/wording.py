"""The check of small models' words: one that is told to answer with the words of a text must use them.

What a small model adds of its own is mostly made up, and no number, date or name need be in it. So at least nine in ten
of a sentence's words must be the text's or the question's, in any form of the word; the common words of English are
free, but those that affirm or deny are not: "yes" must stand in the text. Nor are digits: "6" must not stand for the
text's "six". It knows English word forms; in other languages it is stricter than it needs to be, and more is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .support import COMMON_WORDS

_FREE_IN = 10
"""One word in so many may be the model's own."""
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_DECISIVE_WORDS = """
    yes no not never none neither nobody nothing cannot can't don't doesn't isn't won't unless
    """
_FREE = COMMON_WORDS - frozenset(_DECISIVE_WORDS.split())
_STEM_CHARACTERS = 4
_ENDING_CHARACTERS = 3


class Wording:
    """The words of the text that a model was given, and of the question."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._words = {word for text in texts for word in _words(text)}
        self._beginnings = {word[:end] for word in self._words for end in range(_STEM_CHARACTERS, len(word) + 1)}

    def holds(self, sentence: str) -> bool:
        """Whether the sentence (without its citation marks) keeps to these words."""
        words = [word for word in _words(sentence) if word not in _FREE]
        foreign = [word for word in words if word not in self._words and _stem(word) not in self._beginnings]
        has_digits = any(character.isdigit() for word in foreign for character in word)
        return not has_digits and len(foreign) * _FREE_IN <= len(words)


def _words(text: str) -> list[str]:
    return [word.casefold().removesuffix("'s") for word in _WORD.findall(text.replace("\u2019", "'"))]


def _stem(word: str) -> str:
    """What most forms of a word begin with: "creating" and "created" with "creat" and "crea"."""
    return word[: max(_STEM_CHARACTERS, len(word) - _ENDING_CHARACTERS)]
