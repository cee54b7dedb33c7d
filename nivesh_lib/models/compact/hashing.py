"""Texts as bags of n-grams, each told by the number of the bucket that it hashes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

_SIZES = np.arange(2, 6)[:, None]  # characters of an n-gram
_PRIME = np.uint32(0x01000193)  # of the FNV hash
_SPREAD = np.uint32(0x9E3779B1)  # of Fibonacci hashing: every bit reaches the high ones


@dataclass(frozen=True)
class Bags:
    """Rows of a table that texts ask for, one text after the other.

    ``rows`` int64 (n,) are their numbers, ``counts`` int64 (texts,) how many each text has, at
    least one.
    """

    rows: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> Bags:
        """Join the rows of each text."""
        return cls(np.concatenate(rows), np.array([len(one) for one in rows]))

    def sums(self, table: np.ndarray) -> np.ndarray:
        """Return the sum of each text's rows, (texts, ...) of a table (rows, ...)."""
        return np.add.reduceat(table.take(self.rows, axis=0), _starts(self.counts), axis=0)

    def matrix(self, width: int) -> Any:
        """Return how often each text has each of ``width`` rows, sparse (texts, width) float32."""
        from scipy.sparse import csr_array

        ones = np.ones(len(self.rows), np.float32)
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        counted = csr_array((ones, self.rows, ends), shape=(len(self.counts), width))
        counted.sum_duplicates()
        return counted

    def joined(self, sizes: Sequence[int]) -> Bags:
        """Return one bag for each so many that follow on each other."""
        if len(sizes) == len(self.counts):
            return self
        return Bags(self.rows, np.add.reduceat(self.counts, _starts(np.array(sizes))))


def letter_bags(texts: Sequence[str], buckets: int) -> Bags:
    """Return the buckets of the character n-grams of texts; the order in a bag says nothing.

    N-grams have 2 to 5 characters and reach over the space on either side of a word, but not into
    the next word, as ``char_wb`` of scikit-learn does.
    """
    words = [[f" {word} " for word in text.lower().split()] or ["  "] for text in texts]
    every = list(chain.from_iterable(words))
    lengths = np.array([len(word) for word in every])
    letters = np.frombuffer("".join(every).encode("utf-32-le", "replace"), np.uint32)
    # Of each size a row, of each place in the texts a column: the n-gram that starts there.
    hashes = np.zeros((len(_SIZES), len(letters)), np.uint32)
    found = letters
    for size, row in zip(_SIZES[:, 0], hashes, strict=True):
        found = row[: 1 - size] = found[:-1] * _PRIME ^ letters[size - 1 :]
    left = np.cumsum(lengths).repeat(lengths) - np.arange(len(letters))  # to the word's end
    counts = np.maximum(lengths - _SIZES + 1, 0).sum(axis=0)
    bags = Bags(_bucket(hashes.T[(left >= _SIZES).T], buckets), counts)
    return bags.joined([len(one) for one in words])


def piece_bags(ids: Sequence[np.ndarray], buckets: int) -> Bags:
    """Return the buckets of the word pieces of texts, without the first and the last, and of pairs.

    Each text has two pieces or more.
    """
    lengths = np.array([len(one) for one in ids])
    pieces = np.concatenate(ids).astype(np.uint32)
    hashes = np.stack([pieces, np.zeros_like(pieces)], axis=1)
    hashes[:-1, 1] = (pieces[:-1] * _PRIME ^ pieces[1:]) * _PRIME
    last = np.cumsum(lengths) - 1
    inside = np.ones(hashes.shape, bool)
    inside[last] = False
    inside[last - lengths + 1, 0] = False
    return Bags(_bucket(hashes[inside], buckets), 2 * lengths - 3)


def _bucket(hashes: np.ndarray, buckets: int) -> np.ndarray:
    shift = np.uint32(33 - buckets.bit_length())
    return (hashes * _SPREAD >> shift).astype(np.int64)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) - counts
