"""Texts as bags of n-grams, each told by the number of the bucket that it hashes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

_LETTERS = (2, 5)  # characters of the shortest and of the longest n-gram
_PIECES = (1, 2)
_PLACES = np.arange(_LETTERS[1] + 1)[:, None]
# Odd numbers without a pattern, one for each place of an n-gram.
_FACTORS = np.random.default_rng(5).integers(2**31, size=_PLACES.shape, dtype=np.uint32) * 2 + 1


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
    letters = np.frombuffer("".join(every).encode("utf-32-le", "replace"), np.uint32)
    found = _ngrams(letters, np.array([len(word) for word in every]), _LETTERS, buckets)
    return found.joined([len(one) for one in words])


def piece_bags(ids: Sequence[np.ndarray], buckets: int) -> Bags:
    """Return the buckets of the word pieces of texts, and of pairs of them."""
    lengths = np.array([len(one) for one in ids])
    return _ngrams(np.concatenate(ids).astype(np.uint32), lengths, _PIECES, buckets)


def _ngrams(values: np.ndarray, lengths: np.ndarray, sizes: tuple[int, int], buckets: int) -> Bags:
    """Return the n-grams inside sequences that lie one after the other in ``values``.

    The hash is a sum of products, of which the high bits are taken: any two n-grams of values
    below 2 ** 17 share one of up to 2 ** 16 buckets as seldom as by chance (Lemire and Kaser 2014).
    """
    shortest, longest = sizes
    at = np.arange(len(values))
    left = np.cumsum(lengths).repeat(lengths) - at  # values from here to the sequence's end
    padded = np.concatenate([values, np.zeros(longest - 1, np.uint32)])
    products = padded[at + _PLACES[:longest]] * _FACTORS[:longest]
    hashes = products.cumsum(axis=0, dtype=np.uint32)[shortest - 1 :]
    fits = left >= _PLACES[shortest : longest + 1]
    rows = hashes.T[fits.T] >> np.uint32(33 - buckets.bit_length())
    counts = np.maximum(lengths - _PLACES[shortest - 1 : longest], 0).sum(axis=0)
    return Bags(rows.astype(np.int64), counts)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) - counts
