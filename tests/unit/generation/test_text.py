"""Stop texts and words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.text import StopFinder, words


def _streamed(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    shown = "".join([*(finder.feed(piece) for piece in pieces), finder.flush()])
    return shown, finder.found


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "found"),
    [
        (["a b", " c"], [], "a b c", False),
        (["one. two"], ["."], "one", True),
        (["on", "e", "\n", "\n", "two"], ["\n\n"], "one", True),
        (["one\n", "two"], ["\n\n"], "one\ntwo", False),
        (["aaab"], ["aab"], "a", True),
        (["x STOP y END"], ["END", "STOP"], "x ", True),
        (["END"], ["END"], "", True),
    ],
)
def test_text_ends_before_the_first_stop(pieces: list[str], stops: list[str], shown: str, found: bool) -> None:
    assert _streamed(pieces, stops) == (shown, found)


def test_nothing_is_shown_that_a_stop_may_begin_with() -> None:
    finder = StopFinder(["END"])
    assert finder.feed("the EN") == "the "
    assert finder.feed("ORMOUS") == "ENORMOUS"


@given(
    st.lists(st.text("ab.", max_size=4), max_size=8),
    st.lists(st.text("ab.", min_size=1, max_size=3), max_size=3),
)
def test_how_a_text_is_cut_into_pieces_changes_nothing(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    ends = [text.find(stop) for stop in stops if stop in text]
    assert _streamed(pieces, stops)[0].startswith(text[: min(ends)] if ends else text)
    if not ends:
        assert _streamed(pieces, stops) == (text, False)


@given(st.text("a \n.", max_size=20))
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words(text)) == (text if text.strip() else "")
