"""The prompt: what the model is told, and what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .values import Evidence, Passage

# Part of the cache's key: raise it with every change of wording, or of what is checked, or old answers would be served.
PROMPT_VERSION = "3"


class Style(StrEnum):
    """What a prompt carries; named as in headwater.generation.v1."""

    PASSAGES = "PASSAGES"
    EVIDENCE = "EVIDENCE"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: `role` is "SYSTEM", "USER" or "ASSISTANT"."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is given, and texts that end what it says."""

    turns: tuple[Turn, ...]
    stop: tuple[str, ...] = ()


_PASSAGES_SYSTEM = (
    "You answer questions from numbered passages, and from nothing else. After each statement write the number of the "
    "passage it rests on in square brackets, like [1]. When the passages do not hold the answer, say so. Be brief."
)
# Measured with the default small model over six wordings: the question first, nothing after the sentences, the best
# sentence first, and no passage numbers (it copies them as facts).
_EVIDENCE_SYSTEM = "You answer questions with the words of the text you are given."


def build(
    style: Style, question: str, passages: Sequence[Passage], evidence: Sequence[Evidence], *, evidence_sentences: int
) -> Prompt:
    """The prompt for a question. `evidence` is best first."""
    match style:
        case Style.PASSAGES:
            given = "\n\n".join(_passage(passage) for passage in passages)
            return Prompt((Turn("SYSTEM", _PASSAGES_SYSTEM), Turn("USER", f"{given}\n\nQuestion: {question}")))
        case Style.EVIDENCE:
            best = " ".join(_stopped(one.text) for one in evidence[:evidence_sentences])
            asked = f"{question}\n\nAnswer with the words of this text:\n{best}"
            return Prompt((Turn("SYSTEM", _EVIDENCE_SYSTEM), Turn("USER", asked)), stop=("\n\n",))


def _stopped(sentence: str) -> str:
    """A list item or table row often ends without a stop, and would run on into what follows."""
    return sentence if not sentence[-1:].isalnum() else f"{sentence}."


def _passage(passage: Passage) -> str:
    title = f" ({passage.hit.title})" if passage.hit.title else ""
    return f"[{passage.number}]{title} {passage.hit.text}"
