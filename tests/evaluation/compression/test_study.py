from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.compression.study import Trials

LABELS = ["loan", "tax"]


class Reader:
    """Reads the label off the query, and is wrong about the rows it is told to be wrong about."""

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
def trials(frame):
    tried = Trials(frame, labels=LABELS, calls=10, rounds=1, n_boot=20)
    tried.add("whole", Reader(size=1000), of_folds(Reader(size=1000)))
    return tried


def test_the_first_model_is_the_reference_and_gets_no_judgement(trials):
    assert trials.reference.name == "whole" and trials.judgements == []
    assert trials.table().loc["whole", "verdict"] == "reference"


def test_a_smaller_model_that_answers_alike_is_kept(trials):
    small = Reader(size=100)
    told = trials.add("small", small, of_folds(small)).judgement
    assert (told.verdict, told.agreement.value, told.times_as_small) == ("kept", 1.0, 10.0)


def test_a_model_whose_likes_lose_too_much_on_their_folds_is_refused(trials, frame):
    small = Reader(size=100)  # right itself: only the models without the rows can tell
    folds = of_folds(small) | {0: Reader(wrong=frame["query"][frame["fold"] == 0][:4])}
    trials.add("small", small, folds)
    row = trials.table().loc["small"]
    assert row["verdict"] == "refused" and row["lost"] == pytest.approx(2.0)


def test_a_point_of_the_figure_is_the_row_of_the_table(trials):
    (point,), row = trials.points(), trials.table().loc["whole"]
    assert point["accuracy"]["value"] == row["accuracy"] == 1.0
    assert (point["ms"], point["bytes"]) == (row["p50_ms"], 1e6 * row["megabytes"])


def test_a_name_is_tried_once_and_every_fold_needs_a_model(trials):
    with pytest.raises(ValueError, match="'whole' was tried already"):
        trials.add("whole", Reader(), of_folds(Reader()))
    with pytest.raises(ValueError, match="no model was given for fold 0"):
        trials.add("small", Reader(), {})


def test_the_figure_is_titled_by_what_the_latest_model_brought(trials):
    small = Reader(size=100)
    trials.add("small", small, of_folds(small))
    assert trials.finding.startswith("small: ") and trials.finding.endswith(
        "10 % of the size, kept"
    )
    assert trials.told.count(" MB") == 2


def test_few_queries_make_smaller_batches(frame):
    few = frame.head(60)
    tried = Trials(few, labels=LABELS, calls=5, rounds=1, n_boot=20)
    trial = tried.add("whole", Reader(), of_folds(Reader()))
    assert trial.speeds[1].batch_size == len(tried.queries) == 12


def test_before_anything_was_tried_there_is_nothing_to_show(frame, trials):
    empty = Trials(frame, labels=LABELS)
    for show in (lambda: empty.reference, empty.table):
        with pytest.raises(ValueError, match="nothing was tried yet"):
            show()
    with pytest.raises(ValueError, match="nothing was judged yet"):
        _ = trials.finding


@pytest.mark.parametrize("odd", [{"calls": 0}, {"rounds": 0}])
def test_no_call_and_no_round_are_refused(frame, odd):
    with pytest.raises(ValueError, match="neither may be below 1"):
        Trials(frame, labels=LABELS, **odd)


def test_a_model_that_knows_a_label_too_many_is_refused(frame):
    tried = Trials(frame, labels=["tax"], calls=10, rounds=1, n_boot=20)
    with pytest.raises(ValueError, match="knows 'loan', which is no label here"):
        tried.add("whole", Reader(), of_folds(Reader()))
