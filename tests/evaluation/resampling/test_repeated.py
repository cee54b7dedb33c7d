from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.metrics import f1_score

from nivesh_lib.evaluation.resampling.cross_validation import cross_validate
from nivesh_lib.evaluation.resampling.repeated import fold_table, repeated_cross_validate

LABELS = ["goal", "loan", "tax"]


class Lucky(BaseEstimator):
    """Guesses by its seed; with another text it has another guess."""

    seeds = ()

    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit(self, X, y):
        Lucky.seeds = (*Lucky.seeds, self.random_state)
        self.classes_ = np.unique(np.asarray(y, dtype=object))
        return self

    def predict_proba(self, X):
        rng = np.random.default_rng(self.random_state)
        return rng.dirichlet(np.ones(len(self.classes_)), len(X))


class Around(BaseEstimator):
    """A model with a model inside."""

    def __init__(self, inner):
        self.inner = inner

    def fit(self, X, y):
        self.inner.fit(X, y)
        self.classes_ = self.inner.classes_
        return self

    def predict_proba(self, X):
        return self.inner.predict_proba(X)


@pytest.fixture
def frame():
    """Ninety rows in three labels and five folds; pairs of neighbours belong together."""
    Lucky.seeds = ()
    rows = pd.DataFrame({"id": [f"r{n}" for n in range(90)]})
    rows["query"], rows["pair"] = rows["id"], np.arange(90) // 2
    rows["intent"] = [LABELS[n // 2 % 3] for n in range(90)]
    rows["fold"] = rows["pair"] % 5
    return rows.sample(frac=1, random_state=0)


def repeated(model, frame, **options):
    return repeated_cross_validate(model, frame, labels=LABELS, **{"repeats": 3, **options})


def test_the_first_repeat_is_on_the_version_s_own_folds(frame):
    found = repeated(Lucky(), frame, repeats=1, seed=7)
    pd.testing.assert_frame_equal(
        found.runs[0].oof, cross_validate(Lucky(7), frame, labels=LABELS).oof
    )


def test_later_repeats_have_other_folds_of_like_size_and_labels(frame):
    folds = [run.oof["fold"].to_numpy() for run in repeated(Lucky(), frame).runs]
    assert len({tuple(numbers) for numbers in folds}) == 3
    for numbers in folds[1:]:
        counts = pd.crosstab(numbers, frame["intent"])
        assert counts.shape == (5, 3) and counts.min().min() >= 5


def test_rows_that_belong_together_stay_in_one_fold(frame):
    for run in repeated(Lucky(), frame, group="pair").runs:
        of_pair = run.oof["fold"].groupby(frame["pair"].to_numpy()).nunique()
        assert (of_pair == 1).all()


def test_without_groups_rows_are_dealt_one_by_one(frame):
    run = repeated(Lucky(), frame).runs[1]
    assert (run.oof["fold"].groupby(frame["pair"].to_numpy()).nunique() > 1).any()


@pytest.mark.parametrize("model", [Lucky(), Around(Lucky())])
def test_each_repeat_has_a_seed_of_its_own_that_parts_get_too(frame, model):
    repeated(model, frame, seed=100)
    assert Lucky.seeds == (*[100] * 5, *[101] * 5, *[102] * 5)
    assert {value for name, value in model.get_params().items() if "random" in name} == {None}


def test_scores_are_those_of_each_fold_over_natural_rows(frame):
    frame["selection"] = np.where(frame["pair"] % 7 == 0, "hard", "natural")
    found = repeated(Lucky(), frame)
    natural = (frame["selection"] == "natural").to_numpy()
    row = found.scores.iloc[6].to_dict()
    run = found.runs[int(row["repeat"])]
    held = (run.oof["fold"] == row["fold"]).to_numpy()
    true, predicted = frame["intent"].to_numpy()[held & natural], run.predicted[held & natural]
    assert row["accuracy"] == (true == predicted).mean()
    assert row["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert (row["n_test"], row["n_scored"]) == (held.sum(), len(true))


def test_mean_deviation_and_interval_are_over_all_folds(frame):
    found = repeated(Lucky(), frame)
    scores, interval = found.scores["accuracy"], found.intervals["accuracy"]
    assert (interval.value, interval.std) == pytest.approx((scores.mean(), scores.std()))
    assert interval.n == 15 and interval.low < interval.value < interval.high
    spread = 2.144787 * scores.std() * np.sqrt(1 / 15 + 1 / 4)
    assert interval.high - interval.value == pytest.approx(spread, rel=0.01)


def test_fewer_than_one_repeat_is_refused(frame):
    with pytest.raises(ValueError, match="repeats is 0"):
        repeated(Lucky(), frame, repeats=0)


def test_the_fold_table_has_the_spread_of_scikit_learns_scores(frame):
    run = cross_validate(Lucky(0), frame, labels=LABELS)
    (row,) = fold_table({"lucky": run.oof}, frame).to_dict("records")
    scores = [
        f1_score(frame["intent"][held], run.predicted[held], average="macro")
        for held in (frame["fold"].to_numpy() == k for k in range(5))
    ]
    assert (row["mean"], row["std"]) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
    assert (row["worst"], row["best"], row["folds"]) == (min(scores), max(scores), 5)
