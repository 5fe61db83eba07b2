"""What of a model's text reaches the user."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import citations
from services.gateway.composer import Composer
from services.gateway.values import Evidence, Passage
from services.gateway.wording import Wording


@dataclass(frozen=True)
class Chunk:
    document_id: str
    text: str
    chunk: int = 0
    score: float = 0.0
    title: str = ""


PASSAGES = (
    Passage(1, Chunk("leave", "Staff get 25 days of leave. They ask Mary Jones.")),
    Passage(2, Chunk("park", "The car park has 40 places.")),
)
EVIDENCE = (
    Evidence(1, "Staff get 25 days of leave.", 0.9),
    Evidence(1, "They ask Mary Jones.", 0.5),
    Evidence(2, "The car park has 40 places.", 0.1),
)


def compose(*pieces: str, max_quotes: int = 2, cut_off: bool = False) -> Composer:
    composer = Composer("How long is the leave?", PASSAGES, EVIDENCE, max_quotes=max_quotes)
    shown = "".join(composer.feed(piece) for piece in pieces) + composer.finish(cut_off=cut_off)
    assert shown == composer.answer
    return composer


def test_a_supported_answer_passes_with_its_marks() -> None:
    composer = compose("You get 25 days [1]. There are 40 places [2].")
    assert composer.answer == "You get 25 days [1]. There are 40 places [2]."
    assert [(c.passage, c.document_id, c.evidence) for c in composer.citations] == [
        (1, "leave", "Staff get 25 days of leave."),
        (2, "park", "The car park has 40 places."),
    ]
    for citation in composer.citations:
        assert composer.answer[citation.position :].startswith(f"[{citation.passage}]")
    assert (composer.sentences_withheld, composer.marks_withheld) == (0, 0)


def test_marks_that_point_nowhere_are_taken_out() -> None:
    composer = compose("You get 25 days [3]. There are 40 places [0, 2].")
    assert composer.answer == "You get 25 days. There are 40 places [2]."
    assert composer.marks_withheld == 2
    assert [citation.passage for citation in composer.citations] == [2]


def test_no_mark_is_ever_added() -> None:
    composer = compose("You get 25 days.")
    assert composer.answer == "You get 25 days."
    assert composer.citations == []


def test_an_unsupported_sentence_gives_way_to_the_best_evidence() -> None:
    composer = compose("You get 30 days. Ask Mary Jones.")
    assert composer.answer == "Staff get 25 days of leave. [1] Ask Mary Jones."
    assert composer.sentences_withheld == 1
    [citation] = composer.citations
    assert composer.answer[citation.position :].startswith("[1]")


def test_a_quote_is_never_repeated() -> None:
    composer = compose("You get 30 days. You get 31 days. You get 32 days. You get 33 days.")
    assert composer.answer == "Staff get 25 days of leave. [1] They ask Mary Jones. [1]"
    assert composer.sentences_withheld == 4


def test_what_the_answer_says_already_is_not_quoted() -> None:
    composer = compose("Staff get 25 days of leave. It was so in 1999.", max_quotes=1)
    assert composer.answer == "Staff get 25 days of leave. They ask Mary Jones. [1]"


def test_marks_after_a_withheld_sentence_go_with_it() -> None:
    assert compose("You get 30 days. [2]", max_quotes=1).answer == "Staff get 25 days of leave. [1]"


def test_numbers_of_a_list_are_no_claims() -> None:
    composer = compose("1. You get 25 days.\n2. There are 40 places.\n")
    assert composer.answer == "- You get 25 days.\n- There are 40 places."
    assert composer.sentences_withheld == 0


def test_half_a_word_at_the_end_is_dropped() -> None:
    assert compose("They get 25 days of lea", cut_off=True).answer == "They get 25 days of \u2026"
    assert compose("They get 25 days of leave", cut_off=True).answer == "They get 25 days of leave \u2026"


def test_half_a_number_at_the_end_is_dropped() -> None:
    assert compose("There are places, 4", cut_off=True).answer == "There are places, \u2026"


def test_an_unfinished_sentence_is_dropped_after_a_whole_one() -> None:
    assert compose("You get 25 days. There are 40 pla", cut_off=True).answer == "You get 25 days."
    assert compose("You get 25 days. There are 40 -", cut_off=True).answer == "You get 25 days."
    assert compose("You get 25 days. There are 40 places. [2]", cut_off=True).answer.endswith("40 places. [2]")
    assert compose("You get 25 days. There are 40 places [2].", cut_off=True).answer.endswith("40 places [2].")


def test_a_cut_sentence_that_begins_as_the_evidence_does_is_quoted_from_it() -> None:
    composer = compose("staff get 25 days, of lea", cut_off=True)
    assert composer.answer == "Staff get 25 days of leave. [1]"
    [citation] = composer.citations
    assert composer.answer[citation.position :].startswith("[1]")
    assert compose("Staff get", cut_off=True).answer == "Staff get \u2026"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("The answer is: 25 days.", "25 days."),
        ("The answer to this question is: you get 25 days.", "You get 25 days."),
        ("The text states that you get 25 days. So they do.", "You get 25 days. So they do."),
        ("The answer to your question is:", ""),
        ("The text is about leave.", "The text is about leave."),
        ("How long is the leave?\nYou get 25 days.", "You get 25 days."),
        ("How long is the leave?", ""),
    ],
)
def test_what_is_said_of_the_answer_and_the_question_itself_are_left_out(said: str, shown: str) -> None:
    assert compose(said).answer == shown


def test_what_does_not_keep_to_the_wording_gives_way_to_the_evidence() -> None:
    wording = Wording(["Who may park?", "The car park has 40 places."])
    composer = Composer("Who may park?", PASSAGES, EVIDENCE, max_quotes=1, wording=wording)
    composer.feed("The car park has places. It belongs to a hospital. ")
    composer.finish(cut_off=False)
    assert composer.answer == "The car park has places. Staff get 25 days of leave. [1]"
    assert composer.sentences_withheld == 1


def test_a_sentence_is_said_once() -> None:
    assert compose("You get 25 days. You get 25 days. You  get 25 days.").answer == "You get 25 days."


def test_a_loop_gives_way_to_the_evidence() -> None:
    composer = compose("No, no, no, no, no.", max_quotes=1)
    assert (composer.answer, composer.sentences_withheld) == ("Staff get 25 days of leave. [1]", 1)
    assert compose("they get leave they get leave they get leave they get leave").sentences_withheld == 1
    assert compose("No, no, no.").sentences_withheld == 0


MODEL_TEXT = st.lists(
    st.sampled_from(
        [
            *["You", " get", " 25", " 30", " days", ".", ". ", " [1]", "[2]", " [9]", "[1, 2]", "\n", "1. ", "2. "],
            *[
                "Mary Jones",
                " Tesla",
                " in",
                " 1999",
                "!",
                " \u2026 ",
                "[",
                "The answer is: ",
                "Staff get 25 days of",
                "]",
                " 4",
                "0 places",
                "\u3002",
            ],
        ]
    ),
    max_size=30,
).map("".join)


@given(MODEL_TEXT, st.lists(st.integers(min_value=0, max_value=200), max_size=12), st.booleans())
def test_pieces_never_change_the_outcome(text: str, cuts: list[int], cut_off: bool) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(bounds)]
    whole, cut = compose(text, cut_off=cut_off), compose(*pieces, cut_off=cut_off)
    assert cut.answer == whole.answer
    assert cut.citations == whole.citations
    assert cut.sentences_withheld == whole.sentences_withheld
    assert cut.marks_withheld == whole.marks_withheld


@given(MODEL_TEXT)
def test_no_number_name_or_mark_reaches_the_user_that_the_passages_do_not_hold(text: str) -> None:
    composer = compose(text)
    plain = citations.check(composer.answer, 0)
    for absent in ("30", "Tesla", "1999"):
        assert absent not in plain.plain
    assert "[9]" not in composer.answer
    assert [n for n, _ in citations.check(composer.answer, 2).marks] == [c.passage for c in composer.citations]


@given(MODEL_TEXT)
def test_every_citation_stands_where_it_says(text: str) -> None:
    composer = compose(text)
    for citation in composer.citations:
        assert composer.answer[citation.position :].startswith(f"[{citation.passage}]")
        assert citation.evidence in PASSAGES[citation.passage - 1].hit.text


@pytest.mark.parametrize("mark", ["[01]", "[99999999999999999999]", "[0]"])
def test_odd_marks_point_nowhere(mark: str) -> None:
    assert citations.check(f"so {mark}.", 5).text == "so."
