"""Citation marks: `[2]` in an answer points at passage 2. Marks that point nowhere are taken out; none is ever
added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_MARK = re.compile(r"(\s*)\[\s*(\d+(?:\s*[,;]\s*\d+)*)\s*\]")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Marked:
    """A sentence whose marks were checked."""

    text: str
    """With the marks that stand, each as `[n]`."""
    plain: str
    """Without any mark."""
    marks: tuple[tuple[int, int], ...]
    """(passage number, where its mark stands in `text`)."""
    withheld: int
    """Marks taken out."""


def check(sentence: str, passages: int) -> Marked:
    """Keep the marks that point at one of `passages` passages, numbered from 1. `[1, 2]` becomes `[1][2]`."""
    text: list[str] = []
    plain: list[str] = []
    marks: list[tuple[int, int]] = []
    withheld = position = length = 0
    for found in _MARK.finditer(sentence):
        before = sentence[position : found.start()]
        plain.append(before)
        text.append(before)
        length += len(before)
        position = found.end()
        space = found.group(1)
        for number in re.findall(r"\d+", found.group(2)):
            # Leading zeros and numbers too long for a passage point nowhere.
            if len(number) > 4 or number.startswith("0") or int(number) > passages:
                withheld += 1
                continue
            mark = f"{space}[{number}]"
            marks.append((int(number), length + len(space)))
            text.append(mark)
            length += len(mark)
            space = ""
    rest = sentence[position:]
    return Marked("".join([*text, rest]), "".join([*plain, rest]), tuple(marks), withheld)


def holding_sentence(claim: str, sentences: Sequence[str]) -> str:
    """The sentence of a passage that shares the most words with the claim, the earliest of equals; "" when there is
    none."""
    words = _words(claim)
    return max(sentences, key=lambda sentence: len(words & _words(sentence)), default="")


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}
