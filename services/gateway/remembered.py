"""What was read in a passage, kept for when it is cited and for the next question that finds it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

_PASSAGES, _CHARACTERS = 512, 16_384


def remembered(read: Callable[[str], T]) -> Callable[[str], T]:
    """The same function of a text, which answers from memory for the texts of late; long ones are not kept."""
    once = lru_cache(_PASSAGES)(read)
    return lambda text: once(text) if len(text) <= _CHARACTERS else read(text)
