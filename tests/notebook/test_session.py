from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import NiveshError
from nivesh_lib.evaluation.resampling.cross_validation import aligned
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.notebook.session import start_run
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding, Plot
from nivesh_lib.records.results import StepResult
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.tracking.logger import PARENT
from nivesh_lib.tracking.store import tracking_uri
from tests.runs.examples import contents, estimate, result

PARAMS = {"DATASET": "toy@1.0.0", "C": 1.0, "nested": {"deep": 2}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> Path:
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("NIVESH_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NIVESH_MODE", "nbval")
    texts = [f"{word} {n}" for word in ("rent", "chai", "train") for n in ("one", "two", "three")]
    rows = [{"query": f"{t} {i}", "intent": i} for t in texts for i in ("spend", "save")]
    publish(pd.DataFrame(rows), "toy", "1.0.0", description="toy")
    return tmp_path


def client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri())


def test_a_run_leaves_everything_in_the_directory_and_in_mlflow(home):
    data = load_dataset("toy@1.0.0")
    run = start_run("03_toy", PARAMS)
    model = get_model("rules").fit(data.train["query"], data.train["intent"])
    oof = pd.DataFrame({"id": ["a"], "fold": [0], "save": [0.4], "spend": [0.6]})
    plot = Plot(kind="bars", data={"counts": {"save": 3}, "unit": "rows"}, alt="Bars.")
    finding = Finding(name="labels", claim="Three rows.", plot=plot).as_dict()
    metrics = {"share": Estimate(0.5, 0.4, 0.6, 9), "rows": 9}
    run.log(
        {"metrics": metrics, "headline": "said", "findings": [finding]},
        dataset=data,
        model=model,
        oof=oof,
        case_answers=oof.assign(probe="typos"),
    )
    folder = home / "run"
    record = json.loads((folder / "results" / "03_toy.json").read_text())
    assert record["headline"] == "said" and record["mlflow_run_id"] == run.logger.run_id
    assert pd.read_parquet(folder / "oof" / "03_toy.parquet").equals(oof)
    assert load_model(folder / "models" / "03_toy").predict(["rent"]).size == 1
    assert pd.read_parquet(folder / "probes" / "03_toy.parquet").equals(oof.assign(probe="typos"))
    logged = client().get_run(run.logger.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["share_low"] == 0.4 and logged.data.metrics["rows"] == 9
    assert "share_n" not in logged.data.metrics
    assert logged.data.params["nested.deep"] == "2"
    (given,) = logged.inputs.dataset_inputs
    assert {t.key: t.value for t in given.tags}["sha256"] == data.version.sha256
    paths = {f.path for f in client().list_artifacts(run.logger.run_id)}
    assert {"figures", "results", "environment.json"} <= paths
    assert logged.outputs.model_outputs


def test_a_model_that_a_step_of_this_run_has_evaluated_is_not_trained_again(home, monkeypatch):
    data = load_dataset("toy@1.0.0")
    first = start_run("03_toy", PARAMS)
    first.finish(first.evaluate(get_model("tfidf", C=3.0), data))
    run = start_run("05_toy", PARAMS)
    other = run.evaluate(get_model("tfidf", C=4.0), data, part=True, as_in="03_toy")
    assert other.cv.fit_seconds[0] != other.cv.fit_seconds[1]  # its own, fold by fold
    monkeypatch.setattr("nivesh_lib.notebook.evaluated.cross_validate", None)
    same = run.evaluate(get_model("tfidf", C=3.0), data, part=True, as_in="03_toy")
    assert same.part and len(same.cv.fit_seconds) == data.n_folds
    table = pd.read_parquet(run.directory.path / "oof" / "03_toy.parquet")
    assert same.cv.oof.equals(aligned(table, data.train["id"]))
    assert same.model.predict(["rent"]).size == 1


def test_a_run_that_was_never_logged_is_closed_when_the_notebook_starts_again(home):
    first = start_run("03_toy", PARAMS)
    second = start_run("03_toy", PARAMS)
    assert client().get_run(first.logger.run_id).info.status == "KILLED"
    assert client().get_run(second.logger.run_id).info.status == "RUNNING"


def test_no_query_reaches_mlflow_with_the_dataset(home):
    data = load_dataset("toy@1.0.0")
    run = start_run("03_toy", PARAMS)
    run.log({"metrics": {}}, dataset=data)
    (given,) = client().get_run(run.logger.run_id).inputs.dataset_inputs
    assert "rent" not in given.dataset.schema + given.dataset.profile + given.dataset.source


def test_upstream_results_of_another_dataset_are_left_out_with_a_hint(home, capsys):
    RunDirectory(home / "run").write_result("02_baseline", StepResult(dataset="other@1.0.0"))
    run = start_run("03_toy", PARAMS)
    assert run.upstream("02_baseline") is None
    assert "nivesh run --only 02_baseline" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[]", '"text"', "{", "{}"])
def test_odd_upstream_results_count_as_absent(home, capsys, text):
    folder = home / "run"
    for kind in ("results", "oof"):
        (folder / kind).mkdir(parents=True)
    (folder / "results" / "02_baseline.json").write_text(text)
    pd.DataFrame({"id": ["a"]}).to_parquet(folder / "oof" / "02_baseline.parquet")
    run = start_run("03_toy", PARAMS)
    assert run.upstream("02_baseline") is None and run.upstream_oof("02_baseline") is None
    assert "nivesh run --only 02_baseline" in capsys.readouterr().out


def test_answers_to_cases_go_with_the_results_they_belong_to(home):
    table = pd.DataFrame({"probe": ["typos"], "id": ["a"], "fold": [0], "save": [1.0]})
    run = start_run("05_toy", PARAMS)
    run.log({"metrics": {}}, case_answers=table, part="small")
    assert run.directory.table("probes", "05_toy.small").equals(table)
    assert run.directory.table("probes", "05_toy") is None
    run.log({"metrics": {}}, part="small")  # the notebook again, without answers
    assert run.directory.table("probes", "05_toy.small") is None


def test_a_notebook_may_leave_a_second_model_and_its_history(home):
    data = load_dataset("toy@1.0.0")
    run = start_run("05_distilbert", PARAMS)
    model = get_model("rules").fit(data.train["query"], data.train["intent"])
    run.log(result("first", 0.5), model=model, part="first")
    assert client().get_run(run.logger.run_id).info.status == "RUNNING"
    history = [{"epoch": 1.0, "train_loss": 2.0}, {"epoch": 2.0, "train_loss": 1.0}]
    run.log(contents("second", 0.9), history=history)
    found = client().get_run(run.logger.run_id)
    assert found.data.metrics["first_macro_f1"] == 0.5
    assert found.data.metrics["macro_f1"] == 0.9
    losses = client().get_metric_history(run.logger.run_id, "train_loss")
    assert [(one.step, one.value) for one in losses] == [(1, 2.0), (2, 1.0)]
    assert load_model(run.directory.model("05_distilbert.first")).kind == "rules"
    left = sorted(path.name for path in run.directory.result_file("x").parent.iterdir())
    assert left == ["05_distilbert.first.json", "05_distilbert.json"]


def evaluated(run, model):
    data = load_dataset("toy@1.0.0")
    oof = data.train[["id", "fold"]].assign(save=0.5, spend=0.5)
    run.log(result(model, 0.5), oof=oof, case_answers=oof.assign(probe="x"))


def test_models_that_other_steps_left_are_read_by_name_and_nothing_else_is(home):
    for step, model in (("02_baseline", "rules"), ("03_tfidf", "tfidf")):
        evaluated(start_run(step, PARAMS), model=model)
    evaluated(start_run("04_lstm", {**PARAMS, "DATASET": "other@1.0.0"}), model="lstm")
    start_run("08_drift", PARAMS).log({"metrics": {}, "headline": "no model"})
    last = start_run("06_cv_and_bias", PARAMS)
    evaluated(last, model="tfidf")
    found = last.recorded_models()
    assert {name: one.step for name, one in found.items()} == {
        "rules": "02_baseline",
        "tfidf": "03_tfidf",
    }
    assert found["tfidf"].directory == last.directory.model("03_tfidf")
    assert len(found["tfidf"].oof) == len(found["tfidf"].case_answers) > 0


def test_without_a_model_the_command_that_makes_one_is_named(home):
    with pytest.raises(NiveshError, match=r"`nivesh run --dataset toy@1\.0\.0` evaluates"):
        start_run("06_cv_and_bias", PARAMS).recorded_models()


FOLDS = [{"fold": k, "n": 20, "accuracy": 0.5 + k / 10, "macro_f1": 0.4} for k in range(3)]


def children(run):
    below = f"tags.`{PARENT}` = '{run.logger.run_id}'"
    found = client().search_runs([run.logger.experiment_id], filter_string=below)
    return {one.info.run_name: one for one in found}


def test_each_fold_is_a_finished_run_below_that_of_the_step(home):
    run = start_run("03_toy", PARAMS)
    run.log(contents("toy", 0.5, folds=FOLDS))
    name = client().get_run(run.logger.run_id).info.run_name
    below = children(run)
    assert sorted(below) == [f"{name} fold {k}" for k in range(3)]
    last = below[f"{name} fold 2"]
    assert last.data.metrics == {"n": 20, "accuracy": 0.7, "macro_f1": 0.4}
    assert (last.info.status, last.data.tags["nivesh.fold"]) == ("FINISHED", "2")
    assert last.data.tags["nivesh.mode"] == "nbval"


def test_a_second_model_has_folds_of_its_own_and_logging_again_adds_none(home):
    run = start_run("05_toy", PARAMS)
    for _ in range(2):
        run.log(contents("small", 0.5, folds=FOLDS), part="small")
    run.log(contents("large", 0.5, folds=FOLDS))
    below = children(run)
    assert len(below) == 6
    assert {one.data.tags.get("nivesh.part") for one in below.values()} == {None, "small"}


def test_folds_do_not_count_as_versions_of_the_run_name(home):
    first = start_run("03_toy", PARAMS)
    first.log(contents("toy", 0.5, folds=FOLDS))
    second = start_run("03_toy", PARAMS)
    assert client().get_run(second.logger.run_id).info.run_name.endswith("_v2")


@pytest.mark.parametrize(
    "recorded",
    [
        {"folds": FOLDS},
        {"model": "toy", "folds": [{"model": "a", "fold": 0, "accuracy": 0.5}]},
        contents("toy", 0.5, folds=[{"accuracy": 0.5}]),
        contents("toy", 0.5),
    ],
)
def test_what_is_not_the_folds_of_one_model_has_no_child_runs(home, recorded):
    run = start_run("03_toy", PARAMS)
    run.log(recorded)
    assert children(run) == {}


@pytest.mark.parametrize(
    "odd",
    [
        contents("toy", 0.5, folds="odd"),
        {"headline": 1},
        {"model": "m", "metrics": {"macro_f1": 1}},
        {"model": "m", "metrics": 5},
    ],
)
def test_what_could_not_be_read_again_is_refused_when_it_is_recorded(home, odd):
    run = start_run("03_toy", PARAMS)
    with pytest.raises(ValueError, match="03_toy: cannot be recorded"):
        run.log(odd)
    assert run.directory.results() == {} == run.directory.damaged()


def test_what_is_known_of_every_step_is_recorded_with_a_result(home):
    run = start_run("03_toy", PARAMS)
    metrics = run.log(result("toy", 0.5) | {"views": [{"view": "typos"}]})
    recorded = run.directory.result("03_toy")
    assert (recorded.step, recorded.dataset, recorded.params) == ("03_toy", "toy@1.0.0", PARAMS)
    assert recorded.views == [{"view": "typos"}] and recorded.seconds >= 0
    assert recorded.scores["macro_f1"].as_dict() == estimate(0.5)
    assert metrics == recorded.metrics


def test_what_a_step_left_is_found_by_the_next_one_for_the_same_dataset_only(home):
    first = start_run("05_toy", PARAMS)
    (kept := first.path("folds", "transformer")).mkdir()
    assert first.upstream_path("folds", "05_toy", "transformer") is None  # not recorded yet
    first.log({"metrics": {}})
    later = start_run("07_toy", PARAMS)
    assert later.upstream_path("folds", "05_toy", "transformer") == kept
    other = start_run("07_toy", {**PARAMS, "DATASET": "other@1.0.0"})
    assert other.upstream_path("folds", "05_toy", "transformer") is None


def test_a_notebook_that_judges_no_model_sets_its_own_marks_only(home, capsys):
    (home / "data" / "toy" / "objectives.toml").write_text(
        '[intent_classifier]\naccuracy_target = 0.9\nbusiness_impact = "Fewer calls."'
    )
    run = start_run("08_drift", PARAMS)
    run.set_marks(own="a mark")
    assert "no notebook measures: Fewer calls." in capsys.readouterr().out
    assert set(run.marks) == {"accuracy", "own"}
    run.set_marks(objectives=False, own="a mark")
    assert run.marks == {"own": "a mark"}
