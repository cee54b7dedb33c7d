"""Slips of the thumb that are put into training rows, so that a model learns to read past them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

_WORD = re.compile(r"[^\W\d_]{4,}")  # of letters; amounts and short words say too much to be bent
_MARKS = re.compile(r"(?<!\d)[.,;:!?]+(?=\s|$)")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NO_MARKS = 0.3  # share of the texts that lose the marks at the ends of their words


def with_slips(texts: Iterable[str], share: float, rng: np.random.Generator) -> list[str]:
    """Return the texts with a slip in a ``share`` of their words of four letters or more.

    A letter is left out, doubled, swapped with the next one or exchanged for any other; some texts
    also lose their punctuation. Amounts, numbers and short words stay. Training on slips is the
    plainest defence against them (Belinkov and Bisk 2018).
    """
    return [_bent(text, share, rng) for text in texts]


def _bent(text: str, share: float, rng: np.random.Generator) -> str:
    if share and rng.random() < _NO_MARKS:
        text = _MARKS.sub("", text)
    return _WORD.sub(lambda m: _slip(m[0], rng) if rng.random() < share else m[0], text)


def _slip(word: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(len(word) - 1))
    before, here, after = word[:at], word[at], word[at + 1 :]
    other = _LETTERS[int(rng.integers(len(_LETTERS)))]
    ways = (before + after, before + here * 2 + after, before + after[0] + here + after[1:])
    return (*ways, before + other + after)[int(rng.integers(4))]
