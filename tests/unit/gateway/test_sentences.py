"""Where sentences begin and end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import sentences
from services.gateway.sentences import SentenceStream


def streamed(text: str, *cuts: int) -> list[str]:
    stream = SentenceStream()
    found: list[str] = []
    start = 0
    for cut in [*sorted(cuts), len(text)]:
        found += [sentence + space for sentence, space in stream.feed(text[start:cut])]
        start = cut
    return [*found, stream.finish()]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It rains. We stay.", ["It rains. ", "We stay."]),
        ("It rains [1]. We stay.", ["It rains [1]. ", "We stay."]),
        ("It rains. [1] We stay.", ["It rains. [1] ", "We stay."]),
        ("It rains. [1][2]\nWe stay.", ["It rains. [1][2]\n", "We stay."]),
        ('"Yes!" He left.', ['"Yes!" ', "He left."]),
        ("Dr. Smith paid 3.5 million.", ["Dr. Smith paid 3.5 million."]),
        ("J. R. R. Tolkien wrote.", ["J. R. R. Tolkien wrote."]),
        ("About approx. five.", ["About approx. five."]),
        ("1. First.\n2. Second.", ["1. First.\n", "2. Second."]),
        ("A line\nanother line", ["A line\n", "another line"]),
        ("\u4e0b\u96e8\u3002\u6211\u4eec\u3002", ["\u4e0b\u96e8\u3002", "\u6211\u4eec\u3002"]),
        ("", [""]),
    ],
)
def test_a_stream_is_cut_after_each_sentence(text: str, parts: list[str]) -> None:
    assert streamed(text) == parts


TEXT = st.text(st.sampled_from("aAb1 .!?[]\n,\"'\u3002\u2026-2)"), max_size=60)


@given(TEXT, st.lists(st.integers(min_value=0, max_value=60), max_size=10))
def test_pieces_never_change_where_sentences_end(text: str, cuts: list[int]) -> None:
    assert streamed(text, *(min(cut, len(text)) for cut in cuts)) == streamed(text)


@given(TEXT)
def test_nothing_is_lost(text: str) -> None:
    assert "".join(streamed(text)) == text


@given(st.text(st.sampled_from("aAb1 .!?,\"'\u3002\u2026()"), max_size=60))
def test_sentences_without_marks_of_markdown_stand_in_their_passage(text: str) -> None:
    assert all(sentence in " ".join(text.split()) for sentence in sentences.split(text))


def test_headings_and_list_items_are_no_part_of_sentences() -> None:
    text = "# Leave\n\nYou get 25 days of leave.\n- Ask your **manager** first.\n- Then ask payroll too."
    assert sentences.split(text) == (
        "You get 25 days of leave.",
        "Ask your manager first.",
        "Then ask payroll too.",
    )


def test_a_heading_is_quoted_only_where_there_is_nothing_else() -> None:
    assert sentences.split("# Leave\n\n## Days") == ()
    assert sentences.without_sentences("# Leave\n\n## Days") == ["Leave", "Days"]
    assert sentences.without_sentences("* * *") == ["* * *"]


def test_a_passage_of_a_few_words_is_its_own_sentence() -> None:
    assert sentences.split("Oslo") == ("Oslo",)


def test_a_long_sentence_is_cut_at_a_word() -> None:
    [sentence] = sentences.split("word " * 500)
    assert len(sentence) <= sentences.MAX_SENTENCE_CHARACTERS
    assert sentence.endswith("word")
