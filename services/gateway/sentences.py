"""Sentences: of passages, which are whole, and of an answer, which comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sentencex

from . import markup
from .remembered import remembered

MAX_SENTENCE_CHARACTERS = 600

_MIN_WORDS = 3
_WORD = re.compile(r"\w+")


@remembered
def split(text: str) -> tuple[str, ...]:
    """The sentences of a passage, in order, each on one line and without marks of Markdown (a long one is cut at a
    word). List items and table rows stand by themselves; headings are none."""
    found: list[str] = []
    for unit in markup.units(text):
        match unit.kind:
            case markup.Kind.ROW:
                found.append(_cut(unit.text))
            case markup.Kind.PROSE:
                found += (_cut(sentence.strip()) for sentence in sentencex.segment("en", unit.text))
            case markup.Kind.HEADING:
                pass
    found = [sentence for sentence in found if sentence]
    return tuple(sentence for sentence in found if len(_WORD.findall(sentence)) >= _MIN_WORDS) or tuple(found)


def without_sentences(text: str) -> Sequence[str]:
    """What there is to quote of a passage that has no sentences: its headings, or else all of it."""
    headings = [_cut(unit.text) for unit in markup.units(text) if unit.kind is markup.Kind.HEADING]
    return headings or [_cut(" ".join(text.split()))]


def _cut(sentence: str) -> str:
    if len(sentence) <= MAX_SENTENCE_CHARACTERS:
        return sentence
    return sentence[:MAX_SENTENCE_CHARACTERS].rsplit(maxsplit=1)[0]


# The end of a sentence: a stop, what closes after it, the citation marks that belong to it, and space before what comes
# next; or a stop that needs no space; or the end of a line. It looks one character ahead, so that what it finds
# never depends on how the text was cut into pieces.
_CJK_STOPS, _CJK_CLOSERS = "\u3002\uff01\uff1f", "\u300d\u300f\u201d\u2019\uff09"
_MARKS = r"(?:\s*\[[\d\s,;]*\])*"
_END = re.compile(
    rf"[.!?\u2026]+[\"'\u201d\u2019)\]]*{_MARKS}(?P<space>\s+)(?=[^\s\[a-z])"
    rf"|[{_CJK_STOPS}]+[{_CJK_CLOSERS}]*{_MARKS}(?P<none>\s*)(?=[^\s\[{_CJK_STOPS}{_CJK_CLOSERS}])"
    r"|(?P<line>\s*\n\s*)(?=[^\s\[])"
)
_NO_END = re.compile(
    r"(?:^|\n)\s*\d{1,2}\.$"  # an item of a list
    r"|(?:^|[^\w])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|etc|approx|ca|e\.g|i\.e)\.$"
)


class SentenceStream:
    """Cuts text that comes in pieces into sentences, each with the space that follows it."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, piece: str) -> list[tuple[str, str]]:
        """The sentences that are whole now: (sentence, space after it)."""
        self._rest += piece
        whole: list[tuple[str, str]] = []
        start = 0
        for end in _END.finditer(self._rest):
            space = end.group("space") or end.group("none") or end.group("line") or ""
            sentence = self._rest[start : end.end() - len(space)]
            if "\n" not in space and _NO_END.search(sentence):
                continue
            whole.append((sentence, space))
            start = end.end()
        self._rest = self._rest[start:]
        return whole

    def finish(self) -> str:
        """What is left: the last sentence, perhaps an unfinished one."""
        rest, self._rest = self._rest, ""
        return rest
