from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.confidence.calibration import (
    LARGE,
    brier,
    calibration_error,
    calibration_table,
    cross_fitted,
    cross_fitted_temperature,
    fit_temperature,
    is_right,
    reliability_bins,
    scaled,
)
from nivesh_lib.evaluation.resampling.cross_validation import confidence_of

LABELS = ["loan", "rent", "tax"]


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def answers(n=900, *, temperature=1.0, seed=0):
    """Probabilities that `temperature` makes calibrated, true labels, and five folds."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(n, 3))
    drawn = (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    proba = pd.DataFrame(softmax(logits * temperature), columns=LABELS)
    return proba, np.array(LABELS, dtype=object)[drawn], np.arange(n) % 5


def estimates(shift, *, n=800, draws=200, n_boot=100):
    """Errors of a model whose answers are right `shift` less often than its confidence."""
    rng = np.random.default_rng(1)
    for seed in range(draws):
        confidence = 0.22 + 0.75 * rng.beta(3, 1.5, n)
        right = rng.random(n) < confidence - shift
        yield calibration_error(confidence, right, n_boot=n_boot, seed=seed)


# --- reliability -----------------------------------------------------------------


@pytest.mark.parametrize(("shift", "margin"), [(0.0, 0.005), (0.1, 0.01), (0.2, 0.01)])
def test_the_error_is_right_on_average_and_its_interval_holds_it(shift, margin):
    found = list(estimates(shift))
    covered = np.mean([one.low <= shift <= one.high for one in found])
    assert np.mean([one.value for one in found]) == pytest.approx(shift, abs=margin)
    assert 0.91 <= covered <= 0.99


def test_without_the_correction_a_perfect_model_would_have_an_error():
    rng = np.random.default_rng(1)
    plain = []
    for _ in range(30):
        confidence = 0.22 + 0.75 * rng.beta(3, 1.5, 800)
        bins = reliability_bins(confidence, rng.random(800) < confidence)
        plain.append(((bins.accuracy - bins.confidence).abs() * bins.rows).sum() / 800)
    assert np.mean(plain) > 0.04


def test_a_gap_that_changes_sign_once_counts_on_both_sides():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.3, 0.9, 20_000)
    right = rng.random(20_000) < 0.6 + 0.5 * (confidence - 0.6)
    assert calibration_error(confidence, right).value == pytest.approx(0.075, abs=0.01)


def test_bins_hold_equally_many_rows_and_their_own_means():
    confidence = np.linspace(0.01, 1, 100)
    bins = reliability_bins(confidence, confidence > 0.5, n_bins=10)
    assert bins.rows.tolist() == [10] * 10
    assert bins.accuracy.tolist() == [0] * 5 + [1] * 5
    assert bins.confidence[0] == pytest.approx(0.055)


def test_equal_confidences_share_a_bin_whatever_the_order():
    confidence = np.array([0.5] * 70 + [0.9] * 30)
    right = np.arange(100) % 2 == 0
    assert reliability_bins(confidence, right).rows.tolist() == [70, 30]
    order = np.random.default_rng(0).permutation(100)
    assert calibration_error(confidence[order], right[order]).value == pytest.approx(
        calibration_error(confidence, right).value
    )


@pytest.mark.parametrize(
    ("confidence", "right"), [([], []), ([0.5], [1, 0]), ([1.2], [1]), ([float("nan")], [1])]
)
def test_what_is_no_confidence_is_refused(confidence, right):
    with pytest.raises(ValueError, match=r"equally long|between 0 and 1"):
        calibration_error(np.array(confidence), np.array(right))


# --- proper scores ---------------------------------------------------------------


def test_the_brier_score_of_an_example():
    proba = pd.DataFrame([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], columns=LABELS)
    found = brier(proba, ["loan", "rent"])
    assert found == pytest.approx((0.09 + 0.04 + 0.01 + 0.01 + 0.81 + 0.64) / 2)


def test_a_label_without_a_column_is_named():
    proba, y, _ = answers(4)
    with pytest.raises(ValueError, match="'gold' has no column"):
        brier(proba, [*y[:3], "gold"])


# --- temperature -----------------------------------------------------------------


def test_a_temperature_divides_the_logits():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    np.testing.assert_allclose(scaled(softmax(logits), 2.5), softmax(logits / 2.5))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 8.0])
def test_no_temperature_changes_an_answer_or_fears_a_zero(temperature):
    proba = np.array([[0.5, 0.5 - 1e-9, 1e-9], [1.0, 0.0, 0.0]])
    found = scaled(proba, temperature)
    assert found.argmax(axis=1).tolist() == [0, 0]
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature):
    proba, y, _ = answers(6000, temperature=temperature)
    assert fit_temperature(proba, y) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_cross_fitting_leaves_at_most_a_quarter_of_a_large_error(temperature):
    proba, y, folds = answers(temperature=temperature)
    found = cross_fitted_temperature(proba, y, folds)
    assert found.helped and found.before.value > 0.08
    assert found.after.value <= found.before.value / 4
    assert found.temperature == pytest.approx(temperature, rel=0.15)


def test_the_labels_of_a_fold_have_no_say_in_its_own_temperature():
    proba, y, folds = answers(temperature=2.5)
    other = np.where(folds == 2, y[::-1], y)
    before = cross_fitted_temperature(proba, y, folds, n_boot=10).by_fold
    after = cross_fitted_temperature(proba, other, folds, n_boot=10).by_fold
    assert before[2] == after[2]
    assert all(before[k] != after[k] for k in (0, 1, 3, 4))


def test_only_the_rows_to_fit_on_have_a_say_and_all_are_calibrated():
    proba, y, folds = answers(temperature=2.5)
    rows = np.arange(len(y)) < 600
    noise = np.where(rows, y, "tax")
    found = cross_fitted_temperature(proba, noise, folds, rows=rows)
    assert found.temperature == fit_temperature(proba[rows], y[rows])
    assert found.before.n == 600
    assert (confidence_of(found.proba) < confidence_of(proba)).all()


@pytest.mark.parametrize("seed", range(8))
def test_it_never_gets_worse_and_says_when_nothing_helps(seed):
    proba, y, folds = answers(400, seed=seed)
    found = cross_fitted_temperature(proba, y, folds, n_boot=50)
    assert max(found.after.value, 0) <= max(found.before.value, 0)
    if not found.helped:
        assert found.temperature == 1
        pd.testing.assert_frame_equal(found.proba, proba)


def test_some_models_are_left_as_they_are_and_others_are_not():
    drawn = [answers(400, seed=seed) for seed in range(8)]
    assert {cross_fitted_temperature(*one, n_boot=10).helped for one in drawn} == {True, False}


def test_calibrated_answers_are_the_same_answers():
    proba, y, folds = answers(temperature=2.5)
    found = cross_fitted_temperature(proba, y, folds, n_boot=10)
    assert is_right(found.proba, y).tolist() == is_right(proba, y).tolist()


def test_one_fold_is_too_few():
    proba, y, folds = answers(20)
    with pytest.raises(ValueError, match="fewer than 2 folds"):
        cross_fitted_temperature(proba, y, folds, rows=folds == 0)


# --- tables ----------------------------------------------------------------------


def test_each_answer_is_scaled_at_the_temperature_of_its_fold():
    proba, y, folds = answers(temperature=3.0)
    found = cross_fitted_temperature(proba, y, folds, n_boot=50)
    table = pd.concat([pd.DataFrame({"id": range(len(y)), "fold": folds}), proba], axis=1)
    pd.testing.assert_frame_equal(found.applied(table)[LABELS], found.proba)
    assert found.applied(table)["id"].tolist() == table["id"].tolist()


@pytest.mark.parametrize("temperature", [3.0, 1.0])
def test_the_goal_is_a_quarter_of_the_error_or_of_a_large_one(temperature):
    proba, y, folds = answers(temperature=temperature)
    found = cross_fitted_temperature(proba, y, folds, n_boot=50)
    assert found.goal == max(found.before.value, LARGE) / 4


def recorded():
    """The answers of a model to rows of which those of fold 0 do not count."""
    proba, y, folds = answers(temperature=3.0)
    frame = pd.DataFrame({"intent": y, "selection": np.where(folds > 0, "natural", "hard")})
    return {"m": proba.assign(id=range(len(y)), fold=folds)}, frame


def test_models_are_calibrated_and_judged_on_the_rows_that_count():
    oof, frame = recorded()
    found = cross_fitted(oof, frame, n_boot=50)
    rows = (frame["selection"] == "natural").to_numpy()
    assert found["m"].before.n == rows.sum() < len(rows)
    (row,) = calibration_table(found, oof, frame, bar=0.7).to_dict("records")
    sure = confidence_of(oof["m"][LABELS])[rows] >= 0.7
    right = is_right(oof["m"][LABELS], frame["intent"])[rows][sure]
    assert row["answered_before"] == sure.mean() > row["answered_after"]
    assert row["right_before"] == right.mean() < row["right_after"]


def test_a_bar_that_nothing_reaches_has_no_share_right():
    oof, frame = recorded()
    found = cross_fitted(oof, frame, n_boot=50)
    (row,) = calibration_table(found, oof, frame, bar=1.1).to_dict("records")
    assert row["answered_before"] == 0 and np.isnan(row["right_before"])
