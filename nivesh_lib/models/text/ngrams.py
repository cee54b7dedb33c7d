"""TF-IDF scores of single texts, equal to scikit-learn's without its per-call overhead.

For a single text `TfidfVectorizer` spends most of its time on building an analyzer, a sparse
matrix and validating both. Here every known n-gram maps to its index in four bytes; the indices of
a text are concatenated, counted and looked up in one table.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, repeat

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

_INDEX = np.dtype(np.int32)
_PUNCTUATION = frozenset(".,?!")

Indexer = Callable[[str], bytes]  # a lower-case text -> the indices of its known n-grams


class LinearNgrams:
    """A linear model on the TF-IDF weights of one or more families of n-grams.

    Parameters
    ----------
    vectorizers : iterable of TfidfVectorizer
        Fitted, with ``sublinear_tf``; word n-grams start at 1, others use ``char_wb``. Stop
        words, custom tokenizers and preprocessors are not supported.
    coef : ndarray, (classes, terms)
        Weights of the n-grams, families concatenated.
    """

    def __init__(self, vectorizers: Iterable[TfidfVectorizer], coef: np.ndarray) -> None:
        families = list(vectorizers)
        idf = np.concatenate([family.idf_ for family in families])
        self._starts = np.cumsum([0, *(len(family.idf_) for family in families)])
        # A row holds the weights and the idf of an n-gram, contiguous: one memory access each.
        rows = np.column_stack([coef.T * idf[:, None], idf])
        self._rows = np.ascontiguousarray(rows, np.float32)
        words = {
            word for family in families if family.analyzer == "word" for word in _vocabulary(family)
        }
        self._indexers = [
            _indexer(family, int(start), words)
            for family, start in zip(families, self._starts[:-1], strict=True)
        ]

    def scores(self, text: str) -> np.ndarray:
        """Return the scores of a text, (classes,), without the intercept.

        An n-gram weighs (1 + log count) * idf, and each family is scaled to unit length.
        """
        lower = text.lower()
        found = np.frombuffer(b"".join([indices(lower) for indices in self._indexers]), _INDEX)
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
    """Return the distinct indices in ascending order and the count of each."""
    found = np.sort(found)  # np.unique takes twice the time
    new = np.ones(len(found) + 1, bool)
    np.not_equal(found[1:], found[:-1], out=new[1:-1])
    starts = new.nonzero()[0]
    return found[starts[:-1]], starts[1:] - starts[:-1]


def _vocabulary(vectorizer: TfidfVectorizer) -> dict[str, int]:
    """Return n-gram -> index, also before scikit-learn has copied a given vocabulary."""
    return getattr(vectorizer, "vocabulary_", vectorizer.vocabulary)


def _indexer(vectorizer: TfidfVectorizer, start: int, words: Container[str]) -> Indexer:
    """Return a function that finds a family's n-grams in a text as its own analyzer does."""
    known = {
        name: (start + number).to_bytes(_INDEX.itemsize, sys.byteorder)
        for name, number in _vocabulary(vectorizer).items()
    }
    shortest, longest = vectorizer.ngram_range
    if vectorizer.analyzer == "char_wb":
        return _CharNgrams(known, shortest, longest, words)
    find = re.compile(vectorizer.token_pattern).findall
    return partial(_word_ngrams, known, find, longest)


def _word_ngrams(
    known: dict[str, bytes], find: Callable[[str], list[str]], longest: int, text: str
) -> bytes:
    words = find(text)
    names = list(words)
    for size in range(2, longest + 1):
        names += map(" ".join, zip(*(words[start:] for start in range(size)), strict=False))
    return _joined(known, names)


def _joined(known: dict[str, bytes], names: list[str]) -> bytes:
    return b"".join(map(known.get, names, repeat(b"")))


@dataclass(frozen=True, eq=False)
class _CharNgrams:
    """Indexer of character n-grams inside word boundaries.

    Results are cached for words of the word vocabulary, with or without a punctuation mark behind:
    most words of a query are such, and the cache cannot hold a word that only a query has.
    """

    known: dict[str, bytes]
    shortest: int
    longest: int
    words: Container[str]
    cache: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, text: str) -> bytes:
        cached = self.cache.get
        return b"".join([cached(word) or self._of_word(word) for word in text.split()])

    def _of_word(self, word: str) -> bytes:
        framed = f" {word} "
        sizes = range(self.shortest, min(self.longest, len(framed)) + 1)
        names = [framed[at : at + size] for size in sizes for at in range(len(framed) - size + 1)]
        found = _joined(self.known, names)
        if word in self.words or (word[-1] in _PUNCTUATION and word[:-1] in self.words):
            self.cache[word] = found
        return found
