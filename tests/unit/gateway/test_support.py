"""The support check: what passages hold, and what they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import claims
from services.gateway.support import Support

PASSAGES = Support(
    [
        "The Denver Broncos won Super Bowl 50 on February 7, 2016, 24-10, before 71,088 people. 2.5 million watched.",
        "Employees get twenty-five days of leave. In the 1990s it was less. U.S. staff ask Coca-Cola Co.'s office.",
        "The founder (John Smith) met Mary Jones on 3 May at 10:30, as version 1.10 says. Rent is \u20ac1\u202f200.",
    ]
)


@pytest.mark.parametrize(
    "sentence",
    [
        "The Denver Broncos won.",
        "denver won 24\u201310.",
        "It was on 7 February 2016.",
        "It was on 2016-02-07.",
        "It was in February 2016.",
        "It was in 2016.",
        "They met on May 3.",
        "They met at 10:30.",
        "More than 71088 people came.",
        "2,500,000 watched.",
        "You get 25 days.",
        "You get twenty five days.",
        "In the 1990s the US had less.",
        "Ask Coca-Cola\u2019s office.",
        "However, John Smith did.",
        "The founder John Smith did.",
        "Founder John Smith did.",
        "I think one of them did.",
        "The rent is 1,200.",
        "It is not said.",
    ],
)
def test_what_the_passages_hold_is_supported(sentence: str) -> None:
    assert PASSAGES.holds(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "The Carolina Panthers won.",
        "Tesla did.",
        "John Jones did.",
        "Smith John did.",
        "It was on February 8, 2016.",
        "They met on May 3, 2016.",  # the day is of one date, the year of another
        "They met on February 3.",
        "It was in 2015.",
        "25 million watched.",
        "2.5 billion watched.",
        "You get twenty days.",
        "You get thirty-five days.",
        "In the 1980s it was less.",
        "It was 24-11.",
        "They met at 10:31.",
        "Version 1.1 says so.",
        "iPhone users did.",
        "He met NATO.",
    ],
)
def test_what_they_do_not_hold_is_not(sentence: str) -> None:
    assert not PASSAGES.holds(sentence)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("two", "2"),
        ("twenty-one", "21"),
        ("two hundred and five", "205"),
        ("one hundred", "100"),
        ("three thousand four hundred", "3400"),
        ("two million", "2000000"),
        ("1.5 million", "1500000"),
        ("1,234,567.5", "1234567.5"),
        ("1\u00a0000", "1000"),
        ("twelve hundred", "1200"),
        ("\uff15", "5"),
    ],
)
def test_numbers_have_one_form(text: str, value: str) -> None:
    assert list(claims.numbers(claims.normalise(text))) == [value]


def test_number_words_side_by_side_stay_apart() -> None:
    assert list(claims.numbers("two three")) == ["2", "3"]


def test_one_is_no_number() -> None:
    assert list(claims.numbers("no one, one of them")) == []


LETTERS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), max_size=80)


@given(LETTERS)
def test_a_passage_supports_itself(text: str) -> None:
    assert Support([text]).holds(text)


@given(LETTERS, st.integers(min_value=100, max_value=10**9))
def test_a_number_that_is_nowhere_is_never_supported(text: str, number: int) -> None:
    support = Support([text])
    held = set(claims.numbers(claims.normalise(text)))
    if str(number) not in held:
        assert not support.holds(f"it was {number} then")


@given(st.lists(st.sampled_from(["Ada", "Lovelace", "met", "Charles", "Babbage", "in", "London"]), max_size=8))
def test_a_name_that_is_nowhere_is_never_supported(words: list[str]) -> None:
    assert not Support([" ".join(words)]).holds("there was Grace Hopper")
