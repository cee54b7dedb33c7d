"""Which words an answer rests on, for any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Attribution:
    """An answer, its probability, and what each word of the query adds to that."""

    label: str
    confidence: float
    words: tuple[str, ...]
    weights: tuple[float, ...]


def attribute(
    predict_proba: Callable[[list[str]], np.ndarray],
    classes: Sequence[str],
    texts: Sequence[str],
    *,
    longest: int = 40,
) -> list[Attribution]:
    """Return what each word adds to the probability of the answer to its text.

    A word's weight is the probability of the answer minus what is left of it when the word is
    left out (erasure: Li, Monroe and Jurafsky 2016). Below 0 the word speaks for something else.
    Two words that say the same can both have weights near 0, since each stands in for the other.

    Parameters
    ----------
    predict_proba : callable
        Texts -> probabilities (n, n_classes), columns in the order of ``classes``.
    longest : int
        Words of a text that are tried; those after it are left as they are.
    """
    found = []
    for text in texts:
        words = text.split()
        tried = words[:longest]
        without = [" ".join(words[:n] + words[n + 1 :]) for n in range(len(tried))]
        proba = np.asarray(predict_proba([text, *without]))
        answer = int(proba[0].argmax())
        weights = proba[0, answer] - proba[1:, answer]
        found.append(
            Attribution(
                str(classes[answer]), float(proba[0, answer]), tuple(tried), tuple(weights.tolist())
            )
        )
    return found
