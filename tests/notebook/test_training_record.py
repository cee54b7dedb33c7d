"""What the platform's guide asks to be logged about a training, read back from MLflow."""

from __future__ import annotations

import mlflow
import pytest

from nivesh_lib.data.versions import load_dataset
from nivesh_lib.models.base import get_model
from nivesh_lib.notebook.evaluated import Evaluated
from nivesh_lib.notebook.session import start_run
from nivesh_lib.reproducibility import git_state
from nivesh_lib.tracking.store import tracking_uri
from tests.notebook.test_session import PARAMS, home  # noqa: F401 (a fixture)

DATA = {"data.num_labels", "data.train_size", "data.val_size", "data.test_size"}
SYSTEM = {"system.gpu", "system.memory_gb", "system.python_version", "system.pytorch_version"}
TRAINING = {"training.train_time_seconds", "training.train_processor_seconds"}
TRANSFORMER = {
    f"model.{name}"
    for name in ("backbone", "learning_rate", "batch_size", "epochs", "weight_decay", "max_length")
} | {"architecture.optimizer", "architecture.n_parameters"}
TAGS = {"stage", "developer"}


@pytest.fixture
def logged(home, monkeypatch):  # noqa: F811
    monkeypatch.setenv("NIVESH_CPU_HOUR_COST", "3600")
    run = start_run("03_toy", **PARAMS, N_TIMED=5)
    data = run.load("toy@1.0.0")
    run.finish(run.evaluate(get_model("tfidf", C=2.0), data))
    return mlflow.MlflowClient(tracking_uri()).get_run(run.logger.run_id).data


def test_every_run_names_data_machine_and_developer(logged):
    assert set(logged.params) >= DATA | SYSTEM | TRAINING and set(logged.tags) >= TAGS
    assert logged.tags["stage"] == "experimental"
    assert logged.tags.get("git_commit", "") == git_state()["commit"]  # this home has no git
    rows = len(load_dataset("toy@1.0.0").train)
    assert (logged.params["data.num_labels"], logged.params["data.train_size"]) == ("2", str(rows))


def test_the_hyper_parameters_of_the_model_are_logged(logged):
    assert logged.params["model.C"] == "2.0" and logged.params["model.class"] == "TfidfClassifier"
    assert int(logged.params["architecture.n_parameters"]) > 0


def test_training_costs_what_a_processor_hour_does(logged):
    seconds = float(logged.params["training.train_processor_seconds"])
    assert float(logged.params["training.train_cost"]) == pytest.approx(seconds)


@pytest.mark.parametrize("rate", ["much", "-1", "inf"])
def test_a_rate_that_is_no_number_is_refused(monkeypatch, rate):
    from nivesh_lib.reproducibility import money_for

    monkeypatch.setenv("NIVESH_CPU_HOUR_COST", rate)
    with pytest.raises(ValueError, match="NIVESH_CPU_HOUR_COST"):
        money_for(1.0)


def test_a_transformer_s_training_is_described(monkeypatch):
    model = get_model("transformer")
    monkeypatch.setattr(type(model), "architecture", lambda _: {"optimizer": 0, "n_parameters": 0})
    described = Evaluated.training(
        type("Made", (), {"name": "t", "model": model, "processor_seconds": 1.0, "cv": CV})()
    )
    flat = {f"{part}.{name}" for part, fields in described.items() for name in fields}
    assert flat >= TRANSFORMER


class CV:
    fit_seconds = (1.0,)
