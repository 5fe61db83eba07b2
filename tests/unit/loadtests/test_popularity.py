"""Which questions are asked again."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from loadtests.content import made_up_documents, made_up_questions
from loadtests.popularity import Weighted, zipf_weights


def shares(exponent: float, count: int = 50, draws: int = 40_000) -> list[float]:
    drawn, chance = Weighted(range(count), zipf_weights(count, exponent)), Random(5)
    seen = Counter(drawn.draw(chance) for _ in range(draws))
    return [seen[rank] / draws for rank in range(count)]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_a_question_is_asked_as_often_as_its_rank_to_the_exponent_says(exponent: float) -> None:
    total = sum(rank**-exponent for rank in range(1, 51))
    seen = shares(exponent)
    for rank in (1, 2, 5, 10, 50):
        assert seen[rank - 1] == pytest.approx(rank**-exponent / total, abs=0.01)


def test_with_exponent_zero_all_are_alike() -> None:
    assert shares(0) == pytest.approx([0.02] * 50, abs=0.005)


def test_what_has_no_weight_is_never_drawn() -> None:
    drawn, chance = Weighted(["never", "always", "never again"], [0, 2, 0]), Random(1)
    assert {drawn.draw(chance) for _ in range(1000)} == {"always"}


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0]])
def test_weights_that_say_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        Weighted(["a", "b"][: len(weights)], weights)


def test_made_up_questions_are_distinct_and_have_their_words_in_one_sentence_of_a_document() -> None:
    documents, questions = made_up_documents(10), made_up_questions(60, 10)
    assert len({question.text for question in questions}) == 60
    sentences = [
        set(sentence.lower().split()) for document in documents for sentence in document.text.rstrip(".").split(". ")
    ]
    for question in questions:
        words = set(question.text.removeprefix("What of ").rstrip("?").split())
        assert any(words <= sentence for sentence in sentences), question.text
