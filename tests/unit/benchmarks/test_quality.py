"""What the quality bench counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import quality

PASSAGES = ["Ada Lovelace met Babbage in 1833, and wrote 1,200 lines of notes."]


@pytest.mark.parametrize(
    ("answer", "absent"),
    [
        ("Lovelace met Babbage in 1833. [3]", []),
        ("It took 1200 lines, and Ada's notes.", []),
        ("Nobody met her.", []),
        ("They met in 1834.", ["1834"]),
        ("She met Charles Babbage.", ["Charles"]),
        ("She wrote 200 lines for Ada, Babbage and Byron.", ["200", "Byron"]),
    ],
)
def test_numbers_and_names_that_no_passage_has_are_found(answer: str, absent: list[str]) -> None:
    assert quality.unfounded(answer, PASSAGES) == absent


def test_a_gold_is_found_in_any_case_and_over_lines() -> None:
    assert quality.holds_any("She met\nbabbage once.", ["MET Babbage"])
    assert not quality.holds_any("She met him.", ["Babbage"])


def test_questions_without_an_answer_are_left_out(tmp_path: Path) -> None:
    questions = [
        {"question": "When?", "answers": [{"text": "1833"}, {"text": "in 1833"}]},
        {"question": "Why?", "answers": [], "is_impossible": True},
    ]
    data = {"data": [{"paragraphs": [{"context": PASSAGES[0], "qas": questions}]}]}
    (tmp_path / "data.json").write_text(json.dumps(data))

    documents, found = quality.read(tmp_path / "data.json")

    assert [document.text for document in documents] == PASSAGES
    assert found == [quality.Question("When?", ("1833", "in 1833"), documents[0].id)]
