from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import NiveshError
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.reporting.figures import label_bars
from nivesh_lib.tracking import runs

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
    return mlflow.MlflowClient(runs.tracking_uri())


def test_the_store_is_made_once_with_write_ahead_log(tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = runs.prepare_store()
    database = tmp_path / "mlruns" / "mlflow.db"
    assert uri == f"sqlite:///{database}"
    with sqlite3.connect(database) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()
    before = database.stat().st_ino
    runs.prepare_store()
    assert database.stat().st_ino == before


def test_another_tracking_server_is_taken_as_it_is(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert runs.prepare_store() == "http://127.0.0.1:9"


def test_experiments_are_leaves_of_the_tree_and_made_once(home):
    first = runs.create_experiment("baseline_experiments")
    assert runs.create_experiment("baseline_experiments") == first
    assert client().get_experiment(first).name == f"{runs.TREE}/baseline_experiments"


def test_run_names_count_up_within_a_day(home):
    names = []
    for _ in range(3):
        run = runs.start_run("03_tfidf", PARAMS)
        names.append(client().get_run(run.mlflow_run_id).info.run_name)
    assert [name.rsplit("_", 1)[1] for name in names] == ["v1", "v2", "v3"]
    assert names[0].startswith("intent_classifier_tfidf_2")


def test_a_run_leaves_everything_in_the_directory_and_in_mlflow(home):
    data = load_dataset("toy@1.0.0")
    run = runs.start_run("03_toy", PARAMS)
    model = get_model("rules").fit(data.train["query"], data.train["intent"])
    oof = pd.DataFrame({"id": ["a"], "fold": [0], "save": [0.4], "spend": [0.6]})
    axes = label_bars(data.train["intent"].value_counts())
    metrics = {"macro_f1": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}, "rows": 9}
    run.log(
        {"metrics": metrics, "headline": "said"},
        dataset=data,
        model=model,
        oof=oof,
        probes=oof.assign(probe="typos"),
        figures={"labels": (axes, "bars")},
    )
    folder = home / "run"
    record = json.loads((folder / "results" / "03_toy.json").read_text())
    assert record["headline"] == "said" and record["mlflow_run_id"] == run.mlflow_run_id
    assert pd.read_parquet(folder / "oof" / "03_toy.parquet").equals(oof)
    assert load_model(folder / "models" / "03_toy").predict(["rent"]).size == 1
    assert pd.read_parquet(folder / "probes" / "03_toy.parquet").equals(oof.assign(probe="typos"))
    logged = client().get_run(run.mlflow_run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["macro_f1_low"] == 0.4 and logged.data.metrics["rows"] == 9
    assert logged.data.params["nested.deep"] == "2"
    (given,) = logged.inputs.dataset_inputs
    assert {t.key: t.value for t in given.tags}["sha256"] == data.version.sha256
    paths = {f.path for f in client().list_artifacts(run.mlflow_run_id)}
    assert {"figures", "results", "environment.json"} <= paths
    assert logged.outputs.model_outputs


def test_a_run_that_was_never_logged_is_closed_when_the_notebook_starts_again(home):
    first = runs.start_run("03_toy", PARAMS)
    second = runs.start_run("03_toy", PARAMS)
    assert client().get_run(first.mlflow_run_id).info.status == "KILLED"
    assert client().get_run(second.mlflow_run_id).info.status == "RUNNING"


def test_parameters_are_anonymised_before_they_are_logged(home):
    run = runs.start_run("03_toy", {**PARAMS, "EXAMPLE": "write to asha@example.com"})
    logged = client().get_run(run.mlflow_run_id).data.params
    assert logged["EXAMPLE"] == "write to [EMAIL]"


def test_no_query_reaches_mlflow_with_the_dataset(home):
    data = load_dataset("toy@1.0.0")
    run = runs.start_run("03_toy", PARAMS)
    run.log({"metrics": {}}, dataset=data)
    (given,) = client().get_run(run.mlflow_run_id).inputs.dataset_inputs
    assert "rent" not in given.dataset.schema + given.dataset.profile + given.dataset.source


def test_upstream_results_of_another_dataset_are_left_out_with_a_hint(home, capsys):
    runs.write_json(home / "run" / "results" / "02_baseline.json", {"dataset": "other@1.0.0"})
    run = runs.start_run("03_toy", PARAMS)
    assert run.upstream("02_baseline") is None
    assert "nivesh run --only 02_baseline" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[]", '"text"', "{", "{}"])
def test_odd_upstream_results_count_as_absent(home, capsys, text):
    folder = home / "run"
    for kind in ("results", "oof"):
        (folder / kind).mkdir(parents=True)
    (folder / "results" / "02_baseline.json").write_text(text)
    pd.DataFrame({"id": ["a"]}).to_parquet(folder / "oof" / "02_baseline.parquet")
    run = runs.start_run("03_toy", PARAMS)
    assert run.upstream("02_baseline") is None and run.upstream_oof("02_baseline") is None
    assert "nivesh run --only 02_baseline" in capsys.readouterr().out


def test_answers_to_probes_go_with_the_results_they_belong_to(home):
    table = pd.DataFrame({"probe": ["typos"], "id": ["a"], "fold": [0], "save": [1.0]})
    run = runs.start_run("05_toy", PARAMS)
    run.log({"metrics": {}}, probes=table, part="small")
    assert run.upstream_probes("05_toy.small").equals(table)
    assert run.upstream_probes("05_toy") is None
    run.log({"metrics": {}}, part="small")  # the notebook again, without probes
    assert run.upstream_probes("05_toy.small") is None


def test_the_seed_s_functions_log_to_the_active_run(home):
    mlflow.set_tracking_uri(runs.prepare_store())
    experiment = runs.create_experiment("hyperparameter_tuning")
    with mlflow.start_run(experiment_id=experiment) as active:
        runs.log_model_params({"learning_rate": 2e-5})
        runs.log_model_metrics({"val_f1": 0.5, "note": "no number"})
    logged = client().get_run(active.info.run_id).data
    assert logged.params == {"learning_rate": "2e-05"} and logged.metrics == {"val_f1": 0.5}


def test_without_an_active_run_they_say_what_to_do(home):
    with pytest.raises(ValueError, match="pass run_id"):
        runs.log_model_params({"a": 1})


# Any two can meet, whatever their number; four meet at more places.
@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_may_open_a_fresh_store_at_once(tmp_path, monkeypatch, n):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/fresh/mlflow.db")
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    code = "from nivesh_lib.tracking.runs import *; create_experiment('x')"
    processes = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.DEVNULL)
        for _ in range(n)
    ]
    assert [p.wait(timeout=120) for p in processes] == [0] * n


def test_an_unreachable_store_gives_one_clear_error(tmp_path, monkeypatch):
    from nivesh_lib.errors import NiveshError

    (tmp_path / "mlflow.db").write_text("this is no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(NiveshError, match="cannot be opened"):
        runs.check_store()


def test_a_server_that_does_not_answer_is_reported_at_once(monkeypatch):
    import time

    from nivesh_lib.errors import NiveshError

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:s3cret@127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(NiveshError, match=r"team:\*\*\*@127\.0\.0\.1:9: cannot be opened") as told:
        runs.check_store()
    assert "s3cret" not in str(told.value)
    assert time.monotonic() - started < 20


def test_a_notebook_may_leave_a_second_model_and_its_history(home):
    data = load_dataset("toy@1.0.0")
    run = runs.start_run("05_distilbert", PARAMS)
    model = get_model("rules").fit(data.train["query"], data.train["intent"])
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    run.log({"metrics": {"macro_f1": estimate}, "model": "first"}, model=model, part="first")
    assert client().get_run(run.mlflow_run_id).info.status == "RUNNING"
    history = [{"epoch": 1.0, "train_loss": 2.0}, {"epoch": 2.0, "train_loss": 1.0}]
    run.log({"metrics": {"macro_f1": 0.9}, "model": "second"}, history=history)
    found = client().get_run(run.mlflow_run_id)
    assert found.data.metrics["first_macro_f1"] == 0.5
    assert found.data.metrics["macro_f1"] == 0.9
    losses = client().get_metric_history(run.mlflow_run_id, "train_loss")
    assert [(one.step, one.value) for one in losses] == [(1, 2.0), (2, 1.0)]
    assert load_model(run.directory / "models" / "05_distilbert.first").kind == "rules"
    left = sorted(path.name for path in (run.directory / "results").iterdir())
    assert left == ["05_distilbert.first.json", "05_distilbert.json"]


def evaluated(run, **result):
    data = load_dataset("toy@1.0.0")
    oof = data.train[["id", "fold"]].assign(save=0.5, spend=0.5)
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    run.log({"metrics": {"macro_f1": estimate}, **result}, oof=oof, probes=oof.assign(probe="x"))


def test_models_that_other_steps_left_are_read_by_name_and_nothing_else_is(home):
    for step, model in (("02_baseline", "rules"), ("03_tfidf", "tfidf")):
        evaluated(runs.start_run(step, PARAMS), model=model)
    evaluated(runs.start_run("04_lstm", {**PARAMS, "DATASET": "other@1.0.0"}), model="lstm")
    runs.start_run("08_drift", PARAMS).log({"metrics": {}, "headline": "no model"})
    last = runs.start_run("06_cv_and_bias", PARAMS)
    evaluated(last, model="tfidf")
    found = last.recorded_models()
    assert {name: one.step for name, one in found.items()} == {
        "rules": "02_baseline",
        "tfidf": "03_tfidf",
    }
    assert found["tfidf"].directory == last.directory / "models" / "03_tfidf"
    assert len(found["tfidf"].oof) == len(found["tfidf"].probes) > 0


def test_without_a_model_the_command_that_makes_one_is_named(home):
    with pytest.raises(NiveshError, match=r"`nivesh run --dataset toy@1\.0\.0` evaluates"):
        runs.start_run("06_cv_and_bias", PARAMS).recorded_models()


FOLDS = [{"fold": k, "n": 20, "accuracy": 0.5 + k / 10, "macro_f1": 0.4} for k in range(3)]


def children(run):
    below = f"tags.`{runs.PARENT}` = '{run.mlflow_run_id}'"
    found = client().search_runs([run.experiment_id], filter_string=below)
    return {one.info.run_name: one for one in found}


def test_each_fold_is_a_finished_run_below_that_of_the_step(home):
    run = runs.start_run("03_toy", PARAMS)
    run.log({"metrics": {}, "model": "toy", "folds": FOLDS})
    name = client().get_run(run.mlflow_run_id).info.run_name
    below = children(run)
    assert sorted(below) == [f"{name} fold {k}" for k in range(3)]
    last = below[f"{name} fold 2"]
    assert last.data.metrics == {"n": 20, "accuracy": 0.7, "macro_f1": 0.4}
    assert (last.info.status, last.data.tags["nivesh.fold"]) == ("FINISHED", "2")
    assert last.data.tags["nivesh.mode"] == "nbval"


def test_a_second_model_has_folds_of_its_own_and_logging_again_adds_none(home):
    run = runs.start_run("05_toy", PARAMS)
    for _ in range(2):
        run.log({"metrics": {}, "model": "small", "folds": FOLDS}, part="small")
    run.log({"metrics": {}, "model": "large", "folds": FOLDS})
    below = children(run)
    assert len(below) == 6
    assert {one.data.tags.get("nivesh.part") for one in below.values()} == {None, "small"}


def test_folds_do_not_count_as_versions_of_the_run_name(home):
    first = runs.start_run("03_toy", PARAMS)
    first.log({"metrics": {}, "model": "toy", "folds": FOLDS})
    second = runs.start_run("03_toy", PARAMS)
    assert client().get_run(second.mlflow_run_id).info.run_name.endswith("_v2")


@pytest.mark.parametrize(
    "result",
    [
        {"folds": FOLDS},
        {"model": "toy", "folds": "odd"},
        {"model": "toy", "folds": [{"model": "a", "fold": 0, "accuracy": 0.5}]},
        {"model": "toy", "folds": [{"accuracy": 0.5}]},
        {"model": "toy"},
    ],
)
def test_what_is_not_the_folds_of_one_model_has_no_child_runs(home, result):
    run = runs.start_run("03_toy", PARAMS)
    run.log({"metrics": {}, **result})
    assert children(run) == {}


def test_a_fold_that_a_killed_process_left_open_is_closed_with_its_run(home):
    run = runs.start_run("03_toy", PARAMS)
    client().create_run(run.experiment_id, run_name="left", tags={runs.PARENT: run.mlflow_run_id})
    runs.close_run(run.mlflow_run_id, "KILLED")
    assert children(run)["left"].info.status == "KILLED"


def test_what_a_step_left_is_found_by_the_next_one_for_the_same_dataset_only(home):
    first = runs.start_run("05_toy", PARAMS)
    (kept := first.path("folds", "transformer")).mkdir()
    assert first.upstream_path("folds", "05_toy", "transformer") is None  # not recorded yet
    first.log({"metrics": {}})
    later = runs.start_run("07_toy", PARAMS)
    assert later.upstream_path("folds", "05_toy", "transformer") == kept
    other = runs.start_run("07_toy", {**PARAMS, "DATASET": "other@1.0.0"})
    assert other.upstream_path("folds", "05_toy", "transformer") is None
