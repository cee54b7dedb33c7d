from __future__ import annotations

from dataclasses import replace

import pytest
from sklearn.base import clone

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.evaluation.compression.cascade import choose_threshold
from nivesh_lib.models.base import get_model
from nivesh_lib.models.wrappers.cascade import Cascade
from nivesh_lib.notebook.optimized import Optimization
from nivesh_lib.notebook.session import start_run
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.runs.leaderboard import leaderboard

pytestmark = pytest.mark.usefixtures("no_collection", "store")
PARAMS = {"DATASET": "toy@1.0.0", "CASCADE_LOSS": 0.2, "N_BOOT": 20, "N_TIMED": 10}


@pytest.fixture
def data(home, make_rows, monkeypatch):
    monkeypatch.setenv("NIVESH_RUN_DIR", str(home / "run"))
    monkeypatch.setenv("NIVESH_MODE", "nbval")
    rows = make_rows(120)
    rows["query"] += " " + rows["intent"].where(rows.index % 5 > 0, "")
    publish(rows, "toy", "1.0.0", description="toy")
    return load_dataset("toy@1.0.0")


def leave(step, data, model, **options):
    run = start_run(step, PARAMS)
    done = run.evaluate(get_model(model), data, **options)
    run.log(done.result(), **done.files())


@pytest.fixture
def study(data):
    """A study of what step 05 left, a bag of words in place of a transformer."""
    leave("05_distilbert", data, "tfidf", name="transformer", keep_folds=True)
    study = Optimization(start_run("07_optimization", PARAMS), data)
    words = get_model("tfidf", char_ngram_max=0, word_ngram_max=1)
    study.add("small", lambda part: clone(words).fit(part.texts, part.labels), keep=True)
    study.add("same", lambda part: part.transformer, keep=True)
    return study


def test_a_technique_is_judged_by_models_that_never_saw_the_rows(study, data):
    seen = {}
    study.add("watched", lambda part: seen.setdefault(part.fold, part).transformer)
    assert list(seen) == [None, *sorted(data.train["fold"].unique())]
    rows = data.train[data.train["fold"] != 0]
    assert seen[0].texts == rows["query"].tolist() and len(seen[None].texts) == len(data.train)
    decision = study.study.candidates["watched"].decision
    assert (decision.agreement.value, decision.difference.value) == (1, 0)


def test_a_function_of_each_model_is_given_its_own_rows(study):
    found = study.of_each("same", lambda model, part: (part.fold, model.kind))
    assert found == {fold: (fold, "tfidf") for fold in (None, 0, 1, 2, 3, 4)}


def test_one_model_has_one_latency_and_one_recommendation(study, data):
    leave("02_baseline", data, "rules")
    run, study.recorded = study.run, study.run.recorded_models()
    study.cascade("small", "same")
    recommended, best = study.race(), study.best()
    for finding in (study.answer(), study.calibration(), best.cost(), best.answer()):
        assert run.findings[finding.name].claim == finding.claim
    run.finish(best, **study.records())
    results = RunDirectory(run.directory.path).results()
    recorded = results["07_optimization"]
    assert recorded.model == f"optimised ({best.name})" and recorded.headline == recommended.claim
    times = {row["step"]: row["p95_ms"] for row in recorded.model_extra["race"] if row["step"]}
    assert {one.step: one.p95_ms for one in leaderboard(results)} == times
    assert recorded.metrics["p95_ms"] == times["07_optimization"]
    assert set(times) == {"02_baseline", "05_distilbert", "07_optimization"}
    assert recorded.model_extra["recommendation"]["model"] in (
        one.name for one in study._choices if one.verdict in ("", "kept")
    )


def test_a_cascade_is_raced_on_a_fold_that_it_has_not_seen_and_hands_over_the_usual_share(
    study, data, monkeypatch
):
    handed, real = {}, Cascade._proba

    def counted(cascade, texts):
        unsure = cascade.student_._proba(texts).max(axis=1) < cascade.threshold
        for text, one in zip(texts, unsure, strict=True):
            handed.setdefault(text, set()).add(bool(one))
        return real(cascade, texts)

    def uneven(first, *args, **options):
        """Hand over nothing of fold 0, a tenth of fold 1, and so on."""
        sure = first.drop(columns=["id", "fold"]).max(axis=1)
        bars = {k: float(sure[first["fold"] == k].quantile(0.1 * k)) for k in range(5)}
        return replace(choose_threshold(first, *args, **options), by_fold=bars)

    study.run.params["N_TIMED"] = 60
    monkeypatch.setattr("nivesh_lib.notebook.optimized.choose_threshold", uneven)
    study.cascade("small", "same")
    monkeypatch.setattr(Cascade, "_proba", counted)
    found = study.race().table.set_index("model")
    train = data.train.assign(handed=study._handed).set_index("query")
    asked = train.loc[[text for text in handed if text in train.index]]
    assert set(asked["fold"]) == {2}
    assert all(handed[text] == {one} for text, one in asked["handed"].items())
    share = train["handed"][train["fold"] == 2].mean()
    assert found.loc["cascade", "handed on, of 100"] == pytest.approx(100 * share)
    assert share == pytest.approx(train["handed"].mean(), abs=0.05)


def test_a_cell_that_runs_twice_replaces_its_model(study):
    first = study.add("small", lambda part: part.transformer)
    again = study.add("small", lambda part: part.transformer)
    assert first == again and list(study.study.candidates) == ["transformer", "small", "same"]


def test_without_a_model_of_step_05_one_is_trained(data, monkeypatch):
    words = get_model("tfidf")
    monkeypatch.setattr("nivesh_lib.notebook.optimized.get_model", lambda kind, **_: words)
    run = start_run("07_optimization", PARAMS | {"BACKBONE": "any", "EPOCHS": 1})
    study = Optimization(run, data)
    assert " and routes " in study.reference().claim and not study.recorded
    study.add("same", lambda part: part.transformer)
    assert study.study.candidates["same"].decision.agreement.value == 1
