"""Which of many things is asked for: the popular ones again and again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


class Weighted(Generic[T]):
    """Draws items, each as often as its weight says."""

    def __init__(self, items: Sequence[T], weights: Sequence[float]) -> None:
        self._items = items
        self._up_to = list(accumulate(weights, initial=0.0))[1:]
        if not self._up_to or self._up_to[-1] <= 0 or min(weights) < 0:
            raise ValueError("weights must not be negative, and one must be above 0")

    def draw(self, chance: Random) -> T:
        """One of the items."""
        # random() is below 1, but its product may round up to the sum.
        place = bisect_right(self._up_to, chance.random() * self._up_to[-1])
        return self._items[min(place, len(self._items) - 1)]


def zipf_weights(count: int, exponent: float) -> list[float]:
    """Weights of `count` things by their rank: 1 / rank^exponent. 0 makes all alike; questions of people are near 1."""
    return [1.0 / rank**exponent for rank in range(1, count + 1)]
