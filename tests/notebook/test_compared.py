from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.notebook.session import start_run
from nivesh_lib.runs.comparison import evaluation_of

PARAMS = {"DATASET": "toy@1.0.0", "N_BOOT": 20, "N_TIMED": 3, "MODELS": "rules, tfidf"}
FINDINGS = (
    *("leaks", "answer", "leader", "cost", "folds", "over_time", "repeats"),
    *("learning", "temporal", "calibration", "min_confidence", "out_of_scope", "abstention"),
    *("fairness", "handover_by_segment", "segments", "intersections", "counterfactuals"),
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
    assert all(claims) and len(run.findings) == len(FINDINGS) + 2  # macro-F1, changes
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


def test_the_full_profile_trains_what_was_asked_for(home):
    recorded("02_baseline", "rules")
    _, models = compared(REPEATS=2, LEARNING_CURVES=True, TEMPORAL=True)
    assert "over 2 cross-validations" in models.repeats().claim.lower()
    assert "the bag of words" in models.learning().claim
    assert models.temporal().claim.startswith("Too few rows have a date")
    assert models.repeats().table["model"].tolist() == ["rule set", "bag of words"]
