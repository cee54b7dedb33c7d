from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from nivesh_lib.evaluation.crossval import cross_validate

LABELS = ["tax", "goal", "loan", "budget"]


class Memoriser(BaseEstimator):
    """Knows the rows it was trained on by heart, and nothing else."""

    def fit(self, X, y):
        self.classes_, codes = np.unique(np.asarray(y, dtype=object), return_inverse=True)
        self.known_ = dict(zip(X, codes, strict=True))
        return self

    def predict_proba(self, X):
        guess = np.full(len(self.classes_), 1 / len(self.classes_))
        exact = np.eye(len(self.classes_))
        return np.array([exact[self.known_[x]] if x in self.known_ else guess for x in X])


@pytest.fixture
def frame():
    """Sixty different rows in four labels and five folds, in no particular order."""
    rows = pd.DataFrame({"id": [f"r{i}" for i in range(60)]})
    rows["query"] = rows["id"] + " query"
    rows["intent"] = [LABELS[i % 4] for i in range(60)]
    rows["fold"] = [i // 4 % 5 for i in range(60)]
    return rows.sample(frac=1, random_state=0)


def test_a_model_that_memorises_rows_scores_like_guessing(frame):
    cv = cross_validate(Memoriser(), frame, labels=LABELS)
    assert (cv.predicted == frame["intent"]).mean() == pytest.approx(1 / len(LABELS))


def test_a_copy_of_a_row_in_another_fold_would_be_noticed(frame):
    twins = pd.concat([frame, frame.assign(fold=(frame["fold"] + 1) % 5)])
    cv = cross_validate(Memoriser(), twins, labels=LABELS)
    assert (cv.predicted == twins["intent"]).all()


def test_each_row_is_predicted_once_by_a_model_that_did_not_see_it(frame):
    asked: list[str] = []

    class Spy(Memoriser):
        def predict_proba(self, X):
            asked.extend(X)
            assert not set(X) & set(self.known_)
            assert len(X) + len(self.known_) == len(frame)
            return super().predict_proba(X)

    cross_validate(Spy(), frame, labels=LABELS)
    assert sorted(asked) == sorted(frame["query"])


def test_rows_and_columns_come_in_a_known_order(frame):
    oof = cross_validate(Memoriser(), frame, labels=LABELS).oof
    assert list(oof) == ["id", "fold", *sorted(LABELS)]
    assert oof["id"].tolist() == frame["id"].tolist()
    assert oof["fold"].tolist() == frame["fold"].tolist()


def test_probabilities_land_in_the_row_and_column_they_belong_to(frame):
    class Reader(Memoriser):
        def predict_proba(self, X):
            wanted = [truth[x] for x in X]
            return np.array([[0.1 + 0.6 * (c == w) for c in self.classes_] for w in wanted])

    truth = dict(zip(frame["query"], frame["intent"], strict=True))
    cv = cross_validate(Reader(), frame, labels=LABELS)
    assert cv.predicted.tolist() == frame["intent"].tolist()
    assert cv.confidence == pytest.approx(np.full(60, 0.7))


def test_a_label_that_training_rows_lack_has_probability_zero(frame):
    frame.loc[frame["intent"] == "tax", "fold"] = 0
    oof = cross_validate(Memoriser(), frame, labels=LABELS).oof
    assert (oof.loc[oof["fold"] == 0, "tax"] == 0).all()
    np.testing.assert_allclose(oof[sorted(LABELS)].sum(axis=1), 1)


def test_the_model_itself_stays_unfitted_and_each_fit_is_timed(frame):
    model = Memoriser()
    cv = cross_validate(model, frame, labels=LABELS)
    assert not hasattr(model, "classes_")
    assert len(cv.fit_seconds) == 5
    assert min(cv.fit_seconds) > 0


def test_columns_may_have_other_names(frame):
    renamed = frame.rename(columns={"query": "t", "intent": "y", "fold": "part"})
    cv = cross_validate(Memoriser(), renamed, labels=LABELS, text="t", label="y", fold="part")
    pd.testing.assert_frame_equal(cv.oof, cross_validate(Memoriser(), frame, labels=LABELS).oof)


def test_one_fold_is_refused(frame):
    with pytest.raises(ValueError, match="'fold' holds 1 fold; at least 2"):
        cross_validate(Memoriser(), frame.assign(fold=0), labels=LABELS)


def test_views_are_predicted_by_the_model_that_did_not_see_the_row(frame):
    class Reader(Memoriser):
        def predict(self, X):
            assert not {text.removeprefix("seen ") for text in X} & set(self.known_)
            return np.array([text.removeprefix("seen ") for text in X], dtype=object)

    other = [f"seen {text}" for text in frame["query"]]
    cv = cross_validate(Reader(), frame, labels=LABELS, views={"other": other})
    assert cv.views["other"].tolist() == frame["query"].tolist()
