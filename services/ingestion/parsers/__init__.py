"""From a document's bytes to its text and headings. Runs in a limited process of its own: see `__main__` and `pool`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from services.ingestion.errors import DocumentRejected
from serving.limits import MAX_TEXT_CHARACTERS

VERSION: Final = 2
"""Goes into every content hash: raise it when the same bytes give another text or other chunks, and documents are
parsed anew."""

CONTENT_TYPES: Final = ("text/plain", "text/markdown", "text/html", "application/pdf")

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: text[start:end] are its lines, underline included."""

    start: int
    end: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a document says."""

    text: str
    title: str = ""
    """A title that the document gives itself; "" when it has none."""
    headings: tuple[Heading, ...] = ()
    markdown: bool = False
    """Whether headings and blocks are marked in the text as Markdown marks them."""


def extract(content_type: str, body: bytes) -> Extracted:
    """The text of a document. Raises DocumentRejected."""
    match content_type:
        case "text/plain":
            from .text import extract_text

            extracted = extract_text(body)
        case "text/markdown":
            from .markdown import extract_markdown

            extracted = extract_markdown(body)
        case "text/html":
            from .html import extract_html

            extracted = extract_html(body)
        case "application/pdf":
            from .pdf import extract_pdf

            extracted = extract_pdf(body)
        case _:
            raise DocumentRejected("CONTENT_TYPE_UNKNOWN", f"there is no parser for {content_type!r}")
    if not extracted.text.strip():
        raise DocumentRejected("NO_TEXT", "the document holds no text; a scan needs text recognition first")
    check_length(len(extracted.text))
    return extracted


def check_length(characters: int) -> None:
    """Raises DocumentRejected for a text above the limit."""
    if characters > MAX_TEXT_CHARACTERS:
        raise DocumentRejected(
            "TEXT_TOO_LONG",
            f"a document may have {MAX_TEXT_CHARACTERS} characters of text, this one has more; split it",
        )


def normalise(text: str) -> str:
    """NFC, newlines as \\n, other control characters as spaces."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", _CONTROLS.sub(" ", text))
