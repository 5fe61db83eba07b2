"""Deterministic English-like texts of known length, so that benches need no data set."""

from __future__ import annotations

import random

WORDS = [
    "harbour",
    "lighthouse",
    "keeper",
    "painted",
    "window",
    "copper",
    "bridge",
    "engineer",
    "winter",
    "report",
    "measured",
    "pressure",
    "valley",
    "river",
    "market",
    "council",
    "decided",
    "budget",
    "railway",
    "station",
    "opened",
    "century",
    "museum",
    "letter",
    "author",
    "novel",
    "theory",
    "physics",
    "particle",
    "energy",
    "species",
    "forest",
    "northern",
    "island",
    "coast",
    "fishing",
    "village",
    "school",
    "teacher",
    "number",
    "percent",
    "population",
    "growth",
    "company",
    "founded",
    "product",
    "software",
    "network",
    "storage",
    "system",
    "failure",
    "recovery",
    "signal",
    "voltage",
    "temperature",
    "sample",
]


def texts(count: int, words: int, seed: int = 7) -> list[str]:
    """Distinct texts of about this many words (a word is about 1.3 tokens)."""
    chance = random.Random(seed)
    return [
        " ".join(chance.choices(WORDS, k=chance.randint(int(words * 0.8), int(words * 1.2)))) + f" {number}."
        for number in range(count)
    ]
