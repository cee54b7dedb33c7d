from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.evaluation.comparison import compare
from nivesh_lib.records.base import plain
from nivesh_lib.records.results import StepResult
from nivesh_lib.runs.comparison import comparison_in, evaluation_of, p_value


@pytest.fixture(scope="module")
def recorded():
    """What a notebook records of two models, of which "good" is right more often."""
    rng = np.random.default_rng(0)
    true = rng.choice(["a", "b"], 300)
    other = np.where(true == "a", "b", "a")
    predicted = {
        name: np.where(rng.random(300) < share, true, other)
        for name, share in (("good", 0.9), ("weak", 0.6))
    }
    return {"comparison": plain(compare(true, predicted, n_boot=50).as_dict())}


def test_models_alone_are_no_evaluation():
    folds = {"model": "tfidf", "folds": [{"fold": 0, "accuracy": 0.5}]}
    assert evaluation_of({"03": StepResult.model_validate(folds)}) is None
    assert comparison_in(folds) is None


def test_the_evaluation_is_the_step_that_recorded_the_comparison(recorded):
    results = {"03": StepResult(), "06": StepResult.model_validate(recorded)}
    step, evaluation = evaluation_of(results)
    assert step == "06" and evaluation["comparison"] == recorded["comparison"]


def test_the_comparison_brings_its_own_sentence(recorded):
    found = comparison_in(recorded)
    assert found.sentence.startswith("good is better than")
    assert "300 queries" in found.note and "1 pair of models" in found.note


def test_each_model_is_held_to_the_champion_and_to_the_next_lower_score(recorded):
    first, last = comparison_in(recorded).models
    assert first.to_champion is None and last.to_next is None
    assert first.to_next.value.value == pytest.approx(-last.to_champion.value.value)
    assert first.to_next.p_mcnemar_corrected < 0.001


def damaged(recorded, **fields):
    model = recorded["comparison"]["models"][1]
    return {"comparison": {**recorded["comparison"], "models": [{**model, **fields}]}}


@pytest.mark.parametrize("fields", [{"to_next": 1}, {"to_champion": {"value": 1}}, {"rank": 1}])
def test_a_damaged_comparison_is_none(recorded, fields):
    assert comparison_in(damaged(recorded)) is not None
    assert comparison_in(damaged(recorded, **fields)) is None


@pytest.mark.parametrize(("p", "text"), [(0.0004, "<0.001"), (0.0312, "0.031"), (1.0, "1.000")])
def test_a_p_value_has_three_digits(p, text):
    assert p_value(p) == text
