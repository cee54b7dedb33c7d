from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.benchmark import measure_latency
from nivesh_lib.evaluation.objectives import Objective
from nivesh_lib.evaluation.resampling.cross_validation import CrossValidation
from nivesh_lib.evaluation.summary import (
    headline_scores,
    plain_rows,
    pooled,
    release_scores,
    result_of,
    slice_scores,
    turned_away,
    view_scores,
    worst,
)
from nivesh_lib.records.metrics import estimate_in

LABELS = ["tax", "loan"]
LATENCY = {"p50_ms": np.float64(1.0), "p95_ms": np.float64(2.0), "n": 200, "threads": 1}


@pytest.fixture
def train():
    """Sixty natural rows, then forty hard ones."""
    return pd.DataFrame(
        {
            "intent": LABELS * 50,
            "selection": ["natural"] * 60 + ["hard"] * 40,
            "traits": ["typo"] * 10 + [""] * 90,
        }
    )


@pytest.fixture
def cv(train):
    """Every natural row is right, every hard row is wrong."""
    right = (train["selection"] == "natural").to_numpy()
    p_tax = np.where((train["intent"] == "tax") == right, 0.9, 0.1)
    oof = pd.DataFrame({"id": range(100), "fold": 0, "loan": 1 - p_tax, "tax": p_tax})
    return CrossValidation(oof, (1.0, 3.0))


