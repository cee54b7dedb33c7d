"""Typo augmentation of training texts."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

_WORD = re.compile(r"[^\W\d_]{4,}")  # letters only: amounts and short words would change meaning
_PUNCTUATION = re.compile(r"(?<!\d)[.,;:!?]+(?=\s|$)")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NO_PUNCTUATION = 0.3  # share of the texts whose word-final punctuation is removed


def with_typos(texts: Iterable[str], rate: float, rng: np.random.Generator) -> list[str]:
    """Return the texts with one typo in a share ``rate`` of the words of four letters or more.

    A typo deletes, doubles, swaps or replaces one letter; some texts also lose their punctuation.
    Amounts, numbers and short words are unchanged. Training on such noise is the simplest defence
    against it (Belinkov and Bisk 2018).
    """
    return [_noisy(text, rate, rng) for text in texts]


def _noisy(text: str, rate: float, rng: np.random.Generator) -> str:
    if rate and rng.random() < _NO_PUNCTUATION:
        text = _PUNCTUATION.sub("", text)
    return _WORD.sub(lambda m: _misspelled(m[0], rng) if rng.random() < rate else m[0], text)


def _misspelled(word: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(len(word) - 1))
    before, here, after = word[:at], word[at], word[at + 1 :]
    other = _LETTERS[int(rng.integers(len(_LETTERS)))]
    variants = (before + after, before + here * 2 + after, before + after[0] + here + after[1:])
    return (*variants, before + other + after)[int(rng.integers(4))]
