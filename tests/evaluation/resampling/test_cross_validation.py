from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned,
    cross_validate,
    fold_directory,
    out_of_fold,
)

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
    seen: list[str] = []

    class Spy(Memoriser):
        def predict_proba(self, X):
            seen.extend(X)
            assert not set(X) & set(self.known_)
            assert len(X) + len(self.known_) == len(frame)
            return super().predict_proba(X)

    cross_validate(Spy(), frame, labels=LABELS)
    assert sorted(seen) == sorted(frame["query"])


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


def test_one_fold_is_refused(frame):
    with pytest.raises(ValueError, match="'fold' holds 1 fold; at least 2"):
        cross_validate(Memoriser(), frame.assign(fold=0), labels=LABELS)


def cases_of(rows, name="other"):
    return pd.DataFrame(
        {"probe": name, "id": rows["id"], "fold": rows["fold"], "query": "seen " + rows["query"]}
    )


class Seer(Memoriser):
    """Is sure of the first label for texts of rows that it was not trained on."""

    def predict_proba(self, X):
        assert not {text.removeprefix("seen ") for text in X} & set(self.known_)
        return np.tile(np.eye(len(self.classes_))[0], (len(X), 1))


def test_cases_are_answered_by_the_model_that_did_not_see_the_row(frame):
    answers = cross_validate(Seer(), frame, labels=LABELS, cases=cases_of(frame)).case_answers
    assert list(answers) == ["probe", "id", "fold", *sorted(LABELS)]
    assert sorted(answers["id"]) == sorted(frame["id"])
    fold_of = dict(zip(frame["id"], frame["fold"], strict=True))
    assert (answers["fold"] == answers["id"].map(fold_of)).all()
    assert (answers["budget"] == 1).all()


def test_a_case_for_every_fold_is_answered_once_by_each(frame):
    case = pd.DataFrame({"probe": ["no intent"], "id": ["x"], "fold": [-1], "query": ["hi"]})
    answers = cross_validate(Memoriser(), frame, labels=LABELS, cases=case).case_answers
    assert answers["fold"].tolist() == [0, 1, 2, 3, 4]
    assert answers[LABELS].to_numpy() == pytest.approx(np.full((5, 4), 0.25))


def test_without_cases_there_are_no_answers_and_the_rows_are_scored_the_same(frame):
    plain = cross_validate(Memoriser(), frame, labels=LABELS)
    answers = cross_validate(Memoriser(), frame, labels=LABELS, cases=cases_of(frame))
    assert plain.case_answers is None
    pd.testing.assert_frame_equal(plain.oof, answers.oof)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.assign(fold=(p["fold"] + 1) % 5), "that its model was trained on"),
        (lambda p: p.assign(fold=-1), "that its model was trained on"),
        (lambda p: p.assign(fold=7), r"name the folds \[7\]"),
        (lambda p: pd.concat([p, p]), "an id occurs twice in one test case"),
    ],
)
def test_invalid_cases_are_refused_before_any_fit(frame, change, message):
    class Unfittable(Memoriser):
        def fit(self, X, y):
            raise AssertionError("fitted")

    with pytest.raises(ValueError, match=message):
        cross_validate(Unfittable(), frame, labels=LABELS, cases=change(cases_of(frame)))


class Saved(Memoriser):
    """Writes down which rows it was trained on."""

    def save(self, directory):
        directory.mkdir(parents=True)
        (directory / "rows.txt").write_text("\n".join(self.known_))


def test_the_model_kept_for_a_fold_never_saw_its_rows(frame, tmp_path):
    cross_validate(Saved(), frame, labels=LABELS, models_to=tmp_path)
    assert len(list(tmp_path.iterdir())) == frame["fold"].nunique()
    for fold, rows in frame.groupby("fold"):
        known = (fold_directory(tmp_path, fold) / "rows.txt").read_text().splitlines()
        assert set(known) == set(frame["query"]) - set(rows["query"])


def test_models_fitted_before_answer_as_they_did_in_cross_validation(frame):
    models = {}
    for k in sorted(frame["fold"].unique()):
        others = frame[frame["fold"] != k]
        models[k] = Memoriser().fit(others["query"].tolist(), others["intent"].tolist())
    pd.testing.assert_frame_equal(
        out_of_fold(models.__getitem__, frame, labels=LABELS),
        cross_validate(Memoriser(), frame, labels=LABELS).oof,
    )


def test_a_recorded_table_comes_in_the_order_of_the_ids():
    oof = pd.DataFrame({"id": ["a", "b", "c"], "fold": [0, 1, 2], "tax": [0.1, 0.2, 0.3]})
    found = aligned(oof, pd.Series(["c", "a"], index=[7, 9]))
    assert found.to_dict("list") == {"id": ["c", "a"], "fold": [2, 0], "tax": [0.3, 0.1]}


@pytest.mark.parametrize(
    ("ids", "wanted", "message"),
    [(["a", "a"], ["a"], "an id occurs twice"), (["a", "b"], ["a", "z"], "1 of 2 rows .* 'z'")],
)
def test_a_recorded_table_that_does_not_fit_is_refused(ids, wanted, message):
    with pytest.raises(ValueError, match=message):
        aligned(pd.DataFrame({"id": ids, "fold": 0, "tax": 1.0}), pd.Series(wanted))
