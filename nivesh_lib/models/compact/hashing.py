"""Hashed n-grams of texts, as indices into tables of buckets (Weinberger et al. 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

_SIZES = np.arange(2, 6)[:, None]  # characters of an n-gram
_FNV_PRIME = np.uint32(0x01000193)
_FIBONACCI = np.uint32(0x9E3779B1)  # multiplier that spreads every bit to the high ones


@dataclass(frozen=True)
class TextIndices:
    """Rows of a table for each of many texts, concatenated.

    ``rows`` int64 (n,) are the row indices, ``counts`` int64 (texts,) their number for each text,
    at least one.
    """

    rows: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> TextIndices:
        """Concatenate the row indices of each text."""
        return cls(np.concatenate(rows), np.array([len(one) for one in rows]))

    def sums(self, table: np.ndarray) -> np.ndarray:
        """Return the sum of each text's rows, (texts, ...), of a table (rows, ...)."""
        return np.add.reduceat(table.take(self.rows, axis=0), _starts(self.counts), axis=0)

    def matrix(self, width: int) -> Any:
        """Return the counts of ``width`` rows in each text, sparse (texts, width) float32."""
        from scipy.sparse import csr_array

        ones = np.ones(len(self.rows), np.float32)
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        counted = csr_array((ones, self.rows, ends), shape=(len(self.counts), width))
        counted.sum_duplicates()
        return counted

    def merged(self, sizes: Sequence[int]) -> TextIndices:
        """Return the indices with each run of ``sizes`` consecutive texts merged into one."""
        if len(sizes) == len(self.counts):
            return self
        return TextIndices(self.rows, np.add.reduceat(self.counts, _starts(np.array(sizes))))


def hashed_char_ngrams(texts: Sequence[str], buckets: int) -> TextIndices:
    """Return the buckets of the character n-grams of texts, in no particular order.

    N-grams have 2 to 5 characters inside word boundaries, as ``char_wb`` of scikit-learn.
    """
    words = [[f" {word} " for word in text.lower().split()] or ["  "] for text in texts]
    all_words = list(chain.from_iterable(words))
    lengths = np.array([len(word) for word in all_words])
    letters = np.frombuffer("".join(all_words).encode("utf-32-le", "replace"), np.uint32)
    # hashes[s, i] is the hash of the n-gram of the s-th size that starts at letter i.
    hashes = np.zeros((len(_SIZES), len(letters)), np.uint32)
    shorter = letters
    for size, row in zip(_SIZES[:, 0], hashes, strict=True):
        shorter = row[: 1 - size] = shorter[:-1] * _FNV_PRIME ^ letters[size - 1 :]
    left = np.cumsum(lengths).repeat(lengths) - np.arange(len(letters))  # letters of the word
    rows = _bucket(hashes.T[(left >= _SIZES).T], buckets)
    if len(texts) == 1:
        return TextIndices(rows, np.array([len(rows)]))
    counts = np.maximum(lengths - _SIZES + 1, 0).sum(axis=0)
    return TextIndices(rows, counts).merged([len(one) for one in words])


def hashed_token_ngrams(ids: Sequence[np.ndarray], buckets: int) -> TextIndices:
    """Return the buckets of the token unigrams and bigrams of texts of two tokens or more.

    Unigrams leave out the first and the last token, which are special.
    """
    lengths = np.array([len(one) for one in ids])
    tokens = np.concatenate(ids).astype(np.uint32)
    hashes = np.stack([tokens, np.zeros_like(tokens)], axis=1)
    hashes[:-1, 1] = _bigrams(tokens)
    last = np.cumsum(lengths) - 1
    inside = np.ones(hashes.shape, bool)
    inside[last] = False
    inside[last - lengths + 1, 0] = False
    return TextIndices(_bucket(hashes[inside], buckets), 2 * lengths - 3)


def token_buckets(ids: np.ndarray, buckets: int) -> np.ndarray:
    """Return the buckets of token unigrams, int64 (n,), as `hashed_token_ngrams` has them."""
    return _bucket(ids.astype(np.uint32), buckets)


def bigram_buckets(ids: Sequence[int], buckets: int) -> np.ndarray:
    """Return the buckets of the token bigrams of one text, as `hashed_token_ngrams` has them."""
    return _bucket(_bigrams(np.array(ids, np.uint32)), buckets)


def _bigrams(tokens: np.ndarray) -> np.ndarray:
    return (tokens[:-1] * _FNV_PRIME ^ tokens[1:]) * _FNV_PRIME


def _bucket(hashes: np.ndarray, buckets: int) -> np.ndarray:
    shift = np.uint32(33 - buckets.bit_length())
    return (hashes * _FIBONACCI >> shift).astype(np.int64)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) - counts
