from __future__ import annotations

import os
import pickle
from pathlib import Path

import mlflow
import pytest

from nivesh_lib.errors import ModelError, NiveshError
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.tracking.logger import RunLogger
from nivesh_lib.tracking.models import fetch_model
from nivesh_lib.tracking.store import create_experiment, tracking_uri


class Logged:
    """A model in a store: its run, id, and the client that put it there."""

    def __init__(self, folder: Path) -> None:
        self.client = mlflow.MlflowClient(tracking_uri())
        experiment = create_experiment("toy")
        self.run = self.client.create_run(experiment).info.run_id
        model = get_model("rules").fit(["save tax", "pay rent"], ["tax", "rent"])
        RunLogger(self.run, experiment, {}).log_model("03_toy", model.save(folder / "model"))
        outputs = self.client.get_run(self.run).outputs
        self.id = outputs.model_outputs[0].model_id
        self.client.create_registered_model("intent")
        source = f"models:/{self.id}"
        self.client.create_model_version("intent", source, self.run, model_id=self.id)
        self.client.set_registered_model_alias("intent", "best", "1")


@pytest.fixture
def logged(tmp_path, store):
    return Logged(tmp_path)


def test_a_model_is_found_under_each_of_its_names(logged):
    names = ["models:/intent@best", "models:/intent/1", f"models:/{logged.id}"]
    for uri in [*names, f"runs:/{logged.run}/03_toy"]:
        assert load_model(fetch_model(uri)).predict(["my rent"]).tolist() == ["rent"], uri


def test_a_logged_model_shares_its_files_until_the_model_is_saved_again(logged, tmp_path):
    ours = tmp_path / "model" / "rules.json"
    (theirs,) = (tmp_path / "mlruns").rglob("rules.json")
    assert theirs.samefile(ours)
    before = theirs.read_text()
    get_model("rules").fit(["a b", "c d"], ["x", "y"]).save(tmp_path / "model")
    assert theirs.read_text() == before != ours.read_text()


def test_what_is_not_there_is_named_with_the_store(logged):
    absent = {
        "models:/intent@worst": "alias worst",
        "models:/other/1": "name=other",
        "models:/intent/2": "version=2",
        "models:/m-0": "'m-0' not found",
        f"runs:/{logged.run}/other": "'other'",
        "runs:/0/03_toy": "id=0",
        "models:/": "Not a proper models:/ URI",
    }
    for uri, why in absent.items():
        with pytest.raises(ModelError) as caught:
            fetch_model(uri)
        message = str(caught.value)
        assert message.startswith(f"{uri}: ") and why in message and "\n" not in message
        assert tracking_uri() in message


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["NIVESH_BOMB"],)


def test_a_model_of_others_is_refused_and_runs_nothing(logged, tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_BOMB", str(tmp_path / "exploded"))
    others = tmp_path / "others"
    others.mkdir()
    (others / "python_model.pkl").write_bytes(pickle.dumps(Bomb()))
    (others / "MLmodel").write_text("flavors:\n  python_function:\n    python_model: x.pkl\n")
    logged.client.log_artifacts(logged.run, str(others), "others")
    for number, path in enumerate(("..", "absent", str(tmp_path / "model"))):
        described = f"  python_function:\n    artifacts:\n      model:\n        path: {path}\n"
        (others / "MLmodel").write_text(f"flavors:\n{described}")
        logged.client.log_artifacts(logged.run, str(others), f"others{number}")
    for name in ("others", "others0", "others1", "others2"):
        with pytest.raises(ModelError, match="is no model of this workbench"):
            fetch_model(f"runs:/{logged.run}/{name}")
    assert not (tmp_path / "exploded").exists()


def test_a_copy_with_a_link_is_refused(logged, monkeypatch):
    download = mlflow.artifacts.download_artifacts

    def linked(**arguments):
        copied = Path(download(**arguments))
        (copied / "extra.json").symlink_to("/etc/hostname")
        return str(copied)

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", linked)
    with pytest.raises(ModelError, match=r"extra\.json: a link, which is refused"):
        fetch_model("models:/intent@best")


def test_the_store_is_only_read(logged, tmp_path):
    def files():
        return sorted(str(path) for path in (tmp_path / "mlruns" / "artifacts").rglob("*"))

    before = files()
    fetched = fetch_model("models:/intent@best")
    assert before and files() == before
    assert not fetched.is_relative_to(tmp_path / "mlruns")


def test_a_store_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(NiveshError, match=r"127\.0\.0\.1:9: cannot be opened"):
        fetch_model("models:/intent@best")
