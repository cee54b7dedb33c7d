from __future__ import annotations

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
