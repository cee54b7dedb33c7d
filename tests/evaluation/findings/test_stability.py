from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.findings.stability import (
    folds,
    learning,
    not_trained,
    over_time,
    repeats,
    temporal,
)
from nivesh_lib.evaluation.intervals import FoldInterval
from nivesh_lib.evaluation.resampling.learning_curve import LearningCurve
from nivesh_lib.evaluation.resampling.repeated import fold_table
from nivesh_lib.evaluation.resampling.temporal import periods
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.reporting.figures import figure_of
from tests.evaluation.answers import rows, table


def test_folds_say_what_other_training_rows_would_give():
    frame = rows()
    oofs = {"tfidf": table(frame, wrong=range(20)), "rules": table(frame, wrong=range(60))}
    found = folds(fold_table(oofs, frame), "tfidf")
    assert found.claim.startswith("Trained on other data of this size, the bag of words would")
    assert found.table["model"].tolist() == ["bag of words", "rule set"]


def test_an_interval_over_folds_is_said_within_zero_and_one():
    cells = {"model": "m", "folds": 5, "mean": 0.9, "low": -0.1, "high": 1.4}
    found = folds(pd.DataFrame([{**cells, "worst": 0, "best": 1, "correction": "c"}]), "m")
    assert "about 0.00 to 1.00." in found.claim
    assert found.table.iloc[0][["mean_low", "mean_high"]].tolist() == [0.0, 1.0]


def over(*right: int, n: int = 200):
    """Return the finding for periods of ``n`` rows each, with so many right."""
    days = np.repeat([f"2025-0{k + 1}-01" for k in range(len(right))], n)
    correct = np.concatenate([np.arange(n) < r for r in right])
    found = periods(pd.DataFrame({"created_at": days}), parts=len(right))
    return over_time(correct, found, "ensemble")


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ((160, 162, 158), "No period is shown to be harder or easier than the others; a gap below"),
        ((190, 188, 120), "Queries from 2025-03-01 to 2025-03-01 are harder than the others: 60"),
        ((100, 102, 190), "Queries from 2025-03-01 to 2025-03-01 are easier than the others: 95"),
    ],
)
def test_a_period_stands_out_or_what_would_is_said(right, words):
    assert over(*right).claim.startswith(words)


@pytest.mark.parametrize("frame", [{}, {"created_at": ["2025-01-01"] * 5}])
def test_without_dates_one_line_says_so(frame):
    found = over_time(np.ones(5), periods(pd.DataFrame(frame)), "m")
    assert found.claim.startswith("Too few rows have a date") and found.plot is None


def curve(value: float, low: float, high: float) -> LearningCurve:
    sizes = pd.DataFrame({"rows": [480.0, 960.0], "share": [0.5, 1.0]})
    sizes = sizes.assign(macro_f1=0.8, macro_f1_low=0.7, macro_f1_high=0.9)
    return LearningCurve(sizes, "macro_f1", Estimate(value, low, high, 100), {})


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((0.03, 0.01, 0.05), "More labels still help the bag of words"),
        ((0.0, -0.01, 0.01), "More labels of this kind add little to the bag of words"),
        ((0.01, -0.03, 0.05), "Whether more labels would help the bag of words, these rows cannot"),
    ],
)
def test_the_interval_of_the_last_doubling_is_read(gain, words):
    found = learning({"tfidf": curve(*gain)})
    assert found.claim.startswith(words) and figure_of(found)
    assert found.cells[0]["points won"] == pytest.approx(100 * gain[0])


def test_models_with_the_same_reading_share_a_clause():
    helped, unsure = curve(0.03, 0.01, 0.05), curve(0.01, -0.03, 0.05)
    claim = learning({"tfidf": helped, "x": unsure, "lstm": helped}).claim
    assert "help the bag of words and the LSTM; whether more labels would help the x," in claim


def test_repeats_and_dates_name_each_model():
    score = FoldInterval(0.8, 0.7, 0.9, 0.1, 10, "none")
    found = repeats({"tfidf": score, "a_b": score}, 2)
    assert "0.80 (0.70 to 0.90) for the bag of words and 0.80" in found.claim
    cut = {"cut": "2026-01-01", "until": "", "n_train": 90, "n_test": 50, "accuracy": 0.8}
    later = pd.DataFrame([{**cut, "accuracy_low": 0.7, "accuracy_high": 0.9}])
    assert "80 of 100 queries (70 to 90) of later date" in temporal({"tfidf": later}).claim


def test_what_was_not_trained_or_has_no_dates_is_one_line():
    assert temporal({"tfidf": pd.DataFrame()}).claim.startswith("Too few rows have a date")
    assert "--profile full" in not_trained().claim
