from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.objectives import Judgement, Objective
from nivesh_lib.evaluation.release import overall, release_scores, turned_away


def judgement(status):
    return Judgement(Objective("m", "accuracy", 0.9), status, 0.9, 0.8, 1.0)


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([], "not judged"),
        (["met", "met"], "met"),
        (["met", "undecided"], "undecided"),
        (["undecided", "not met", "met"], "not met"),
    ],
)
def test_the_verdict_is_the_worst_one(statuses, verdict):
    assert overall([judgement(status) for status in statuses]) == verdict


def test_what_is_turned_away_is_counted_in_and_out_of_scope():
    accepted, right = np.array([1, 1, 1, 0], bool), np.array([1, 1, 0, 0], bool)
    told = turned_away(accepted, np.array([1, 0, 0, 0, 0], bool), right)
    assert {name: e.value for name, e in told.items()} == {
        "out_of_scope": 0.8,
        "in_scope": 0.25,
        "accuracy_of_answered": pytest.approx(2 / 3),
    }


def test_held_out_rows_are_scored_judged_and_sliced():
    held = pd.DataFrame({"intent": ["a", "b"] * 30, "language": ["en"] * 40 + ["hi"] * 20})
    predicted = ["a", "b"] * 20 + ["b", "a"] * 10
    marks = [Objective("m", "accuracy", 0.5), Objective("m", "p95_ms", 10, at_most=True)]
    told = release_scores(held, predicted, marks, measured={"p95_ms": {"value": 20.0}})
    assert told["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert [j["status"] for j in told["judgements"]] == ["met", "not met"]
    assert {s["slice"]: s["accuracy"] for s in told["slices"]} == {
        "language=en": 1,
        "language=hi": 0,
    }
