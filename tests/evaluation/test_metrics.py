"""A metric that is added to the registry alone is seen wherever scores are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from nivesh_lib.evaluation.comparison import compare, swap_test
from nivesh_lib.evaluation.compression.gate import decide
from nivesh_lib.evaluation.resampling.repeated import fold_intervals, fold_scores
from nivesh_lib.evaluation.robustness.fairness import intersectional_scores
from nivesh_lib.evaluation.scores import METRICS, Metric, by_slice, paired_difference, score
from tests.evaluation.answers import LABELS, rows, table

NAME = "balanced_accuracy"
FRAME = rows(300)
TRUE = FRAME["intent"].to_numpy()
FIRST, SECOND = table(FRAME, wrong=range(30)), table(FRAME, wrong=range(0, 150, 2))


def predicted(oof):
    return oof[LABELS].idxmax(axis=1).to_numpy()


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    def of(counts):
        support = counts.sum(axis=-1)
        recall = np.diagonal(counts, axis1=-2, axis2=-1) / np.maximum(support, 1)
        return recall.sum(axis=-1) / (support > 0).sum(axis=-1)

    monkeypatch.setitem(METRICS, NAME, Metric(NAME, "balanced accuracy", of))


def test_it_has_a_value_and_an_interval():
    found = score(TRUE, predicted(SECOND), n_boot=200)[NAME]
    assert found.value == pytest.approx(balanced_accuracy_score(TRUE, predicted(SECOND)))
    assert found.low < found.value < found.high


def test_it_is_a_column_of_slices_folds_and_intersections():
    masks = {"half": np.arange(300) < 150}
    folds = fold_scores(FIRST, FRAME)
    assert f"{NAME}_low" in by_slice(TRUE, predicted(FIRST), masks, n_boot=20)
    assert NAME in folds and NAME in fold_intervals(folds)
    assert NAME in intersectional_scores(FRAME.assign(language="en"), FIRST, ["language"])


def test_models_are_compared_and_ranked_by_it():
    models = {"one": predicted(FIRST), "two": predicted(SECOND)}
    found = compare(TRUE, models, metric=NAME, n_boot=50)
    assert [row.model for row in found.models] == ["one", "two"]
    assert found.models[1].to_champion.value == paired_difference(
        TRUE, models["two"], models["one"], metric=NAME, n_boot=50
    )
    assert NAME in json.loads(json.dumps(found.as_dict()))["models"][0]


def test_its_test_of_significance_agrees_with_the_one_of_accuracy_where_they_are_the_same():
    # All labels have equally many rows, so that balanced accuracy is accuracy.
    columns = predicted(FIRST), predicted(SECOND)
    p = [swap_test(TRUE, *columns, metric=name, n_draws=500) for name in (NAME, "accuracy")]
    assert p[0] == p[1]


def test_an_optimised_model_is_decided_on_with_it():
    found = decide("int8", FIRST, SECOND, FRAME, n_boot=20)
    assert found.scores[NAME].value > 0
