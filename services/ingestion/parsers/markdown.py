"""Markdown: kept as it was written, less its front matter; headings are found for what stands below them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from . import Extracted, Heading, normalise
from .text import decode_utf8

_FRONT_MATTER: Final = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?\n)??\1[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE: Final = re.compile(r"^title[ \t]*[:=][ \t]*(.+?)[ \t]*$", re.MULTILINE)
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*\Z")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-+)[ \t]*\Z")


def extract_markdown(body: bytes) -> Extracted:
    """Raises DocumentRejected for what is not UTF-8."""
    text = normalise(decode_utf8(body))
    title = ""
    front = _FRONT_MATTER.match(text)
    if front is not None:
        found = _TITLE.search(front[2] or "")
        title = found[1].strip("\"'") if found else ""
        text = text[front.end() :]
    return Extracted(text, title=title, headings=tuple(_headings(text)), markdown=True)


def _headings(text: str) -> Iterator[Heading]:
    """ATX and underlined headings outside fenced code."""
    start = paragraph = 0
    fence = previous = ""
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\n")
        mark = _FENCE.match(bare)
        if fence:
            if mark and mark[1].startswith(fence) and not bare.strip(" `~"):
                fence = ""
            previous = ""
        elif mark:
            fence, previous = mark[1], ""
        elif atx := _ATX.match(bare):
            if atx[2]:
                yield Heading(start, start + len(bare), len(atx[1]), atx[2])
            previous = ""
        elif previous and (underline := _UNDERLINE.match(bare)):
            yield Heading(paragraph, start + len(bare), 1 if underline[1][0] == "=" else 2, previous)
            previous = ""
        else:
            # a heading of several lines, or below a list, is left to be text
            previous = bare.strip() if not previous and bare[:1].isalnum() else ""
            paragraph = start
        start += len(line)
