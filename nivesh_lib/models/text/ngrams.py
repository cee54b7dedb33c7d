"""N-grams of one text at a time, with the numbers of scikit-learn and without its overhead.

For a single text `TfidfVectorizer` spends most of its time on building an analyzer, a sparse
matrix and the checks of both. Here each known n-gram is its number in four bytes; those of a text
are joined, counted and looked up in one table.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Container, Iterable
from functools import partial
from itertools import pairwise, repeat

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

_NUMBER = np.dtype(np.int32)
_MARKS = frozenset(".,?!")  # as they stand behind a word

Numbers = Callable[[str], bytes]  # of a text in small letters, its known n-grams


class LinearNgrams:
    """A linear model on the TF-IDF weights of one or more families of n-grams.

    Parameters
    ----------
    vectorizers : iterable of TfidfVectorizer
        Fitted, with ``sublinear_tf``. Those of words count from single ones up; the others are
        ``char_wb``. Stop words, tokenizers and filters of their own are not for this class.
    coef : ndarray, (classes, terms)
        What each n-gram speaks for; families one after the other.
    """

    def __init__(self, vectorizers: Iterable[TfidfVectorizer], coef: np.ndarray) -> None:
        families = list(vectorizers)
        idf = np.concatenate([family.idf_ for family in families])
        self._starts = np.cumsum([0, *(len(family.idf_) for family in families)])
        # Beside its weights a row has the idf, and rows lie whole: one visit for each n-gram.
        rows = np.column_stack([coef.T * idf[:, None], idf])
        self._rows = np.ascontiguousarray(rows, np.float32)
        words = {
            word for family in families if family.analyzer == "word" for word in _names(family)
        }
        self._numbers = [
            _numbers(family, int(start), words)
            for family, start in zip(families, self._starts[:-1], strict=True)
        ]

    def scores(self, text: str) -> np.ndarray:
        """Return the scores of a text, (classes,), without the intercept.

        An n-gram weighs (1 + log count) * idf, and each family is scaled to length 1.
        """
        lower = text.lower()
        found = np.frombuffer(b"".join([numbers(lower) for numbers in self._numbers]), _NUMBER)
        terms, counts = _counted(found)
        rows = self._rows.take(terms, axis=0)
        weights = np.log(counts) + 1
        lengths = weights * rows[:, -1]
        for start, end in pairwise(terms.searchsorted(self._starts).tolist()):
            if start < end:
                family = lengths[start:end]
                weights[start:end] /= math.sqrt(family @ family)
        return (weights @ rows)[:-1]


def _counted(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each number once, in rising order, and how often it was there."""
    found = np.sort(found)  # np.unique does the same in twice the time
    new = np.ones(len(found) + 1, bool)
    np.not_equal(found[1:], found[:-1], out=new[1:-1])
    starts = new.nonzero()[0]
    return found[starts[:-1]], starts[1:] - starts[:-1]


def _names(vectorizer: TfidfVectorizer) -> dict[str, int]:
    """Return the number of each n-gram; a vocabulary that was given is copied on first use only."""
    return getattr(vectorizer, "vocabulary_", vectorizer.vocabulary)


def _numbers(vectorizer: TfidfVectorizer, start: int, words: Container[str]) -> Numbers:
    """Return what finds a family's n-grams in a text, as the vectorizer's own analyzer does."""
    known = {
        name: (start + number).to_bytes(_NUMBER.itemsize, sys.byteorder)
        for name, number in _names(vectorizer).items()
    }
    shortest, longest = vectorizer.ngram_range
    if vectorizer.analyzer == "char_wb":
        return _Pieces(known, shortest, longest, words)
    find = re.compile(vectorizer.token_pattern).findall
    return partial(_word_ngrams, known, find, longest)


def _word_ngrams(
    known: dict[str, bytes], find: Callable[[str], list[str]], longest: int, text: str
) -> bytes:
    return _joined(known, _phrases(find(text), longest))


def _joined(known: dict[str, bytes], names: list[str]) -> bytes:
    return b"".join(map(known.get, names, repeat(b"")))


def _phrases(words: list[str], longest: int) -> list[str]:
    phrases = list(words)
    for size in range(2, longest + 1):
        phrases += map(" ".join, zip(*(words[start:] for start in range(size)), strict=False))
    return phrases


class _Pieces:
    """Finds the pieces of words, edges included.

    What a word is made of is kept when the word, but for a mark behind it, is one of the model's
    own: that is most words of a query, and none that only a query has.
    """

    def __init__(
        self, known: dict[str, bytes], shortest: int, longest: int, words: Container[str]
    ) -> None:
        self._known = known
        self._shortest = shortest
        self._longest = longest
        self._words = words
        self._kept: dict[str, bytes] = {}

    def __call__(self, text: str) -> bytes:
        kept = self._kept.get
        return b"".join([kept(word) or self._pieces(word) for word in text.split()])

    def _pieces(self, word: str) -> bytes:
        framed = f" {word} "
        sizes = range(self._shortest, min(self._longest, len(framed)) + 1)
        names = [framed[at : at + size] for size in sizes for at in range(len(framed) - size + 1)]
        found = _joined(self._known, names)
        if word in self._words or (word[-1] in _MARKS and word[:-1] in self._words):
            self._kept[word] = found
        return found
