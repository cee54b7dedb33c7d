from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.compression.study import CompressionStudy

pytestmark = pytest.mark.usefixtures("no_collection")
LABELS = ["loan", "tax"]


class Reader:
    """Reads the label off the query, and is wrong about the given rows."""

    def __init__(self, size=100, wrong=()):
        self.size, self.wrong = size, set(wrong)
        self.classes_ = np.array(LABELS, dtype=object)

    def predict_proba(self, X):
        right = [LABELS.index(text.split()[0]) for text in X]
        flipped = [code ^ (text in self.wrong) for text, code in zip(X, right, strict=True)]
        return np.where(np.eye(2)[flipped] > 0, 0.9, 0.1)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def save(self, directory):
        directory.mkdir()
        (directory / "weights.txt").write_text("w" * self.size)
        return directory


@pytest.fixture
def frame():
    rows = pd.DataFrame({"id": [f"r{i}" for i in range(200)]})
    rows["intent"] = [LABELS[i % 2] for i in range(200)]
    rows["query"] = rows["intent"] + " " + rows["id"]
    return rows.assign(fold=[i // 2 % 5 for i in range(200)], selection="natural")


def of_folds(model):
    return dict.fromkeys(range(5), model)


@pytest.fixture
def study(frame):
    study = CompressionStudy(frame, labels=LABELS, calls=10, rounds=1, n_boot=20)
    study.add("whole", Reader(size=1000), of_folds(Reader(size=1000)))
    return study


def test_the_first_model_is_the_reference_and_gets_no_decision(study):
    assert study.reference.name == "whole" and study.decisions == []
    assert study.table().loc["whole", "verdict"] == "reference"


def test_a_smaller_model_that_answers_alike_is_kept(study):
    small = Reader(size=100)
    found = study.add("small", small, of_folds(small)).decision
    assert (found.verdict, found.agreement.value, found.times_as_small) == ("kept", 1.0, 10.0)


def test_a_model_that_loses_too_much_out_of_fold_is_refused(study, frame):
    small = Reader(size=100)  # right itself: only the out-of-fold models are wrong
    folds = of_folds(small) | {0: Reader(wrong=frame["query"][frame["fold"] == 0][:4])}
    study.add("small", small, folds)
    row = study.table().loc["small"]
    assert row["verdict"] == "refused" and row["lost"] == pytest.approx(2.0)


def test_a_point_of_the_figure_is_the_row_of_the_table(study):
    (point,), row = study.points(), study.table().loc["whole"]
    assert point["accuracy"]["value"] == row["accuracy"] == 1.0
    assert (point["ms"], point["bytes"]) == (row["p50_ms"], 1e6 * row["megabytes"])


def test_a_name_occurs_once_and_every_fold_needs_a_model(study):
    with pytest.raises(ValueError, match="'whole' is in the study already"):
        study.add("whole", Reader(), of_folds(Reader()))
    with pytest.raises(ValueError, match="no model was given for fold 0"):
        study.add("small", Reader(), {})


def test_the_title_of_the_figure_is_the_result_of_the_latest_model(study):
    small = Reader(size=100)
    study.add("small", small, of_folds(small))
    assert study.finding.startswith("small: ") and study.finding.endswith("10 % of the size, kept")
    assert study.alt_text.count(" MB") == 2


def test_few_queries_make_smaller_batches(frame):
    few = frame.head(60)
    study = CompressionStudy(few, labels=LABELS, calls=5, rounds=1, n_boot=20)
    added = study.add("whole", Reader(), of_folds(Reader()))
    assert added.speeds[1].batch_size == len(study.queries) == 12


def test_an_empty_study_has_nothing_to_show(frame, study):
    empty = CompressionStudy(frame, labels=LABELS)
    for show in (lambda: empty.reference, empty.table):
        with pytest.raises(ValueError, match="the study is empty"):
            show()
    with pytest.raises(ValueError, match="no decision yet"):
        _ = study.finding


@pytest.mark.parametrize("odd", [{"calls": 0}, {"rounds": 0}])
def test_no_call_and_no_round_are_refused(frame, odd):
    with pytest.raises(ValueError, match="neither may be below 1"):
        CompressionStudy(frame, labels=LABELS, **odd)


def test_a_model_with_an_unknown_class_is_refused(frame):
    study = CompressionStudy(frame, labels=["tax"], calls=10, rounds=1, n_boot=20)
    with pytest.raises(ValueError, match="has the class 'loan'"):
        study.add("whole", Reader(), of_folds(Reader()))
