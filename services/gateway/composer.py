"""An answer as it is written: each sentence is checked before it is shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import citations, sentences
from .support import Support
from .values import Citation, Evidence, Passage
from .wording import Wording

_LIST_ITEM = re.compile(r"\s*(\d{1,2})[.)]\s+(?=\S)")
_LONGEST_LOOP_WORDS = 8
_FINISHED = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*(?:\s*\[[\d\s,;]*\])*$")
_WORD = re.compile(r"\w+")
# What small models put before what they say.
_FRAME = re.compile(
    r"\s*(?:(?:so|therefore),? )?the"
    r" (?:(?:correct |short )?answer(?: to (?:this|that|the|your) question)? is(?::| that\b)"
    r"|(?:text|passage|context|sentence) (?:says|states|suggests|mentions|indicates|explains) that\b)\s*",
    re.IGNORECASE,
)
_QUOTED_WORDS = 5


class Composer:
    """Takes a model's text in pieces and gives back what may be shown, sentence by sentence.

    Marks that point nowhere are taken out, sentences that were said before (by the question, too), and "the text states
    that" before what it states. A sentence that the passages do not support, that does not keep to the `wording` (where
    one is given), or that loops, is withheld, and the best
    evidence that the answer does not hold yet is quoted in its place, with its mark, for up to `max_quotes` sentences
    of an answer. How the text is cut into pieces never changes the outcome.
    """

    def __init__(
        self,
        question: str,
        passages: Sequence[Passage],
        evidence: Sequence[Evidence],
        *,
        max_quotes: int,
        wording: Wording | None = None,
    ) -> None:
        self.answer = ""
        """All that was shown."""
        self.citations: list[Citation] = []
        self.sentences_withheld = 0
        self.marks_withheld = 0
        self._passages = {passage.number: passage for passage in passages}
        self._support = Support(f"{passage.hit.title}\n{passage.hit.text}" for passage in passages)
        self._wording = wording
        self._evidence = list(evidence)
        self._quotes_left = max_quotes
        self._stream = sentences.SentenceStream()
        self._gap = ""
        self._claim = ""
        self._said = {_folded(question)}
        self._next_item = 1
        self._withheld_last = False

    def feed(self, piece: str) -> str:
        """More of the model's text; what may be shown now."""
        return "".join(self._take(sentence, space) for sentence, space in self._stream.feed(piece))

    def finish(self, *, cut_off: bool) -> str:
        """The end of the model's text. When it was `cut_off`, an unfinished last sentence is dropped if another stands
        before it. Else, where it is the beginning of an evidence sentence, that is quoted; and where it is not, it ends
        in dots, without its last word if that may be half of one."""
        rest = self._stream.finish().rstrip()
        if cut_off and rest and not _FINISHED.search(rest):
            if self.answer:
                return ""
            if quoted := self._begun_with(rest):
                self._evidence.remove(quoted)
                return self._show_quoted(quoted)
            *whole, last = re.split(r"(?<=\s)(?=\S+$)", rest)
            if last[-1].isalnum() and not self._support.has_word(last):
                rest = "".join(whole).rstrip()
            rest += " \u2026" if rest else ""
        return self._take(rest, "") if rest else ""

    def _begun_with(self, text: str) -> Evidence | None:
        """The evidence sentence that begins with the text, its last word aside."""
        begun = _folded(text).split()[:-1]
        if len(begun) < _QUOTED_WORDS:
            return None
        return next((one for one in self._evidence if _folded(one.text).split()[: len(begun)] == begun), None)

    def quote(self) -> str:
        """Show the best evidence that the answer does not hold yet; "" when there is none, or enough was quoted."""
        shown = _folded(self.answer)
        while self._quotes_left and self._evidence:
            best = self._evidence.pop(0)
            if _folded(best.text) not in shown:
                self._quotes_left -= 1
                self._gap = self._gap or (" " if self.answer else "")
                return self._show_quoted(best)
        return ""

    def _show_quoted(self, quoted: Evidence) -> str:
        self._claim = quoted.text
        return self._show(f"{quoted.text} [{quoted.passage}]", ((quoted.passage, len(quoted.text) + 1),))

    def _take(self, sentence: str, space: str) -> str:
        sentence = self._unnumbered(sentence.lstrip() if not self.answer else sentence)
        marked = citations.check(_unframed(sentence), len(self._passages))
        self.marks_withheld += marked.withheld
        if not re.search(r"\w", marked.plain):
            # Marks or punctuation alone belong to the sentence before them.
            belongs = self.answer and marked.text.strip() and not self._withheld_last
            shown = self._show(marked.text, marked.marks) if belongs else ""
        elif self._may_say(marked.plain):
            self._withheld_last = _folded(marked.plain) in self._said
            self._claim = marked.plain
            shown = "" if self._withheld_last else self._show(marked.text, marked.marks)
        else:
            self._withheld_last = True
            self.sentences_withheld += 1
            shown = self.quote()
        if self.answer and (shown or "\n" in space):
            self._gap = space
        return shown

    def _may_say(self, sentence: str) -> bool:
        if self._wording is not None and not self._wording.holds(sentence):
            return False
        return self._support.holds(sentence) and not _is_loop(sentence)

    def _unnumbered(self, sentence: str) -> str:
        """A list's numbers are no claims: they become dashes, or they would be checked as numbers."""
        item = _LIST_ITEM.match(sentence)
        at_line_start = not self.answer or "\n" in self._gap
        if item is None or not at_line_start or int(item.group(1)) != self._next_item:
            return sentence
        self._next_item += 1
        return "- " + sentence[item.end() :]

    def _show(self, text: str, marks: Sequence[tuple[int, int]]) -> str:
        gap, self._gap = self._gap, ""
        start = len(self.answer) + len(gap)
        self._said.add(_folded(self._claim))
        for number, offset in marks:
            hit = self._passages[number].hit
            holding = citations.holding_sentence(self._claim, sentences.split(hit.text))
            self.citations.append(Citation(number, hit.document_id, hit.chunk, holding, start + offset))
        self.answer += gap + text
        return gap + text


def _unframed(sentence: str) -> str:
    """The sentence without what a small model says about its answer before it gives it."""
    frame = _FRAME.match(sentence)
    if frame is None:
        return sentence
    rest = sentence[frame.end() :]
    return rest[:1].upper() + rest[1:]


def _folded(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))


def _is_loop(sentence: str) -> bool:
    """Whether a word, or a few in a row, come four times or more without anything between: small models get stuck
    so."""
    words = [word.casefold() for word in _WORD.findall(sentence)]
    for length in range(1, _LONGEST_LOOP_WORDS + 1):
        same = 0
        for position in range(length, len(words)):
            same = same + 1 if words[position] == words[position - length] else 0
            if same >= 3 * length:
                return True
    return False
