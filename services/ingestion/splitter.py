"""Text to chunks: by tokens of the embedding model, on heading, paragraph and sentence boundaries.

A heading stands in the chunk of the text below it: alone it would be found for its words and answer nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from .parsers import Heading

MAX_CHUNK_CHARACTERS: Final = 8_192
"""Longer than any chunk of words: a model reads a word of a million letters as one token."""
_BLOCK_CHARACTERS: Final = 16_384
"""The library's time grows faster than the text, so that a long one is cut into these first, where it best can be."""
_BOUNDARIES: Final = ("\n# ", "\n## ", "\n\n", "\n", ". ", " ")
_CHARACTERS_A_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk of a text: text[start:end]."""

    start: int
    end: int


class Splitter:
    """Splits texts. Without a tokenizer four characters count as a token, for stacks that run without a model."""

    def __init__(self, tokenizer_file: Path | None) -> None:
        self._tokenizer = None if tokenizer_file is None else Tokenizer.from_file(str(tokenizer_file))
        if self._tokenizer is not None:
            # else it would count no more tokens than it cuts to
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        self._splitter = lru_cache(maxsize=32)(self._open)

    def split(
        self,
        text: str,
        *,
        max_tokens: int,
        overlap_tokens: int = 0,
        markdown: bool = False,
        headings: Sequence[Heading] = (),
    ) -> list[Span]:
        """Chunks in order, none blank, of at most max_tokens; between them they hold all of the text but spaces. None
        ends with a heading whose text is in the next, unless the heading takes more than half of a chunk."""
        splitter = self._splitter(markdown, max_tokens, overlap_tokens)
        spans: list[Span] = []
        for block in _blocks(text):
            for start, chunk in splitter.chunk_indices(text[block.start : block.end]):
                spans.extend(_within_limit(Span(block.start + start, block.start + start + len(chunk))))
        spans = _without_blank(text, spans)
        if headings:
            spans = _without_blank(text, self._headings_with_their_text(text, spans, headings, max_tokens, markdown))
        return spans

    def _headings_with_their_text(
        self, text: str, spans: Sequence[Span], headings: Sequence[Heading], max_tokens: int, markdown: bool
    ) -> Iterator[Span]:
        left = deque(spans)
        while left:
            span = left.popleft()
            moved = self._last_headings(text, span, headings, max_tokens) if left else span.end
            if moved < span.end:
                joined, *rest = self._joined(text, moved, left.popleft(), max_tokens, markdown)
                # what overlaps already holds the rest
                left.extendleft(piece for piece in rest if not left or piece.start < left[0].start)
                left.appendleft(joined)
                span = _trimmed(text, span.start, moved)
            yield span

    def _last_headings(self, text: str, span: Span, headings: Sequence[Heading], max_tokens: int) -> int:
        """Where the headings start that a chunk ends with; its end when it ends with none, or with too long ones."""
        start = end = span.end
        for heading in reversed(headings[: bisect_left(headings, span.end, key=lambda heading: heading.start)]):
            if heading.start < span.start or text[heading.end : end].strip():
                break
            if 2 * self._tokens(text[heading.start : span.end]) > max_tokens:
                break
            if 2 * (span.end - heading.start) > MAX_CHUNK_CHARACTERS:
                break
            start = end = heading.start
        return start

    def _joined(self, text: str, start: int, below: Span, max_tokens: int, markdown: bool) -> list[Span]:
        """One chunk from `start` to the end of the one below; or, where that is too long, to where that can be cut,
        and the rest."""
        start = min(start, below.start)
        longest = min(below.end, start + MAX_CHUNK_CHARACTERS)
        if longest == below.end and self._tokens(text[start : below.end]) <= max_tokens:
            return [Span(start, below.end)]
        room = max_tokens - self._tokens(text[start : below.start])
        # in steps, so that few splitters are made
        step = max(1, max_tokens // 8)
        splitter = self._splitter(markdown, max(1, room - room % step), 0)
        offset, piece = splitter.chunk_indices(text[below.start : below.end])[0]
        end = min(below.start + offset + len(piece), longest)
        return [Span(start, end), _trimmed(text, end, below.end)]

    def _tokens(self, text: str) -> int:
        if self._tokenizer is None:
            return -(-len(text) // _CHARACTERS_A_TOKEN)
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _open(self, markdown: bool, max_tokens: int, overlap_tokens: int) -> TextSplitter | MarkdownSplitter:
        kind = MarkdownSplitter if markdown else TextSplitter
        if self._tokenizer is None:
            return kind(max_tokens * _CHARACTERS_A_TOKEN, overlap_tokens * _CHARACTERS_A_TOKEN)
        return kind.from_huggingface_tokenizer(self._tokenizer, max_tokens, overlap_tokens)


def _trimmed(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    return Span(end - len(piece.lstrip()), start + len(piece.rstrip())) if piece.strip() else Span(end, end)


def _without_blank(text: str, spans: Iterable[Span]) -> list[Span]:
    return [span for span in spans if text[span.start : span.end].strip()]


def _blocks(text: str) -> Iterator[Span]:
    start = 0
    while len(text) - start > _BLOCK_CHARACTERS:
        latest = start + _BLOCK_CHARACTERS
        # in its last half, so that blocks stay large
        cuts = (text.rfind(mark, start + _BLOCK_CHARACTERS // 2, latest) + 1 for mark in _BOUNDARIES)
        end = next((cut for cut in cuts if cut), latest)
        yield Span(start, end)
        start = end
    yield Span(start, len(text))


def _within_limit(span: Span) -> Iterator[Span]:
    for start in range(span.start, span.end, MAX_CHUNK_CHARACTERS):
        yield Span(start, min(start + MAX_CHUNK_CHARACTERS, span.end))


def headings_above(headings: Sequence[Heading], start: int) -> tuple[str, ...]:
    """Titles of the headings that what starts there stands below, outermost first; not one that starts right there."""
    above: list[Heading] = []
    for heading in headings[: bisect_left(headings, start, key=lambda heading: heading.start)]:
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
    return tuple(heading.title for heading in above)
