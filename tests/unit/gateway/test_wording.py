"""Whether a small model keeps to the words that it was given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.wording import Wording

WORDING = Wording(
    [
        "Does the stack need Docker?",
        "`make up` starts a real Apache Kafka, which it downloads and starts without Docker, as noted.",
        "A changed or deleted document removes the answer from the cache.",
    ]
)


@pytest.mark.parametrize(
    "sentence",
    [
        "The stack starts without Docker, as noted.",
        "It downloads Kafka and starts it.",
        "Deleting documents removes answers from the cache.",
        "The document\u2019s answer is removed.",
        "This is so because of that.",
    ],
)
def test_the_words_of_the_text_and_the_question_may_be_said(sentence: str) -> None:
    assert WORDING.holds(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Yes, the stack needs Docker.",
        "The stack does not start.",
        "The document is stored on a remote machine.",
        "No, it removes the answer.",
        "They are a type of fish that live in the ocean.",
    ],
)
def test_words_of_its_own_may_not(sentence: str) -> None:
    assert not WORDING.holds(sentence)


def test_one_word_in_ten_is_free() -> None:
    ten = "stack docker apache kafka downloads starts document removes cache"
    assert Wording([ten]).holds(f"{ten} elephant")
    assert not Wording([ten]).holds(f"{ten} elephant giraffe")


def test_a_number_is_written_as_the_text_writes_it() -> None:
    wording = Wording(["The six-time winner sang the anthem on February 7, 2016, before 71,088 guests in California."])
    assert wording.holds("The six-time winner sang the anthem before 71,088 guests in California in 2016.")
    assert not wording.holds("The 6-time winner sang the anthem before guests in California.")
    assert not wording.holds("The six-time winner sang the anthem before 71088 guests in California.")


@given(st.text(max_size=200))
def test_a_quotation_always_keeps_to_the_words(text: str) -> None:
    assert Wording([text]).holds(text)
