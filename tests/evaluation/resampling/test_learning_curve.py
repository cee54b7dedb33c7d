from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from nivesh_lib.evaluation.resampling.learning_curve import learning_curve
from nivesh_lib.evaluation.scores import score


class Words(BaseEstimator):
    """Knows the words it was trained on; answers with the first label for others."""

    fitted = ()

    def fit(self, X, y):
        self.known_ = dict(zip(X, y, strict=True))
        self.other_ = sorted(set(y))[0]
        Words.fitted = (*Words.fitted, tuple(X))
        return self

    def predict(self, X):
        return np.array([self.known_.get(x, self.other_) for x in X], dtype=object)


@pytest.fixture
def frame():
    """Forty words, each in every of five folds: more rows, more words known."""
    Words.fitted = ()
    rows = [(f"w{n}", "abcd"[n % 4], fold) for n in range(40) for fold in range(5)]
    return pd.DataFrame(rows, columns=["query", "intent", "fold"])


def test_smaller_parts_lie_within_larger_ones(frame):
    frame["query"] += " " + frame["fold"].astype(str)
    learning_curve(Words(), frame, n_boot=20)
    for start in range(0, 20, 4):
        for small, large in pairwise(Words.fitted[start : start + 4]):
            assert set(small) < set(large) and len(large) == 2 * len(small)


def test_parts_keep_the_shares_of_labels(frame):
    frame["query"] = frame["intent"] + frame.index.astype(str)
    learning_curve(Words(), frame, n_boot=20)
    for part in Words.fitted:
        of_label = [sum(text[0] == label for text in part) for label in "abcd"]
        assert max(of_label) - min(of_label) <= 2


def test_no_tested_row_was_trained_on(frame):
    frame["query"] += " " + frame["fold"].astype(str)
    curve = learning_curve(Words(), frame, n_boot=20)
    assert set(curve.predictions[1.0]) == {"a"}


def test_a_model_that_learns_from_each_row_wants_more_labels(frame):
    curve = learning_curve(Words(), frame[frame["fold"] < 2], n_boot=200)
    assert curve.table["rows"].tolist() == [5, 10, 20, 40]
    assert curve.table["accuracy"].is_monotonic_increasing
    assert curve.table["accuracy"].iloc[-1] == 1 > curve.table["accuracy"].iloc[0]
    assert curve.last_gain.low > 0


def test_scores_and_last_gain_are_those_of_the_predictions(frame):
    curve = learning_curve(Words(), frame, metric="accuracy", n_boot=50)
    half = score(frame["intent"], curve.predictions[0.5], n_boot=50)["accuracy"]
    row = curve.table.iloc[-2]
    assert (row["accuracy"], row["accuracy_low"]) == (half.value, half.low)
    assert curve.last_gain.value == pytest.approx(1 - half.value)


def test_hard_rows_are_learnt_from_but_not_scored(frame):
    frame["selection"] = np.where(frame.index % 2, "hard", "natural")
    curve = learning_curve(Words(), frame, n_boot=20)
    assert curve.last_gain.n == 100 and curve.table["rows"].iloc[-1] == 160


def test_the_seed_decides_the_parts(frame):
    first, again, other = (
        learning_curve(Words(), frame, n_boot=20, seed=seed).predictions[0.125]
        for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize(("halvings", "message"), [(0, "need 1 halving"), (8, "fewer halvings")])
def test_parts_that_cannot_be_are_refused(frame, halvings, message):
    with pytest.raises(ValueError, match=message):
        learning_curve(Words(), frame, halvings=halvings)
