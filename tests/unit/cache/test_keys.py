import dataclasses
import string
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cache.keys import Question, collection_hashes, normalise, slot_of
from serving.errors import InvalidArgument

# few letters, so that parts often run into each other's places
_short = st.text(alphabet="ab", max_size=3)
_name = st.text(alphabet="ab", min_size=1, max_size=3)
_bytes = st.binary(max_size=3)
_questions = st.builds(
    Question,
    tenant=_name,
    access_groups=st.lists(_short, max_size=3).map(tuple),
    collection_id=_name,
    generation=st.integers(0, 3),
    text=_name,
    filter=_bytes,
    model=_short,
    prompt_version=_short,
    parameters=_bytes,
)


def _meaning(question: Question) -> tuple[object, ...]:
    return dataclasses.astuple(dataclasses.replace(question, access_groups=tuple(sorted({*question.access_groups}))))


@given(_questions, _questions)
def test_keys_are_equal_only_when_every_part_is(one: Question, two: Question) -> None:
    assert (slot_of(one).key_hash == slot_of(two).key_hash) == (_meaning(one) == _meaning(two))


@given(_questions, st.sampled_from([field.name for field in dataclasses.fields(Question)]), _name)
def test_every_part_counts(question: Question, part: str, other: str) -> None:
    other += "c"
    value: Any = other
    match getattr(question, part):
        case bytes():
            value = other.encode()
        case int(number):
            value = number + 1
        case tuple(groups):
            value = (*groups, other)
    changed = dataclasses.replace(question, **{part: value})
    assert slot_of(changed).key_hash != slot_of(question).key_hash


@given(st.text(alphabet="ab", min_size=1, max_size=4), st.integers(0, 4), st.integers(0, 4))
def test_neighbouring_parts_do_not_run_into_each_other(text: str, one: int, two: int) -> None:
    def cut(at: int) -> Question:
        return Question("acme", (), "c" * 32, 1, "why?", b"", text[:at], text[at:], b"")

    assert (slot_of(cut(one)).key_hash == slot_of(cut(two)).key_hash) == (cut(one) == cut(two))


def test_groups_do_not_run_into_each_other() -> None:
    one, two = (Question("acme", groups, "c" * 32, 1, "why?", b"", "", "", b"") for groups in (("a", "b"), ("ab",)))
    assert slot_of(one) != slot_of(two)


@given(_questions, st.randoms())
def test_order_and_repetition_of_groups_do_not_count(question: Question, random: Random) -> None:
    groups = [*question.access_groups, *question.access_groups]
    random.shuffle(groups)
    assert slot_of(dataclasses.replace(question, access_groups=tuple(groups))) == slot_of(question)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("  how\t much\n leave ", "how much leave"), ("\uff48\uff4f\uff57", "how"), ("a\u00a0b", "a b"), ("ﬁne", "fine")],
)
def test_question_is_normalised(written: str, meant: str) -> None:
    assert normalise(written) == meant


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_case_is_kept() -> None:
    assert normalise("who is in IT?") != normalise("who is in it?")


@given(_questions)
def test_names_in_the_store_are_hexadecimal(question: Question) -> None:
    slot = slot_of(dataclasses.replace(question, tenant="{*}", collection_id="*"))
    assert {*slot.tenant_hash, *slot.collection_hash} <= {*string.hexdigits}


@pytest.mark.parametrize(
    ("tenant", "collection_id", "text", "field"),
    [
        ("", "c", "why?", "scope.tenant"),
        ("acme", "", "why?", "scope.collection_id"),
        ("acme", "c", " ", "key.question"),
    ],
)
def test_empty_scope_or_question_is_refused(tenant: str, collection_id: str, text: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        slot_of(Question(tenant, (), collection_id, 1, text, b"", "", "", b""))
    assert refused.value.field == field


def test_too_long_question_is_refused() -> None:
    question = Question("acme", (), "c" * 32, 1, "é" * 4097, b"", "", "", b"")
    with pytest.raises(InvalidArgument, match="8192"):
        slot_of(question)


def test_tenants_do_not_share_a_name() -> None:
    assert collection_hashes("acme", "c")[0] != collection_hashes("globex", "c")[0]
