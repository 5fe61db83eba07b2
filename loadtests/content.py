"""What is asked and what is put: files of JSON lines, or made up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.texts import WORDS

MAX_LINES: Final = 1_000_000
_SENTENCES: Final = 5
_SENTENCE_WORDS: Final = 9
_QUESTION_WORDS: Final = 6


@dataclass(frozen=True, slots=True)
class Text:
    """A document or a question."""

    id: str
    text: str


def read_texts(path: Path) -> list[Text]:
    """The lines of a file, each {"id", "text"}; a line without an id gets its number. Raises ValueError."""
    texts = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if number > MAX_LINES:
                    raise ValueError(f"{path}: more than {MAX_LINES:,} lines")
                if line.strip():
                    texts.append(_text(line, f"{path}:{number}", str(number)))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8") from None
    if not texts:
        raise ValueError(f"{path}: holds nothing")
    return texts


def _text(line: str, where: str, number: str) -> Text:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str) or not record["text"].strip():
        raise ValueError(f'{where}: not a JSON object such as {{"id": "…", "text": "…"}}')
    return Text(str(record.get("id", number)), record["text"])


def made_up_documents(count: int, seed: int = 11) -> list[Text]:
    """Documents of a few short sentences of common words, always the same."""
    return [Text(f"load-{n}", " ".join(_sentences(n, seed))) for n in range(count)]


def made_up_questions(count: int, documents: int, seed: int = 11) -> list[Text]:
    """Distinct questions, each of the words of one sentence of one of so many made-up documents."""
    chance = Random(seed)
    questions: dict[str, None] = {}
    while len(questions) < count:
        sentence = chance.choice(_sentences(len(questions) % documents, seed))
        words = chance.sample(sentence.lower().rstrip(".").split(), _QUESTION_WORDS)
        questions[f"What of {' '.join(words)}?"] = None
    return [Text(str(number), text) for number, text in enumerate(questions)]


def _sentences(number: int, seed: int) -> list[str]:
    chance = Random(f"{seed} {number}")
    return [f"{' '.join(chance.sample(WORDS, _SENTENCE_WORDS)).capitalize()}." for _ in range(_SENTENCES)]
