"""Markdown as a person reads it: the paragraphs, list items, table rows and headings of a passage, without the marks.

It reads by lines, because a passage is cut out of its document: a table may lack its head, a list its beginning. Text
that is no Markdown comes through as it is, its lines joined.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from itertools import zip_longest


class Kind(Enum):
    """What a unit is."""

    PROSE = auto()
    """A paragraph or a list item: one or more sentences."""
    ROW = auto()
    """A table's row, or a line of code: whole, whatever stands in it."""
    HEADING = auto()


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of a text, on one line."""

    kind: Kind
    text: str


_FENCE = re.compile(r"\s*(?:```|~~~)")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+(?P<title>.*?)[\s#]*$")
_UNDERLINE = re.compile(r"\s{0,3}(?:=+|-+)\s*$")
_RULE = re.compile(r"\s{0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$")
_BULLET = re.compile(r"\s*[-*+\u2022]\s+(?:\[[ xX]\]\s+)?")
_NUMBER = re.compile(r"\s*(\d{1,3})[.)]\s+")
_QUOTE = re.compile(r"\s{0,3}(?:>\s?)+")
_ROW = re.compile(r"\s*\|(.*\|)\s*$")
_CELL = re.compile(r"((?:\\.|`[^`]*`|[^|])*)\|")
_DELIMITER = re.compile(r"\s*:?-+:?\s*")

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_VERBATIM = re.compile(r"(`+)(?!`)(?P<code>.+?)(?<!`)\1(?!`)|\\(?P<escaped>[|*_`#\[\]])")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^\s()]*(?:\([^\s()]*\)[^\s()]*)*(?:\s+[\"'][^\"']*[\"'])?\)")
_STARS = re.compile(r"(?<![\w*])(\*{1,3})(?![\s*])([^*]+?)(?<!\s)\1(?![\w*])")
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})(?![\s_])(.+?)(?<![\s_])\1(?!\w)")
_STRUCK = re.compile(r"~~(?=\S)(.+?)(?<=\S)~~")
# left where a passage was cut within a strong emphasis
_HALF = re.compile(r"^\*\*|(?<=[\w.,:;!?])\*\*(?!\S)")
_SPACES = re.compile(r"\s+")
_ASIDE = "\0"


def units(text: str) -> list[Unit]:
    """The units of a text, in order, none empty."""
    lines = _COMMENT.sub(" ", text).split("\n")
    reader = _Reader(frozenset(int(found[1]) for line in lines if (found := _NUMBER.match(line))))
    for line in lines:
        reader.read(line)
    reader.end_paragraph()
    return [unit for unit in reader.found if unit.text]


class _Reader:
    def __init__(self, numbers: frozenset[int]) -> None:
        self.found: list[Unit] = []
        self._numbers = numbers
        self._paragraph: list[str] = []
        self._in_list = False
        self._in_code = False
        self._head: list[str] = []
        self._row: list[str] = []

    def read(self, line: str) -> None:
        """The next line."""
        if _FENCE.match(line):
            self.end_paragraph()
            self._in_code = not self._in_code
        elif self._in_code:
            self.found.append(Unit(Kind.ROW, _SPACES.sub(" ", line).strip()))
        elif row := _ROW.match(line):
            self.end_paragraph()
            self._read_row([plain(cell) for cell in _CELL.findall(row[1])])
        else:
            self._head, self._row = [], []
            self._read_text(_QUOTE.sub("", line, count=1))

    def _read_row(self, cells: list[str]) -> None:
        if all(map(_DELIMITER.fullmatch, cells)):
            self._head = self._row
            if self._head:
                self.found[-1] = Unit(Kind.HEADING, " \u2014 ".join(filter(None, self._head)))
            return
        self._row = cells
        # the first cell says what the row is about, and needs no head
        heads = ["", *self._head[1:]]
        named = [f"{head}: {cell}" if head else cell for head, cell in zip_longest(heads, cells, fillvalue="") if cell]
        self.found.append(Unit(Kind.ROW, " \u2014 ".join(named)))

    def _read_text(self, line: str) -> None:
        if not line.strip():
            self.end_paragraph()
        elif heading := _HEADING.match(line):
            self.end_paragraph()
            self.found.append(Unit(Kind.HEADING, plain(heading["title"])))
        elif _UNDERLINE.match(line) and len(self._paragraph) == 1 and not self._in_list:
            self.end_paragraph(Kind.HEADING)
        elif _RULE.match(line) or _UNDERLINE.match(line):
            self.end_paragraph()
        elif item := _BULLET.match(line) or self._numbered(line):
            self.end_paragraph()
            self._in_list = True
            self._paragraph.append(line[item.end() :])
        else:
            self._paragraph.append(line)

    def _numbered(self, line: str) -> re.Match[str] | None:
        """A list's number has another beside it; "7. Januar" has none. And within a paragraph only 1 begins a list."""
        item = _NUMBER.match(line)
        if item is None or self._numbers.isdisjoint((int(item[1]) - 1, int(item[1]) + 1)):
            return None
        return item if not self._paragraph or self._in_list or item[1] == "1" else None

    def end_paragraph(self, kind: Kind = Kind.PROSE) -> None:
        """What was read so far stands by itself."""
        if self._paragraph:
            self.found.append(Unit(kind, plain(" ".join(self._paragraph))))
        self._paragraph.clear()
        self._in_list = False


def plain(text: str) -> str:
    """A text on one line, without links, emphasis and code marks; what stands in code is left as it is."""
    verbatim: list[str] = []

    def put_aside(found: re.Match[str]) -> str:
        verbatim.append(found["code"] or found["escaped"])
        return _ASIDE

    text = _VERBATIM.sub(put_aside, text.replace(_ASIDE, " "))
    text = _STRUCK.sub(r"\1", _LINK.sub(r"\1", text))
    for _ in range(2):  # strong within emphasis
        text = _UNDERSCORES.sub(r"\2", _STARS.sub(r"\2", text))
    text = _HALF.sub("", text)
    for piece in verbatim:
        text = text.replace(_ASIDE, piece, 1)
    return _SPACES.sub(" ", text).strip()
