"""The support check: a sentence may reach the user only if its passages hold every number, date and name in it.

What counts, and what does not:

- Only what the passages say supports a sentence (their titles are part of them); the question's own words do not.
- A date must stand in a passage as one date: a day from here and a year from there do not make it.
- A name is a word with a capital, or several in a row, and must stand in a passage in that order, in any case. A
  capital at the start of a sentence makes no name of a common English word, nor of a word that the passages write
  without one.
- It reads English numbers and months. Where all nouns have capitals (German) it is stricter than it needs to be; where
  there are no capitals (Chinese) it sees numbers alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import claims
from .claims import Word
from .remembered import remembered

# Words that begin sentences and name nothing.
_COMMON_WORDS = """
    a about above according accordingly actually additionally after afterwards again all almost along already
    also although always am among an and another answer any anyone anything are around as at away based be
    because been before being below besides between both briefly but by can cannot can't consequently could
    despite did do does doesn't doing don't down due during each either else especially even eventually every
    everyone everything evidence except finally first firstly for former from further furthermore generally
    given had has have he hence her here hers herself him himself his how however i i'm if in indeed instead
    into is isn't it it's its itself just last lastly later latter least less like likewise many may maybe me
    meanwhile might more moreover most much must my myself namely neither never nevertheless next no nobody none
    nonetheless nor not note nothing now of off often on once one only or originally other others otherwise our
    out over overall own passage passages per perhaps please possibly previously probably rather really
    regarding same second secondly see several shall she should similarly simply since so some somebody someone
    something sometimes soon sorry source sources specifically still such than thanks that that's the their
    theirs them then there there's therefore these they they're thing things third this those though through
    throughout thus to today together too typically under unfortunately unless unlike until up upon us use used
    usually very was wasn't we well were weren't what whatever when whenever where whereas whether which while
    who whoever whole whom whose why will with within without won't would yes yet you your yours yourself
    """
COMMON_WORDS = frozenset(_COMMON_WORDS.split())


@dataclass(frozen=True, slots=True)
class _Passage:
    """What one passage supports."""

    dates: frozenset[claims.Date]
    numbers: frozenset[str]
    running: str
    """Its words in a row."""
    uncapitalised: frozenset[str]


@remembered
def _read(passage: str) -> _Passage:
    text = claims.normalise(passage)
    dates = frozenset(date for date, _ in claims.dates(text))
    words = claims.words(text)
    return _Passage(
        dates=dates,
        numbers=frozenset(claims.numbers(text)) | {str(n) for date in dates for n in date[::2] if n is not None},
        running=f" {' '.join(word.text for word in words)} ",
        uncapitalised=frozenset(word.text for word in words if not word.capital),
    )


class Support:
    """What a set of passages supports."""

    def __init__(self, passages: Iterable[str]) -> None:
        read = [_read(passage) for passage in passages]
        self._dates = frozenset[claims.Date]().union(*(one.dates for one in read))
        self._numbers = frozenset[str]().union(*(one.numbers for one in read))
        self._running = [one.running for one in read]
        self._uncapitalised = frozenset[str]().union(*(one.uncapitalised for one in read))

    def holds(self, sentence: str) -> bool:
        """Whether the passages hold every date, number and name in the sentence (without its citation marks)."""
        text = claims.normalise(sentence)
        if not all(self._holds_date(date, words) for date, words in claims.dates(text)):
            return False
        text = claims.without_dates(text)
        return self._numbers.issuperset(claims.numbers(text)) and all(map(self._holds_name, claims.names(text)))

    def has_word(self, word: str) -> bool:
        """Whether a passage has the word, in any case."""
        bare = claims.words(claims.normalise(word))
        return bool(bare) and self._says(bare)

    def _holds_date(self, date: claims.Date, words: str) -> bool:
        if any(all(mine in (None, theirs) for mine, theirs in zip(date, held, strict=True)) for held in self._dates):
            return True
        # "5 May" also reads as a date where it is none: as words it must then stand in a passage as it is.
        return self._says(claims.words(words))

    def _holds_name(self, run: list[Word]) -> bool:
        """Whether the run stands in a passage, after leaving out words at its ends that are no names."""
        if self._says(run):
            return True
        while run and self._names_nothing(run[0]):
            run = run[1:]
            if self._says(run):
                return True
        while run and self._names_nothing(run[-1]):
            run = run[:-1]
            if self._says(run):
                return True
        return not run

    def _names_nothing(self, word: Word) -> bool:
        if word.text in COMMON_WORDS:
            return True
        return not self._uncapitalised.isdisjoint((word.text, word.text.removesuffix("s"), word.text + "s"))

    def _says(self, run: list[Word]) -> bool:
        running = f" {' '.join(word.text for word in run)} "
        return bool(run) and any(running in passage for passage in self._running)
