from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.notebook.compared import _meetings
from nivesh_lib.notebook.session import start_run
from nivesh_lib.runs.comparison import evaluation_of
from nivesh_lib.tracking.logger import PARENT
from nivesh_lib.tracking.store import create_experiment, tracking_uri

PARAMS = {"DATASET": "toy@1.0.0", "N_BOOT": 20, "N_TIMED": 3, "MODELS": "rules, tfidf"}
FINDINGS = (
    *("leaks", "answer", "leader", "cost", "folds", "over_time"),
    *("calibration", "min_confidence", "out_of_scope", "abstention"),
    *("fairness", "handover_by_segment", "segments", "counterfactuals"),
    *("behaviour", "overlaps", "doubtful_labels", "would_help"),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> Path:
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("NIVESH_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NIVESH_MODE", "nbval")
    words = ("rent", "chai", "train", "gold", "school", "phone", "fees", "bread")
    rows = [
        {"query": f"{verb} {word} {n}", "intent": label}
        for label, verb in (("spend_it", "pay"), ("save, up", "keep"))
        for word in words
        for n in ("one", "two", "three")
    ]
    publish(pd.DataFrame(rows), "toy", "1.0.0", description="toy")
    return tmp_path


def recorded(step: str, model: str) -> None:
    run = start_run(step, PARAMS)
    run.finish(run.evaluate(get_model(model), load_dataset("toy@1.0.0")))


def compared(**params):
    run = start_run("06_cv", {**PARAMS, **params})
    return run, run.compare(load_dataset("toy@1.0.0"))


def test_data_without_segments_dates_and_objectives_gives_every_finding(home):
    recorded("02_baseline", "rules")
    recorded("03_tfidf", "tfidf")
    run, models = compared()
    claims = [getattr(models, name)().claim for name in FINDINGS]
    claims.append(models.changes_from("tfidf").claim)
    (left_out,) = models.retrained()
    assert all(claims) and len(run.findings) == len(FINDINGS) + 3  # macro-F1, changes, retrained
    assert "--profile full" in left_out.claim
    run.finish(models)
    result = run.directory.result("06_cv")
    step, evaluation = evaluation_of({"06_cv": result})
    assert step == "06_cv" and evaluation["comparison"]["champion"] == models.best == result.model
    assert [one.name for one in result.findings] == list(run.findings)
    assert load_model(run.directory.model("06_cv")).kind == "calibrated"


def test_later_steps_are_not_compared(home):
    recorded("02_baseline", "rules")
    recorded("07_smaller", "tfidf")
    _, models = compared()
    assert list(models.models) == ["rules"]
    assert "no other model" in models.leader().claim and models.changes_from("tfidf").verdict == ""


def test_settings_are_searched_and_each_trial_is_a_run_in_mlflow(home):
    recorded("03_tfidf", "tfidf")
    run, models = compared(SEARCH_MINUTES=0.02)
    (tuning,) = models.retrained()
    row = tuning.table.iloc[0]
    assert row["model"] == "bag of words" and row["scored"] >= 1 and row["best"] >= row["as it is"]
    assert (home / "reports" / "search" / "trials.sqlite").is_file()
    store = MlflowClient(tracking_uri())
    experiment = create_experiment("hyperparameter_tuning")
    trials = store.search_runs([experiment], order_by=["attributes.start_time ASC"])
    assert len(trials) >= row["scored"]
    assert trials[0].data.metrics["macro_f1"] == pytest.approx(row["as it is"])
    assert trials[0].data.params["C"] and trials[0].data.tags[PARENT] == run.logger.run_id


def test_the_full_profile_trains_what_was_asked_for(home):
    recorded("02_baseline", "rules")
    _, models = compared(REPEATS=2, LEARNING_CURVES=True)
    repeats, learning, temporal = models.retrained()
    assert "over 2 cross-validations" in repeats.claim.lower()
    assert repeats.table["model"].tolist() == ["rule set", "bag of words"]
    assert "the bag of words" in learning.claim
    assert temporal.claim.startswith("Too few rows have a date")
    (none,) = compared(REPEATS=2, LEARNING_CURVES=True, MODELS=" ,")[1].retrained()
    assert none.name == "retrained"


def test_where_two_segments_meet_their_queries_are_a_group_of_their_own():
    rows = pd.DataFrame({"income_segment": ["low", "low", None], "language": ["en", "hi", "en"]})
    found = _meetings(rows)
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "income segment and language=low and en": [True, False, False],
        "income segment and language=low and hi": [False, True, False],
    }
    assert _meetings(rows[["language"]]) == {} == _meetings(rows.iloc[:0])
