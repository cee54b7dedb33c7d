"""Answers of a model to rows that it has not learned from, as a package keeps them: no query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nivesh_lib.evaluation.drift import language_of, n_words
from nivesh_lib.evaluation.summary import release_slices
from nivesh_lib.models.base import TextClassifier
from nivesh_lib.records.release import N_ALTERNATIVES, AnsweredRow

if TYPE_CHECKING:
    import pandas as pd


def answered_rows(
    held: pd.DataFrame,
    classes: np.ndarray,
    probabilities: np.ndarray,
    in_place: TextClassifier | None,
) -> list[AnsweredRow]:
    """Return the answer to each row, and that of the model in place.

    Parameters
    ----------
    held
        Columns ``id``, ``query``, ``intent`` and those of slices, n rows.
    classes, probabilities
        The labels, and the model's probability of each, shape (n, n_classes).
    """
    masks, queries = release_slices(held), held["query"].tolist()
    before = [""] * len(held) if in_place is None else in_place.predict(queries)
    best = (-probabilities).argsort(axis=1, kind="stable")[:, : N_ALTERNATIVES + 1]
    return [
        AnsweredRow(
            id=str(held["id"].iloc[i]),
            label=str(held["intent"].iloc[i]),
            predicted=str(classes[first]),
            confidence=float(probabilities[i, first]),
            before=str(before[i]),
            slices=[name for name, mask in masks.items() if mask[i]],
            alternatives={str(classes[k]): float(probabilities[i, k]) for k in others},
            words=n_words(queries[i]),
            language=language_of(queries[i]),
        )
        for i, (first, *others) in enumerate(best.tolist())
    ]
