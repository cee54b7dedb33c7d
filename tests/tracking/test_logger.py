from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest

from nivesh_lib.tracking.logger import (
    PARENT,
    close_run,
    close_runs_of,
    log_model_metrics,
    log_model_params,
    open_logger,
)
from nivesh_lib.tracking.store import client, create_experiment, prepare_store


@pytest.fixture
def opened(store):
    """Return a function that opens the MLflow run of a notebook."""

    def open_(**params):
        return open_logger("03_tfidf", params, experiment="toy", mode="nbval", run="")

    return open_


def test_run_names_count_up_within_a_day(opened):
    names = [client().get_run(opened().run_id).info.run_name for _ in range(3)]
    assert [name.rsplit("_", 1)[1] for name in names] == ["v1", "v2", "v3"]
    assert names[0].startswith("intent_classifier_tfidf_2")


def test_parameters_are_anonymised_before_they_are_logged(opened):
    run = opened(EXAMPLE="write to asha@example.com", SECONDS=1.4000000000000028)
    logged = client().get_run(run.run_id).data.params
    assert logged["EXAMPLE"] == "write to [EMAIL]"
    assert logged["SECONDS"] == "1.4000000000000028"


def test_the_seed_s_functions_log_to_the_active_run(store):
    mlflow.set_tracking_uri(prepare_store())
    experiment = create_experiment("hyperparameter_tuning")
    with mlflow.start_run(experiment_id=experiment) as active:
        log_model_params({"learning_rate": 2e-5})
        log_model_metrics({"val_f1": 0.5, "note": "no number"})
    logged = client().get_run(active.info.run_id).data
    assert logged.params == {"learning_rate": "2e-05"} and logged.metrics == {"val_f1": 0.5}


def test_without_an_active_run_they_say_what_to_do(store):
    with pytest.raises(ValueError, match="pass run_id"):
        log_model_params({"a": 1})


def test_a_fold_that_a_killed_process_left_open_is_closed_with_its_run(opened):
    run = opened()
    tags = {PARENT: run.run_id}
    left = client().create_run(run.experiment_id, run_name="left", tags=tags).info.run_id
    close_run(run.run_id, "KILLED")
    assert client().get_run(left).info.status == "KILLED"


@pytest.mark.parametrize("noted", [True, False])
def test_what_mlflow_was_copying_when_a_run_was_killed_is_removed(store, noted):
    run = open_logger("03_tfidf", {}, experiment="toy", mode="pipeline", run="dead")
    folder = Path(client().get_run(run.run_id).info.artifact_uri.removeprefix("file://"))
    left = folder / "results" / ".artifact.uploading.vyi1blq1"
    left.parent.mkdir(parents=True)
    left.touch()
    close_run(run.run_id, "KILLED") if noted else close_runs_of("dead")
    assert not left.exists()


def test_a_dataset_that_another_process_logs_at_the_same_time_is_logged_by_both(
    opened, monkeypatch
):
    run, log_inputs, calls = opened(), mlflow.MlflowClient.log_inputs, []

    def too_late_once(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise mlflow.MlflowException("UNIQUE constraint failed: datasets.experiment_id")
        return log_inputs(*arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", too_late_once)
    version = SimpleNamespace(sha256="f" * 64, version="1.0.0")
    manifest = {"path": "toy.json", "holdout": []}
    train = pd.DataFrame({"id": ["a"], "query": ["b"]})
    run.log_dataset(
        SimpleNamespace(
            manifest=manifest,
            train=train,
            ref="toy@1.0.0",
            version=version,
            labels=["c"],
            n_folds=2,
        )
    )
    assert len(client().get_run(run.run_id).inputs.dataset_inputs) == 1
