"""HTML: what a reader sees, with headings marked as in Markdown and blocks on lines of their own."""

from __future__ import annotations

import codecs
import re
from typing import Any, Final

from charset_normalizer import from_bytes
from selectolax.lexbor import LexborHTMLParser

from services.ingestion.errors import DocumentRejected

from . import Extracted, Heading, normalise

MAX_DEPTH: Final = 5_000
"""Open elements; the parser's time grows with their square."""

# fmt: off
_DROPPED: Final = frozenset((
    "script", "style", "noscript", "template", "nav", "head", "svg", "math", "iframe", "object", "canvas", "audio",
    "video", "select", "textarea", "button",
))
_BLOCKS: Final = frozenset((
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "dialog", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "li", "main", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
))
_APART: Final = frozenset(("article", "blockquote", "dl", "figure", "ol", "p", "pre", "section", "table", "ul"))
# fmt: on
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
# Elements whose end may be left out: an open one is closed by the next, and none of them makes a page deep by itself.
_UNCLOSED: Final = frozenset(
    b"area base br col embed hr img input link meta source track wbr p li dt dd tr td th thead tbody tfoot colgroup "
    b"caption option optgroup rb rt rtc rp html head body".split()
)
_TAG: Final = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9-]*)[^>]*?(/?)>")
_DECLARED: Final = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([a-zA-Z0-9_:.-]{1,40})""", re.IGNORECASE)
_DECLARED_WITHIN: Final = 4096
_MARKS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# As browsers read them.
_MEANT: Final = {
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "ascii", "us-ascii"), "cp1252"),
    # where the declaration can be read, it cannot be true
    **dict.fromkeys(("utf-16", "utf-16le", "utf-16be"), "utf-8"),
}
_SPACES: Final = re.compile(r"[ \t\n\r\f]+")


def extract_html(body: bytes) -> Extracted:
    """Raises DocumentRejected for an encoding that cannot be told, and for a page nested too deep."""
    _check_depth(body)
    parser = LexborHTMLParser(normalise(decode(body)))
    title = parser.css_first("head > title")
    writer = _Writer()
    if parser.root is not None:
        _walk(parser.root, writer)
    return Extracted(
        writer.text(),
        title="" if title is None else _SPACES.sub(" ", title.text()).strip(),
        headings=tuple(writer.headings),
        markdown=True,
    )


def decode(body: bytes) -> str:
    """The page's text: by byte-order mark, else as UTF-8 if it is that, else as declared, else as it looks.

    Valid UTF-8 goes before what is declared, since no other encoding's text is that by accident, and pages lie.
    Raises DocumentRejected.
    """
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return _strictly(body, encoding)
    found = _DECLARED.search(body[:_DECLARED_WITHIN])
    declared = found[1].decode("ascii").lower() if found else ""
    if b"\0" not in body and not declared.startswith("iso-2022"):
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            pass
    if declared:
        return _strictly(body, _MEANT.get(declared, declared))
    best = from_bytes(body).best()
    if best is None or not best.coherence:
        # without a language recognised in it, it would be a guess
        raise DocumentRejected("ENCODING_UNKNOWN", "the page's encoding cannot be told; send it as UTF-8")
    return str(best)


def _strictly(body: bytes, encoding: str) -> str:
    try:
        return body.decode(encoding)
    except (LookupError, UnicodeError):
        raise DocumentRejected(
            "ENCODING_UNKNOWN", f"the page says that it is {encoding}, and it is not; send it as UTF-8"
        ) from None


def _check_depth(body: bytes) -> None:
    depth = 0
    for closing, name, empty in _TAG.findall(body):
        if empty or name.lower() in _UNCLOSED:
            continue
        depth = max(0, depth - 1) if closing else depth + 1
        if depth > MAX_DEPTH:
            raise DocumentRejected("HTML_TOO_DEEP", f"the page nests more than {MAX_DEPTH} elements")


class _Writer:
    """Collects text; breaks asked for between two pieces count once, the largest of them."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._pieces: list[str] = []
        self._length = 0
        self._newlines = 0
        self._space = False
        self._bullet = ""
        self._verbatim = 0

    def text(self) -> str:
        return "".join(self._pieces)

    def enter(self, tag: str) -> None:
        """An element that is not dropped begins."""
        if tag in _BLOCKS:
            self.end_line(2 if tag in _APART else 1)
        if tag == "li":
            self._bullet = "- "
        elif tag in ("td", "th"):
            self._space = True
        elif tag == "pre":
            self._verbatim += 1

    def leave(self, tag: str) -> None:
        """It ends."""
        if tag in _BLOCKS:
            self.end_line(2 if tag in _APART else 1)
        if tag == "li":
            self._bullet = ""
        elif tag == "pre":
            self._verbatim -= 1

    def end_line(self, newlines: int) -> None:
        """What comes next is at least that many newlines further."""
        self._newlines = max(self._newlines, newlines)

    def heading(self, level: int, title: str) -> None:
        """A heading on a line of its own; an empty one leaves nothing."""
        self.end_line(2)
        if title:
            line = "#" * level + " " + title
            start = self.write(line)
            self.headings.append(Heading(start, start + len(line), level, title))
            self.end_line(2)

    def write(self, text: str) -> int:
        """Append a piece of running text and return where it starts."""
        verbatim = self._verbatim > 0
        piece = text if verbatim else _SPACES.sub(" ", text)
        if not piece.strip():
            self._space = True
            return self._length
        if self._length and self._newlines:
            self._add("\n" * self._newlines)
        elif self._length and (self._space or piece[0] == " "):
            self._add(" ")
        self._add(self._bullet)
        self._newlines, self._bullet = 0, ""
        self._space = not verbatim and piece[-1] == " "
        start = self._length
        self._add(piece if verbatim else piece.strip(" "))
        return start

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._length += len(piece)


def _walk(root: Any, writer: _Writer) -> None:
    """Depth first and without recursion: a page may be deeper than Python's stack."""
    node = root
    while True:
        child = _visit(node, writer)
        if child is not None:
            node = child
            continue
        while node.next is None or node.mem_id == root.mem_id:
            writer.leave(node.tag)
            if node.mem_id == root.mem_id:
                return
            node = node.parent
        writer.leave(node.tag)
        node = node.next


def _visit(node: Any, writer: _Writer) -> Any:
    """Write what the node itself says, and return its first child if that is to be visited."""
    tag = node.tag
    if tag == "-text":
        writer.write(node.text_content or "")
    elif tag in _HEADINGS:
        writer.heading(_HEADINGS[tag], _SPACES.sub(" ", node.text()).strip())
    elif tag == "br":
        writer.end_line(1)
    elif tag not in _DROPPED and not tag.startswith("-"):
        writer.enter(tag)
        return node.child
    return None
