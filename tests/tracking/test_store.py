from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from nivesh_lib.errors import NiveshError
from nivesh_lib.tracking.store import (
    TREE,
    check_store,
    client,
    create_experiment,
    prepare_store,
)


def test_the_store_is_made_once_with_write_ahead_log(tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = prepare_store()
    database = tmp_path / "mlruns" / "mlflow.db"
    assert uri == f"sqlite:///{database}"
    with sqlite3.connect(database) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()
    before = database.stat().st_ino
    prepare_store()
    assert database.stat().st_ino == before


def test_another_tracking_server_is_taken_as_it_is(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert prepare_store() == "http://127.0.0.1:9"


def test_experiments_are_leaves_of_the_tree_and_made_once(store):
    first = create_experiment("baseline_experiments")
    assert create_experiment("baseline_experiments") == first
    assert client().get_experiment(first).name == f"{TREE}/baseline_experiments"


# Any two can meet, whatever their number; four meet at more places.
@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_may_open_a_fresh_store_at_once(tmp_path, monkeypatch, n):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/fresh/mlflow.db")
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    code = "from nivesh_lib.tracking.store import create_experiment; create_experiment('x')"
    processes = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.DEVNULL)
        for _ in range(n)
    ]
    assert [p.wait(timeout=120) for p in processes] == [0] * n


def test_an_unreachable_store_gives_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_text("this is no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(NiveshError, match="cannot be opened"):
        check_store()


def test_a_server_that_does_not_answer_is_reported_at_once(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:s3cret@127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(NiveshError, match=r"team:\*\*\*@127\.0\.0\.1:9: cannot be opened") as told:
        check_store()
    assert "s3cret" not in str(told.value)
    assert time.monotonic() - started < 20


@pytest.fixture
def copied(store, tmp_path, monkeypatch):
    """A project's store with one run and its artifact, and a copy of both that is in use."""
    experiment = create_experiment("toy")
    run = client().create_run(experiment).info.run_id
    client().log_text(run, "of the original", "note.txt")
    shutil.copytree(tmp_path / "mlruns", tmp_path / "copy of it")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/copy of it/mlflow.db")
    return tmp_path / "mlruns", tmp_path / "copy of it", run


def contents(folder):
    return {p: p.read_bytes() for p in (folder / "artifacts").rglob("*") if p.is_file()}


def test_the_copy_of_a_project_keeps_its_artifacts_beside_its_own_database(copied, caplog):
    original, copy, run = copied
    before = contents(original)
    assert client().get_run(run).info.artifact_uri.startswith(f"{copy.as_uri()}/artifacts/")
    experiment = create_experiment("toy")
    new = client().create_run(experiment).info.run_id
    client().log_text(new, "new", "new.txt")
    assert contents(original) == before
    assert {path.name for path in contents(copy)} == {"note.txt", "new.txt"}
    assert caplog.text.count("the project was copied or moved") == 1
    assert str(original / "artifacts") in caplog.text


def test_a_project_reached_through_a_link_keeps_its_places(store, tmp_path, monkeypatch, caplog):
    before = client().get_experiment(create_experiment("toy")).artifact_location
    (tmp_path / "link").symlink_to(tmp_path / "mlruns")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/link/mlflow.db")
    (tmp_path / "mlruns" / "artifacts").mkdir(exist_ok=True)
    assert client().get_experiment(create_experiment("toy")).artifact_location == before
    assert caplog.text == ""


def test_places_that_others_chose_are_left(store, tmp_path, monkeypatch, caplog):
    chosen = [f"file://{tmp_path}/mine/artifacts/3", "s3://bucket/artifacts/nivesh_x"]
    for name, place in zip(("mine", "nivesh/x"), chosen, strict=True):
        client().create_experiment(name, artifact_location=place)
    prepare_store()
    found = [client().get_experiment_by_name(n).artifact_location for n in ("mine", "nivesh/x")]
    assert found == chosen and caplog.text == ""
