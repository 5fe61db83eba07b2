"""What a text claims that can be checked without understanding it: its numbers, its dates, its names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

_MONTH_WORDS = "january february march april may june july august september october november december"
_MONTHS = _MONTH_WORDS.split()
_MONTH = "|".join(f"{month}|{month[:3]}\\.?" for month in _MONTHS) + "|sept\\.?"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
_DATE = re.compile(
    rf"\b(?P<y1>\d{{4}})-(?P<m1>0[1-9]|1[0-2])-(?P<d1>0[1-9]|[12]\d|3[01])"
    rf"|\b(?P<d2>{_DAY})\s+(?:of\s+)?(?P<m2>{_MONTH})(?!\w)(?:,?\s+(?P<y2>\d{{4}})\b)?"
    rf"|\b(?P<m3>{_MONTH})\s+(?P<d3>{_DAY})\b(?![.:/]?\d)(?:,?\s+(?P<y3>\d{{4}})\b)?"
    rf"|\b(?P<m4>{_MONTH}),?\s+(?P<y4>\d{{4}})\b",
    re.IGNORECASE,
)

_SMALL_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
    """
_SMALL = {word: value for value, word in enumerate(_SMALL_WORDS.split())}
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * tens for tens, word in enumerate(_TENS_WORDS.split(), 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER_WORD = re.compile(
    rf"\b(?:{'|'.join([*_SMALL, *_TENS, *_SCALES, 'hundred'])})\b", re.IGNORECASE
)  # fmt: skip
_JOINT = re.compile(r"[\s-]+(?:and\s+)?", re.IGNORECASE)
_NUMERAL = re.compile(rf"\d+(?:[.,:/]\d+)*(?:(?<=\d\d\d\d)s\b)?(?:\s+(?P<scale>{'|'.join(_SCALES)})\b)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}")
# What may stand between two words of one name.
_IN_NAME = re.compile(r"[\s_\-\u2013/&]*|\. ?")

Date = tuple[int | None, int, int | None]
"""(year, month, day)."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is compared, and whether it has a capital."""

    text: str
    capital: bool


def normalise(text: str) -> str:
    """One form for what is written in several: Unicode, apostrophes, initials ("U.S." is "US"), thousands."""
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f'\u2019](?=\d{3}\b)", ",", text)
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return _INITIALS.sub(lambda found: found.group().replace(".", ""), text)


def dates(text: str) -> list[tuple[Date, str]]:
    """The dates in a normalised text, each with its words. A month alone, or a year alone, is none."""
    found = []
    for match in _DATE.finditer(text):
        parts = match.groupdict()
        year, month, day = (
            next((parts[f"{kind}{n}"] for n in range(1, 5) if parts.get(f"{kind}{n}")), "") for kind in "ymd"
        )
        month_number = int(month) if month.isdecimal() else _month(month)
        day_number = int(re.sub(r"\D", "", day)) if day else None
        found.append(((int(year) if year else None, month_number, day_number), match.group()))
    return found


def without_dates(text: str) -> str:
    """A normalised text with its dates taken out."""
    return _DATE.sub(" ; ", text)


def numbers(text: str) -> Iterator[str]:
    """The numbers in a normalised text, in one form: "1,200", "1200" and "twelve hundred" are equal, as are "2
    million" and "2,000,000". "one" by itself is no number: it is a pronoun too often."""
    for match in _NUMERAL.finditer(text):
        scale = match.group("scale")
        digits = match.group()[: match.start("scale") - match.start()].rstrip() if scale else match.group()
        if _THOUSANDS.fullmatch(digits):
            digits = digits.replace(",", "")
        if scale and re.fullmatch(r"\d+(?:\.\d+)?", digits):
            digits = f"{(Decimal(digits) * _SCALES[scale.lower()]).normalize():f}"
        yield digits
    yield from _worded_numbers(text)


def _worded_numbers(text: str) -> Iterator[str]:
    runs: list[list[str]] = []
    end = -1
    for match in _NUMBER_WORD.finditer(text):
        if end >= 0 and _JOINT.fullmatch(text[end : match.start()]):
            runs[-1].append(match.group().lower())
        elif match.group().lower() in _SCALES:
            continue  # "2 million" was read with its numeral
        else:
            runs.append([match.group().lower()])
        end = match.end()
    for run in runs:
        if run != ["one"]:
            yield from map(str, _values(run))


def _values(run: list[str]) -> Iterator[int]:
    """The values of number words in a row: ["two", "hundred", "five"] is 205, ["two", "three"] is 2 and 3."""
    total, current = 0, -1
    for word in run:
        if word in _SCALES:
            total, current = total + max(current, 1) * _SCALES[word], -1
        elif word == "hundred":
            current = max(current, 1) * 100
        else:
            value = _SMALL.get(word, _TENS.get(word, 0))
            fits = current < 0 or (current % 100 == 0 and current >= 100)
            if fits or (value < 10 and current % 100 >= 20 and current % 10 == 0):
                current = max(current, 0) + value
            else:
                yield total + current
                total, current = 0, value
    yield total + max(current, 0)


def words(text: str) -> list[Word]:
    """The words of a normalised text, without possessive endings."""
    return [_word(match.group()) for match in _WORD.finditer(text)]


def names(text: str) -> list[list[Word]]:
    """Runs of words with capitals in a normalised text: "In May Ada Lovelace met Babbage" gives "In May Ada Lovelace"
    and "Babbage". Which of them are no names is for the caller to say."""
    runs: list[list[Word]] = []
    end = -1
    for match in _WORD.finditer(text):
        word = _word(match.group())
        if not word.capital:
            end = -1
        elif end >= 0 and _IN_NAME.fullmatch(text[end : match.start()]):
            runs[-1].append(word)
            end = match.end()
        else:
            runs.append([word])
            end = match.end()
    return runs


def _word(text: str) -> Word:
    bare = re.sub(r"'[sS]?$", "", text)
    return Word(bare.casefold(), any(character.isupper() for character in bare))


def _month(name: str) -> int:
    return next(n for n, month in enumerate(_MONTHS, 1) if month.startswith(name.lower()[:3]))
