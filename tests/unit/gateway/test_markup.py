"""Markdown as a person reads it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import markup


def read(text: str) -> list[tuple[str, str]]:
    return [(unit.kind.name.lower(), unit.text) for unit in markup.units(text)]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("One line\nand the next.\n\nAnother.", [("prose", "One line and the next."), ("prose", "Another.")]),
        ("# Title #\nText", [("heading", "Title"), ("prose", "Text")]),
        ("Title\n-----\nText", [("heading", "Title"), ("prose", "Text")]),
        ("Text\n- one\n  goes on\n- [x] two", [("prose", "Text"), ("prose", "one goes on"), ("prose", "two")]),
        ("7. seven\n   goes on\n8. eight", [("prose", "seven goes on"), ("prose", "eight")]),
        ("> a quotation\n> goes on", [("prose", "a quotation goes on")]),
        ("one\n\n* * *\n\ntwo", [("prose", "one"), ("prose", "two")]),
        ("<!-- not\nseen -->seen", [("prose", "seen")]),
        ("```sh\nmake up  # **now**\n```\nText", [("row", "make up # **now**"), ("prose", "Text")]),
        ("", []),
    ],
)
def test_blocks_are_units_of_their_own(text: str, units: list[tuple[str, str]]) -> None:
    assert read(text) == units


def test_a_tables_rows_carry_its_head() -> None:
    text = "| what | down | slow |\n| --- | :-: | ---: |\n| cache | uncached | 20 ms |\n| a `b|c` \\| d | | late |"

    assert read(text) == [
        ("heading", "what \u2014 down \u2014 slow"),
        ("row", "cache \u2014 down: uncached \u2014 slow: 20 ms"),
        ("row", "a b|c | d \u2014 slow: late"),
    ]


def test_rows_cut_off_from_their_head_stand_alone() -> None:
    assert read("| cache | uncached |\n| log |  |") == [("row", "cache \u2014 uncached"), ("row", "log")]
    assert read("| --- | --- |\n| cache | uncached |") == [("row", "cache \u2014 uncached")]


@pytest.mark.parametrize(
    "text",
    [
        "7. Januar 1943 starb er.",
        "It was so in\n12. Then it was not.",
        "a | b",
        "2 * 3 * 4 is 24",
        "snake_case_name and f(*args)",
        "a - b",
        "[1] is a mark, and so is [2]",
        "1998. That was the year.",
    ],
)
def test_what_only_looks_like_a_mark_stays(text: str) -> None:
    assert read(text) == [("prose", text.replace("\n", " "))]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("**The `make up` command.** Then", "The make up command. Then"),
        ("*em **strong** em* and __strong__ and ~~struck~~", "em strong em and strong and struck"),
        ('see [the docs](http://a/b_(c) "title") and ![a picture](x.png)', "see the docs and a picture"),
        ("`__init__` and ``a ` b`` and `**`", "__init__ and a ` b and **"),
        ("**cut off here", "cut off here"),
        ("and cut off here.**", "and cut off here."),
        (r"\*starred\*", "*starred*"),
        ("a\0b", "a b"),
    ],
)
def test_marks_within_a_line_are_taken_out(text: str, plain: str) -> None:
    assert markup.plain(text) == plain


LINES = st.lists(
    st.sampled_from(
        [
            *("# head", "- item", "1. one", "2. two", "| a | b |", "| --- | --- |", "```", "> said", "", "---", "==="),
            *("**bold** text", "`code` [link](url)", "plain text.", "  goes on", "<!-- x", "x -->", "\\|", "*", "**"),
        ]
    ),
    max_size=12,
).map("\n".join)


@given(LINES | st.text(st.sampled_from("ab1 |*_`#-.>[]()\\~\n\0"), max_size=60))
def test_units_are_single_lines_of_the_texts_own_words(text: str) -> None:
    words = {*_words(text), *_words(re.sub(r"[*_`~\\]", "", text))}
    for unit in markup.units(text):
        assert unit.text == " ".join(unit.text.split())
        assert unit.text
        assert _words(unit.text) <= words


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text))
