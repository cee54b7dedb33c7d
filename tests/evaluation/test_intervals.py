from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from nivesh_lib.evaluation.intervals import (
    NADEAU_BENGIO,
    fold_interval,
    paired_accuracy_difference,
    wilson,
)

N, FOLDS, DIMENSIONS = 200, 5, 6
SHIFT = 0.45  # of each class's mean from zero, in each dimension


def nearest_mean(X, y, test):
    """Return the direction and threshold that a nearest-mean classifier learns."""
    kept = ~test
    positive, negative = X[kept & y].mean(axis=0), X[kept & ~y].mean(axis=0)
    direction = positive - negative
    return direction, direction @ (positive + negative) / 2


def fold_scores(rng, repeats):
    """Accuracies of a nearest-mean classifier on folds of one new data set."""
    y = np.arange(N) % 2 == 0
    X = rng.normal(size=(N, DIMENSIONS)) + np.where(y, SHIFT, -SHIFT)[:, None]
    scores = []
    for _ in range(repeats):
        folds = rng.permutation(N) % FOLDS
        for number in range(FOLDS):
            test = folds == number
            direction, threshold = nearest_mean(X, y, test)
            scores.append(((X[test] @ direction > threshold) == y[test]).mean())
    return scores


def expected_accuracy(rng, n=4000):
    """The mean true accuracy of classifiers trained on four fifths of such data sets."""
    from scipy.stats import norm

    half = N * (FOLDS - 1) // FOLDS // 2
    noise = rng.normal(size=(2, n, DIMENSIONS)) / np.sqrt(half)
    positive, negative = SHIFT + noise[0], -SHIFT + noise[1]
    direction = positive - negative
    length = np.linalg.norm(direction, axis=1)
    threshold = (direction * (positive + negative)).sum(axis=1) / 2
    centre = SHIFT * direction.sum(axis=1)
    hits = norm.cdf((centre - threshold) / length) + norm.cdf((centre + threshold) / length)
    return float(hits.mean() / 2)


def naive(scores):
    spread = student.ppf(0.975, len(scores) - 1) * np.std(scores, ddof=1) / np.sqrt(len(scores))
    return np.mean(scores) - spread, np.mean(scores) + spread


@pytest.mark.parametrize("repeats", [1, 10])
def test_the_corrected_interval_holds_the_truth_about_as_often_as_it_says(repeats):
    rng = np.random.default_rng(3)
    truth = expected_accuracy(rng)
    held = {"corrected": 0, "naive": 0}
    for _ in range(400):
        scores = fold_scores(rng, repeats)
        found = fold_interval(scores, n_train=N * 0.8, n_test=N * 0.2)
        low, high = naive(scores)
        held["corrected"] += found.low <= truth <= found.high
        held["naive"] += low <= truth <= high
    # A rule of thumb: it holds the truth often enough, with one set of folds a little too often.
    assert 0.93 <= held["corrected"] / 400 <= 0.995, f"held the truth in {held} of 400"
    assert held["naive"] < held["corrected"] - (10 if repeats == 1 else 150)


def test_the_published_example_of_scikit_learn_has_its_t_value():
    # "Statistical comparison of models using grid search": t = 0.750 for the corrected test.
    X, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    rbf, linear = (
        cross_val_score(SVC(kernel=kernel, random_state=0), X, y, scoring="roc_auc", cv=folds)
        for kernel in ("rbf", "linear")
    )
    found = fold_interval((rbf - linear).tolist(), n_train=90, n_test=10)
    spread = (found.high - found.low) / 2 / student.ppf(0.975, 99)
    assert found.value / spread == pytest.approx(0.750, abs=0.001)


def test_the_interval_has_the_values_of_the_formula_and_names_it():
    found = fold_interval([0.7, 0.8, 0.9], n_train=100, n_test=50)
    spread = 4.302653 * 0.1 * np.sqrt(1 / 3 + 1 / 2)
    assert (found.value, found.std, found.n) == (pytest.approx(0.8), pytest.approx(0.1), 3)
    assert (found.low, found.high) == pytest.approx((0.8 - spread, 0.8 + spread))
    assert found.correction == NADEAU_BENGIO


@pytest.mark.parametrize(("scores", "n_test"), [([0.7], 5), ([], 5), ([0.7, 0.8], 0)])
def test_too_little_for_an_interval_is_refused(scores, n_test):
    with pytest.raises(ValueError, match="at least 2 fold scores"):
        fold_interval(scores, n_train=10, n_test=n_test)


def right(won, lost, n):
    """Two columns in which one alone is right in ``won`` rows, the other alone in ``lost``."""
    rows = np.arange(n)
    return rows < won, (rows >= won) & (rows < won + lost)


def test_the_interval_is_the_published_one():
    # Tango 1998, table V: 12 and 2 discordant pairs of 50 give 0.061 to 0.345.
    found = paired_accuracy_difference(*right(12, 2, 50))
    assert (found.value, found.n) == (0.2, 50)
    assert (found.low, found.high) == pytest.approx((0.061, 0.345), abs=5e-4)


def test_models_that_never_differ_may_still_differ_on_other_rows():
    found = paired_accuracy_difference(*right(0, 0, 800))
    assert found.value == 0 and found.high == -found.low
    assert found.high == pytest.approx(wilson(0.0, 800)[1], rel=1e-3)


@pytest.mark.parametrize(("won", "lost", "n"), [(1, 3, 200), (0, 5, 80), (40, 0, 40), (0, 1, 1)])
def test_exchanging_the_models_turns_the_interval_around(won, lost, n):
    found, turned = (
        paired_accuracy_difference(*right(won, lost, n)),
        paired_accuracy_difference(*right(lost, won, n)),
    )
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))
    assert -1 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("only_one", "only_other"), [(0.005, 0.01), (0.002, 0.002), (0.04, 0.05)])
def test_it_holds_the_truth_also_where_models_hardly_differ(only_one, only_other):
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        kind = rng.choice(3, 200, p=[only_one, only_other, 1 - only_one - only_other])
        found = paired_accuracy_difference(kind == 0, kind == 1)
        held += found.low <= only_one - only_other <= found.high
    assert held / 400 >= 0.93


@pytest.mark.parametrize(("one", "other"), [([], []), ([True], [True, False])])
def test_columns_that_do_not_match_are_refused(one, other):
    with pytest.raises(ValueError, match="equally long"):
        paired_accuracy_difference(np.array(one), np.array(other))
