"""How fast the engine works and how long answers get, learnt from what it did."""

import math

_WINDOW_SECONDS = 0.5
# Long enough to smooth over the burst of prompts that start together, short enough to follow a change of load.
_MEMORY_SECONDS = 5.0
_MEMORY_ANSWERS = 10
# As TCP's retransmission timer does (RFC 6298): the mean and some deviations, so that most answers end within it.
_DEVIATIONS = 2.0


class Pace:
    """Costs are in generated tokens. Before anything was measured, everything is taken to be fast."""

    def __init__(self) -> None:
        self.cost_per_second = math.inf
        self._window_began: float | None = None
        self._window_cost = 0.0
        self._pressed = False
        self._share = 1.0
        self._deviation = 0.0

    def pressed(self) -> None:
        """More was asked for than was taken: what the engine does just now is what it can do."""
        self._pressed = True

    def worked(self, cost: float, now: float, saturated: bool) -> None:
        """Count work done at `now`. A rate lower than known counts only if more work was there to be done."""
        if self._window_began is None:
            self._window_began = now
        self._window_cost += cost
        seconds = now - self._window_began
        if seconds < _WINDOW_SECONDS:
            return
        rate = self._window_cost / seconds
        if math.isinf(self.cost_per_second):
            self.cost_per_second = rate
        elif saturated or self._pressed or rate > self.cost_per_second:
            weight = 1 - math.exp(-seconds / _MEMORY_SECONDS)
            self.cost_per_second += weight * (rate - self.cost_per_second)
        self._window_began, self._window_cost, self._pressed = now, 0.0, False

    def idle(self) -> None:
        """The engine has nothing to do: the time until it has again must not count."""
        self._window_began, self._window_cost = None, 0.0

    def answered(self, output_tokens: int, max_tokens: int) -> None:
        """Learn how much of what it may a request uses."""
        share = min(output_tokens / max_tokens, 1.0)
        self._deviation += (abs(share - self._share) - self._deviation) / _MEMORY_ANSWERS
        self._share += (share - self._share) / _MEMORY_ANSWERS

    def expected_tokens(self, max_tokens: int) -> int:
        """Tokens that most requests with this limit stay within."""
        share = min(self._share + _DEVIATIONS * self._deviation, 1.0)
        return max(1, math.ceil(share * max_tokens))
