from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nivesh_lib.errors import SpecError
from nivesh_lib.models.base import get_model
from nivesh_lib.pipeline.pruning import prune
from nivesh_lib.records.run import FinishedStep
from nivesh_lib.runs.directories import all_runs, point_latest
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.tracking.logger import RunLogger, open_logger
from nivesh_lib.tracking.store import client


def make_run(
    home: Path, name: str, *, weight: str = "rent", mode: str = "pipeline"
) -> RunDirectory:
    """Leave a run of one step with a logged model and one fold, as the pipeline does."""
    run = RunDirectory(home / "reports" / "runs" / name)
    logger = open_logger("03_toy", {}, experiment="toy", mode=mode, run=name)
    model = get_model("rules").fit(["save tax", f"pay {weight}"], ["tax", "rent"])
    logger.log_model("03_toy", model.save(run.model("03_toy")))
    add_step(run, logger)
    return run


def add_step(run: RunDirectory, logger: RunLogger) -> None:
    files = {str(path.relative_to(run.path)): "" for path in run.files_of("03_toy")}
    known = {"status": "done", "key": "", "parameters": {}, "cells": 1, "seconds": 1.0}
    record = known | {"ingredients": {}, "files": files, "mlflow_run_id": logger.run_id}
    run.write_finished("03_toy", FinishedStep.model_validate(record))


def artifacts(home: Path) -> set[str]:
    """Return the ids of MLflow runs and models of which there are files."""
    root = home / "mlruns" / "artifacts"
    found = [*root.glob("*/*/artifacts"), *root.glob("*/models/*/artifacts")]
    return {path.parent.name for path in found}


def active(home: Path) -> set[str]:
    store = client()
    experiments = [e.experiment_id for e in store.search_experiments()]
    return {run.info.run_id for run in store.search_runs(experiments)}


def run_id(run: RunDirectory) -> str:
    (only,) = run.mlflow_run_ids()
    return only


@pytest.fixture
def three(home, store):
    """Three runs; the last one is the last good one."""
    runs = [make_run(home, f"2026010{n}-000000", weight=f"rent {n}") for n in (1, 2, 3)]
    point_latest(runs[-1])
    return runs


def model_ids(id_: str) -> set[str]:
    return {output.model_id for output in client().get_run(id_).outputs.model_outputs}


def test_what_mlflow_keeps_of_a_run_goes_with_it_and_what_was_freed_is_told(home, three):
    ids = [run_id(run) for run in three]
    models = [model_ids(one) for one in ids]
    before = disk_bytes(home)
    pruned = prune(1)
    assert pruned.runs == [three[1].name, three[0].name]
    assert active(home) == {ids[2]} and artifacts(home) == {ids[2], *models[2]}
    assert client().get_run(ids[0]).info.lifecycle_stage == "deleted"
    assert pruned.bytes == before - disk_bytes(home) > 1000
    assert prune(1).runs == [] and prune(1).bytes == 0


def disk_bytes(home: Path) -> int:
    files = [path for part in ("reports", "mlruns/artifacts") for path in (home / part).rglob("*")]
    states = {path.stat().st_ino: path.stat().st_size for path in files if path.is_file()}
    return sum(states.values())


def test_what_a_kept_run_took_from_the_pruned_one_stays_until_it_goes_too(home, three):
    first, _, last = three
    shared = run_id(first)
    shutil.rmtree(last.path)
    last.path.mkdir()
    last.link_step(
        "03_toy", first, [str(p.relative_to(first.path)) for p in first.files_of("03_toy")]
    )
    freed = prune(1).bytes
    assert shared in artifacts(home) and shared in active(home)
    assert last.model("03_toy").joinpath("rules.json").is_file() and freed > 0
    make_run(home, "20260104-000000")
    point_latest(all_runs()[-1])
    assert prune(1).runs == [last.name]
    assert shared not in artifacts(home) | active(home)


def test_registered_models_and_runs_of_other_modes_stay(home, three):
    interactive = make_run(home, "20250101-000000", mode="interactive")
    shutil.rmtree(interactive.path)
    registered = run_id(three[0])
    (model,) = model_ids(registered)
    client().create_registered_model("intent")
    client().create_model_version("intent", f"models:/{model}", registered, model_id=model)
    assert three[0].name in prune(1).runs
    assert {registered, model} <= artifacts(home) and registered in active(home)
    assert run_id(three[1 + 1]) in active(home) and len(active(home)) == 3


def test_a_removal_that_was_killed_is_finished_the_next_time(home, three, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nivesh_lib.tracking.removal.RemovableRuns.remove", stop)
        with pytest.raises(KeyboardInterrupt):
            prune(1)
    assert [run.name for run in all_runs()] == [three[2].name]
    assert prune(1).runs == [three[1].name, three[0].name] and len(active(home)) == 1
    assert sorted(p.name for p in (home / "reports" / "runs").iterdir()) == [three[2].name]


def test_nothing_of_a_tracking_server_is_removed_or_asked(home, three, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert len(prune(1).runs) == 2


def test_fewer_than_one_run_cannot_be_kept(home):
    with pytest.raises(SpecError, match="keep at least 1"):
        prune(0)
