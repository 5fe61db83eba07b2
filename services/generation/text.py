"""From tokens to text that can be streamed: stop texts, and words for engines that have no tokenizer."""

import re
from collections.abc import Sequence

_WORD = re.compile(r"\s*\S+(?:\s+\Z)?")


class StopFinder:
    """Ends a stream before the first stop text, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What may be shown now that `text` has come; nothing once a stop text was found."""
        if self.found:
            return ""
        self._held += text
        ends = [position for stop in self._stops if (position := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            shown, self._held = self._held[: min(ends)], ""
            return shown
        kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - kept
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back, when no more comes."""
        shown, self._held = self._held, ""
        return shown


def words(text: str) -> list[str]:
    """The words of a text with the white space before them; joined they are the text."""
    return _WORD.findall(text)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