@pytest.fixture
def two_folds(train, cv):
    """The rows with ids, and answers of two folds."""
    oof = cv.oof.assign(fold=cv.oof.index // 2 % 2)
    return train.assign(id=oof["id"]), CrossValidation(oof, cv.fit_seconds)


@pytest.fixture
def record(train, cv, tmp_path, monkeypatch):
    """Make the record of the double for one dataset."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "objectives.toml").write_text("[intent_classifier]\naccuracy_target = 1")
    return lambda dataset, latency=LATENCY: result_for(dataset, train, cv, latency)


@pytest.fixture
def result(record):
    return record("intents@1.1.0")


def result_for(dataset, train, cv, latency=LATENCY):
    return result_of(
        "double",
        "03_tfidf",
        train,
        cv,
        dataset=dataset,
        labels=LABELS,
        scores=headline_scores(train, cv, n_boot=20),
        latency=latency,
        size_bytes=1234,
        slices=slice_scores(train, cv, n_boot=20),
    )


def test_the_headline_leaves_hard_rows_out(train, cv):
    scores = headline_scores(train, cv, n_boot=20)
    assert (scores["accuracy"].value, scores["accuracy"].n) == (1.0, 60)


def test_hard_rows_are_a_slice_of_their_own(train, cv):
    table = slice_scores(train, cv, n_boot=20).set_index("slice")
    assert table["accuracy"].to_dict() == {"selection=hard": 0.0, "selection=natural": 1.0}


def test_hard_rows_are_in_no_other_slice(train, cv):
    table = slice_scores(train.assign(language="en"), cv, n_boot=20).set_index("slice")
    assert table.loc["language=en", ["rows", "accuracy"]].tolist() == [60, 1.0]


def test_the_record_is_plain_json(result):
    assert json.loads(json.dumps(result.as_dict())) == result.as_dict()
    assert result.scores["accuracy"].value == 1.0


def test_the_record_judges_what_was_measured(result):
    (judged,) = result.judgements
    assert (judged.objective, judged.status) == ("accuracy at least 1", "undecided")


def test_the_record_names_the_file_of_its_objectives(result):
    assert dict(result.objectives) == {"file": "data/objectives.toml", "missing": "", "impact": ""}


def test_the_record_of_other_data_is_not_judged_by_the_marks_of_intents(record):
    result = record("mine@1.0.0")
    assert result.judgements == []
    assert result.objectives.missing.startswith("No objective is set for mine; write data/")


def test_the_record_has_the_interval_of_the_latency_and_the_reference_loop(record):
    timed = measure_latency(len, ["save tax"], repeats=10)
    metrics = record("intents@1.1.0", timed).metrics
    for name in ("p95_ms", "reference_ms"):
        found = estimate_in(metrics, name)
        assert found.low <= found.value <= found.high and found.n == 10


def test_the_record_holds_time_and_room(result):
    metrics = result.metrics
    assert (metrics["p95_ms"], metrics["p95_ms_n"]) == (2.0, 200)
    assert (metrics["fit_seconds"], metrics["size_bytes"]) == (2.0, 1234)


def test_the_tables_of_the_record_are_of_headline_rows(result):
    assert result.confusion["data"] == [[30, 0], [0, 30]]
    assert [row["support"] for row in result.per_class] == [30, 30]


def test_one_fold_is_recorded_and_has_no_spread(result):
    assert result.folds == [{"fold": 0, "n": 60, "accuracy": 1.0, "macro_f1": 1.0}]
    assert not any("fold" in name for name in result.metrics)


def test_the_record_has_the_mean_over_folds_with_its_corrected_interval(train, cv, record):
    folds = np.arange(100) % 4
    wrong = folds == 3
    oof = cv.oof.assign(fold=folds)
    oof.loc[wrong, ["loan", "tax"]] = oof.loc[wrong, ["tax", "loan"]].to_numpy()
    result = result_for("intents@1.1.0", train, CrossValidation(oof, (1.0,)))
    assert [(row["fold"], row["n"], row["accuracy"]) for row in result.folds] == [
        (0, 15, 1.0), (1, 15, 1.0), (2, 15, 1.0), (3, 15, 0.0)
    ]  # fmt: skip
    metrics = result.metrics
    assert metrics["accuracy_fold_std"] == pytest.approx(0.5)
    mean = estimate_in(metrics, "accuracy_fold_mean")
    # t of 3 degrees of freedom, times 0.5 * sqrt(1/4 + 25/75)
    assert mean.value == 0.75 and mean.n == 4
    assert "Nadeau" in metrics["accuracy_fold_mean_correction"]
    assert mean.high - mean.value == pytest.approx(3.182446 * 0.5 * (7 / 12) ** 0.5)
    assert {"macro_f1_fold_mean", "macro_f1_fold_std"} <= set(metrics)
    assert json.loads(json.dumps(result.as_dict())) == result.as_dict()


def test_the_record_has_one_line_for_the_index(result):
    assert result.headline == "macro-F1 1.000 [0.940, 1.000]"


def test_a_pool_listens_to_the_member_that_is_right(two_folds):
    train, cv = two_folds
    even = cv.oof.assign(loan=0.5, tax=0.5).sample(frac=1, random_state=0)
    together, weights = pooled([cv, CrossValidation(even, (1.0, 1.0))], train)
    assert together.oof["id"].tolist() == cv.oof["id"].tolist()
    assert together.fit_seconds == (2.0, 4.0)
    assert together.predicted.tolist() == cv.predicted.tolist()
    assert weights.keys() == {None, *cv.oof["fold"]}
    assert all(right > 0 for right, _ in weights.values())


def test_the_weights_of_a_fold_know_nothing_of_its_labels(two_folds):
    train, cv = two_folds
    other = CrossValidation(cv.oof.assign(loan=cv.oof["tax"], tax=cv.oof["loan"]), (1.0, 1.0))
    fold = int(cv.oof["fold"].iloc[0])
    mine = train["id"].isin(cv.oof["id"][cv.oof["fold"] == fold])
    swapped = train["intent"].map({"loan": "tax", "tax": "loan"})
    lied = train.assign(intent=train["intent"].where(~mine, swapped))
    both = [pooled([cv, other], rows) for rows in (train, lied)]
    (as_is, weights), (after, others) = both
    assert weights[fold] == others[fold] and weights[None] != others[None]
    rows = as_is.oof["fold"] == fold
    pd.testing.assert_frame_equal(as_is.oof[rows], after.oof[rows])


def asked(oof, name):
    return oof.assign(probe=name)[["probe", *oof]]


def test_case_answers_are_joined_by_name_id_and_fold_where_all_members_answered(two_folds):
    train, cv = two_folds
    other = cv.oof.assign(loan=0.5, tax=0.5)
    mine, others = asked(cv.oof, "typos"), asked(other.sample(frac=1, random_state=0), "typos")
    both = [
        CrossValidation(oof, (1.0, 3.0), table) for oof, table in ((cv.oof, mine), (other, others))
    ]
    together = pooled(both, train)[0]
    pd.testing.assert_frame_equal(together.case_answers, asked(together.oof, "typos"))
    assert pooled([both[0], cv], train)[0].case_answers is None


def test_a_view_tells_what_is_still_right_and_what_changed(train, cv):
    flipped = cv.oof.assign(loan=cv.oof["tax"], tax=cv.oof["loan"])
    probes = [asked(flipped.head(40), "view: typos"), asked(cv.oof, "view: same")]
    probes = pd.concat([*probes, asked(cv.oof, "person: other")])
    seen = CrossValidation(cv.oof, cv.fit_seconds, probes)
    table = view_scores(train.assign(id=range(100)), seen).set_index("view")
    assert table["rows"].to_dict() == {"typos": 40, "same": 60}  # natural rows only
    assert table["accuracy"].to_dict() == {"typos": 0.0, "same": 1.0}
    assert table["as_written"].to_dict() == {"typos": 1.0, "same": 1.0}
    assert table["changed"].to_dict() == {"typos": 1.0, "same": 0.0}
    assert table["difference"].to_dict() == {"typos": -1.0, "same": 0.0}
    assert table.loc["typos", "difference_high"] < 0 < table.loc["same", "difference_high"]


def test_without_case_answers_no_perturbation_is_scored(train, cv):
    assert view_scores(train.assign(id=range(100)), cv).empty


def test_what_is_missing_in_a_table_becomes_none():
    rows = plain_rows(pd.DataFrame({"model": ["a", "b"], "p": [0.5, float("nan")]}))
    assert rows == [{"model": "a", "p": 0.5}, {"model": "b", "p": None}]


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
    assert worst(statuses) == verdict


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
