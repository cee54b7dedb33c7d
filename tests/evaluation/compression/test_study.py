from __future__ import annotations

import functools
import weakref

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.compression.study import CompressionStudy

LABELS = ["loan", "tax"]


class Reader:
    """Reads the label off the query, and is wrong about the given rows."""

    def __init__(self, wrong=()):
        self.wrong = set(wrong)
        self.classes_ = np.array(LABELS, dtype=object)

    def predict_proba(self, X):
        right = [LABELS.index(text.split()[0]) for text in X]
        flipped = [code ^ (text in self.wrong) for text, code in zip(X, right, strict=True)]
        return np.where(np.eye(2)[flipped] > 0, 0.9, 0.1)


@pytest.fixture
def frame():
    rows = pd.DataFrame({"id": [f"r{i}" for i in range(200)]})
    rows["intent"] = [LABELS[i % 2] for i in range(200)]
    rows["query"] = rows["intent"] + " " + rows["id"]
    return rows.assign(fold=[i // 2 % 5 for i in range(200)], selection="natural")


def of_folds(model):
    return lambda fold: model


def speed(ms):
    loop = (1.0, 1.0, 1.0, 100)
    return Speed(1, 1, ms, 2 * ms, 3 * ms, 1000 / ms, 200, "CPU", (), 2 * ms, 2 * ms, *loop)


@pytest.fixture
def study(frame):
    study = CompressionStudy(frame, labels=LABELS, n_boot=20)
    study.add("whole", of_folds(Reader()), size_bytes=1000)
    return study


def test_the_first_model_is_the_reference_and_gets_no_decision(study):
    assert study.reference.name == "whole"
    assert study.reference.verdict == "" and study.reference.decision is None


def test_a_smaller_model_that_answers_alike_is_kept(study):
    found = study.add("small", of_folds(Reader()), size_bytes=100).decision
    assert (found.verdict, found.agreement.value, found.times_as_small) == ("kept", 1.0, 10.0)


def test_a_model_that_loses_too_much_out_of_fold_is_refused(study, frame):
    good, bad = Reader(), Reader(wrong=frame["query"][frame["fold"] == 0][:4])
    found = study.add("small", lambda fold: good if fold else bad, size_bytes=100)
    assert found.verdict == "refused" and found.decision.difference.value == pytest.approx(-0.02)


def test_one_model_of_a_fold_is_held_at_a_time(study):
    alive = []

    def model_of(fold):
        assert not any(made() for made in alive)
        made = Reader()
        alive.append(weakref.ref(made))
        return made

    study.add("small", model_of, size_bytes=100)
    assert len(alive) == 5


@pytest.mark.parametrize(("ms", "size", "verdict"), [(1, 1000, "kept"), (4, 1000, "no gain"),
                                                     (4, 100, "kept")])  # fmt: skip
def test_the_race_decides_what_is_faster(study, ms, size, verdict):
    study.add("other", of_folds(Reader()), size_bytes=size)
    study.set_speeds({"whole": speed(4), "other": speed(ms)})
    choice = study.candidates["other"]
    assert (choice.decision.verdict, choice.decision.times_as_fast) == (verdict, 4 / ms)
    assert (choice.verdict, choice.speed.p50_ms, choice.size_bytes) == (verdict, ms, size)


def test_what_cannot_be_saved_cannot_be_served(study):
    add = functools.partial(study.add, size_bytes=100, saved=False)
    assert add("unsaved", of_folds(Reader())).verdict == "not saved"


def test_before_the_race_a_model_is_no_choice(study):
    with pytest.raises(ValueError, match="'whole' has not been timed"):
        _ = study.reference.speed


def test_a_model_that_is_added_again_replaces_its_namesake_and_never_the_reference(study):
    for size in (1000, 500):
        study.add("small", of_folds(Reader()), size_bytes=size)
    assert study.candidates["small"].decision.times_as_small == 2.0
    with pytest.raises(ValueError, match="'whole' is the reference"):
        study.add("whole", of_folds(Reader()), size_bytes=1)


def test_models_are_timed_on_the_fold_of_which_the_usual_share_is_handed_over(study, frame):
    study.frame = frame = frame.assign(selection=["hard"] + ["natural"] * 199)
    handed = frame.groupby("fold").cumcount() % 10 < frame["fold"]  # 0 to 40 of 100
    rows = study.timed_rows(handed)
    assert set(rows["fold"]) == {2} and (rows["selection"] == "natural").all()
    assert rows["handed"].mean() == pytest.approx(0.2, abs=0.05)
    assert not study.timed_rows()["handed"].any()


def test_a_model_with_an_unknown_class_is_refused(frame):
    study = CompressionStudy(frame, labels=["tax"], n_boot=20)
    with pytest.raises(ValueError, match="has the class 'loan'"):
        study.add("whole", of_folds(Reader()), size_bytes=1)
