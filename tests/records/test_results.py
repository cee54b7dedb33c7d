from __future__ import annotations

import json
import math
import re

import pytest

from nivesh_lib.errors import DataError
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.metrics import estimate_in, flat_metrics, scores_in
from nivesh_lib.records.results import ModelResult, StepResult, read_result
from tests.runs.examples import contents, estimate

FLAT = {"x": 0.5, "x_low": 0.4, "x_high": 0.6, "x_n": 9}


def test_an_estimate_has_one_flat_form():
    found = Estimate(0.5, 0.4, 0.6, 9)
    assert flat_metrics({"x": found}) == flat_metrics({"x": found.as_dict()}) == FLAT
    assert flat_metrics(FLAT) == FLAT and estimate_in(FLAT, "x") == found


@pytest.mark.parametrize("gone", ["x", "x_low", "x_high", "x_n"])
def test_a_number_without_an_interval_is_no_estimate(gone):
    assert estimate_in({name: v for name, v in FLAT.items() if name != gone}, "x") is None


def test_scores_are_the_estimates_over_rows_and_not_those_over_folds():
    folds = flat_metrics({"x_fold_mean": {**estimate(0.5), "correction": "none"}})
    assert list(scores_in(FLAT | folds | {"size_bytes": 3})) == ["x"]


@pytest.fixture
def write(tmp_path):
    def write(value):
        path = tmp_path / "03_x.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


def test_a_result_is_read_as_what_it_is(write):
    model = read_result(write(contents("tfidf", 0.7, note="kept")))
    assert isinstance(model, ModelResult) and model.scores["macro_f1"].value == 0.7
    assert model.note == "kept"
    step = read_result(write({"model": "tfidf", "metrics": {"cost": 1}, "gaps": [1]}))
    assert type(step) is StepResult and step.gaps == [1]


def test_only_what_was_set_is_written_again(write):
    recorded = contents("tfidf", 0.7)
    assert read_result(write(recorded)).as_dict() == recorded


def test_a_result_cannot_be_changed_but_copied_with_other_fields(write):
    result = read_result(write(contents("tfidf", 0.7)))
    with pytest.raises(ValueError, match="frozen"):
        result.headline = "other"
    other = result | {"headline": "other", "views": []}
    assert (other.headline, other.views, result.headline) == ("other", [], "tfidf said")


def without(*names):
    metrics = contents("m", 0.5)["metrics"]
    return contents("m", 0.5, metrics={k: v for k, v in metrics.items() if not k.startswith(names)})


def with_metric(name, value):
    return contents("m", 0.5, metrics=contents("m", 0.5)["metrics"] | {name: value})


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{", "Expecting"),
        ("[]", "not an object"),
        (contents("m", 0.5, folds="odd"), "folds: Input should be a valid list"),
        (contents("m", 0.5, judgements=[{"status": "met"}]), "judgements.0.objective: Field req"),
        (contents("m", 0.5, metrics={"macro_f1": estimate(0.5)}), "macro_f1 is nested, as an old"),
        (without("accuracy"), "accuracy is missing or has no finite interval"),
        (without("macro_f1_"), "macro_f1 is missing or has no finite interval"),
        ({"metrics": [1]}, "metrics: Input should be a valid dict"),
        (contents("m", 0.5, metrics=5), "metrics: Input should be a valid dict"),
        (with_metric("macro_f1", math.nan), "macro_f1 is missing or has no finite interval"),
        (with_metric("macro_f1_n", math.inf), "macro_f1 is missing or has no finite interval"),
        (with_metric("accuracy", 10**400), "accuracy is missing or has no finite interval"),
        (with_metric("p95_ms", "fast"), "p95_ms is no number"),
        (with_metric("size_bytes", "small"), "size_bytes is no number"),
    ],
)
def test_a_damaged_or_old_result_is_named_with_its_flaw_and_the_command(write, value, why):
    with pytest.raises(DataError) as caught:
        read_result(write(value))
    message = str(caught.value)
    assert re.search(r"03_x\.json: not the results of a step \(", message) and why in message
    assert message.endswith("`nivesh run --force` makes it again") and "\n" not in message


def test_a_missing_result_is_said_to_be_so(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_result(tmp_path / "gone.json")
