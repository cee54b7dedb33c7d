from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.drift import accuracy_change, chance_thresholds, distance, drift_verdict
from nivesh_lib.records.estimate import Estimate


def row(column, drifted):
    return {"column": column, "value": 0.2, "threshold": 0.1, "drifted": drifted}


def test_columns_that_moved_are_counted_and_named():
    found = drift_verdict([row("words", True), row("intent", False), row("language", True)])
    assert found.any
    assert found.sentences() == ["2 of 3 columns moved: words, language."]


def test_columns_without_drift_are_reported_as_such():
    found = drift_verdict([row("words", False), row("intent", False)])
    assert not found.any
    assert found.sentences() == ["None of the 2 columns moved."]


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (-0.2, -0.01, "a real change"),
        (0.01, 0.2, "a real change"),
        (-0.1, 0.1, "may be chance"),
        (0.0, 0.1, "may be chance"),
    ],
)
def test_a_change_is_real_when_its_interval_leaves_zero_out(low, high, sentence):
    change = Estimate((low + high) / 2, low, high, 99)
    assert sentence in drift_verdict([], change).sentences()[1]


def test_a_change_is_in_points():
    (_, sentence) = drift_verdict([], Estimate(-0.105, -0.2, -0.01, 99)).sentences()
    assert "-10.5 points [-20.0, -1.0]" in sentence


def test_a_change_is_now_minus_before():
    found = accuracy_change(np.array([1, 1, 1, 0] * 50), np.array([1, 0] * 60))
    assert found.value == pytest.approx(-0.25)
    assert found.low < -0.25 < found.high < 0
    assert found.n == 120


def test_masks_and_numbers_give_the_same_change():
    before, now = np.array([True, False] * 9), np.array([True] * 9)
    assert accuracy_change(before, now) == accuracy_change(before * 1.0, now * 1.0)


def test_the_interval_holds_the_true_change_as_often_as_it_says():
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(400):
        found = accuracy_change(rng.random(300) < 0.9, rng.random(300) < 0.7)
        held += found.low <= -0.2 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_the_distance_is_the_one_that_evidently_reports():
    from nivesh_lib.reporting.drift import drift_report

    rng = np.random.default_rng(0)
    before = pd.DataFrame({"intent": rng.choice(list("abc"), 300), "words": rng.normal(9, 3, 300)})
    now = pd.DataFrame({"intent": rng.choice(list("abd"), 200), "words": rng.normal(12, 3, 200)})
    for row in drift_report(before, now):
        assert row["value"] == pytest.approx(distance(before[row["column"]], now[row["column"]]))


def test_chance_alone_rarely_passes_its_threshold():
    rng = np.random.default_rng(1)
    passed = 0
    for seed in range(60):
        before = pd.DataFrame({"intent": rng.choice(14, 300).astype(str)})
        now = pd.DataFrame({"intent": rng.choice(14, 150).astype(str)})
        bound = chance_thresholds(before, now, n_draws=60, seed=seed)["intent"]
        passed += distance(before["intent"], now["intent"]) > bound
    assert passed <= 4


def test_a_column_without_values_on_one_side_has_no_threshold():
    before, now = pd.DataFrame({"a": ["x", "y"]}), pd.DataFrame({"a": [None, None]})
    assert chance_thresholds(before, now) == {}
