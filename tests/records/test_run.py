from __future__ import annotations

import json

import pytest

from nivesh_lib.errors import DataError
from nivesh_lib.records.base import read_record
from nivesh_lib.records.run import FinishedStep, RunRecord
from tests.conftest import REPOSITORY

FINISHED = {
    "step": "03_x",
    "status": "done",
    "key": "k",
    "ingredients": {"library": "h"},
    "parameters": {"C": 1.0},
    "threads": 1,
    "mlflow_run_id": None,
    "cells": 3,
    "seconds": 1.5,
    "failure": None,
    "files": {"results/03_x.json": "h"},
}


def test_the_record_of_the_example_is_read_and_written_as_it_is():
    path = REPOSITORY / "reports" / "example" / "run.json"
    record = read_record(path, RunRecord, "a run")
    assert record.status == "done" and all(step.done for step in record.steps.values())
    assert record.as_dict() == json.loads(path.read_text())


def test_a_run_outside_git_may_have_no_commit(tmp_path):
    example = json.loads((REPOSITORY / "reports" / "example" / "run.json").read_text())
    path = tmp_path / "run.json"
    path.write_text(json.dumps(example | {"git": {"commit": None, "dirty": False}}))
    assert read_record(path, RunRecord, "a run").git.commit is None


def test_what_a_run_keeps_of_a_step_leaves_out_ingredients_and_files(tmp_path):
    path = tmp_path / "03_x.json"
    path.write_text(json.dumps(FINISHED))
    finished = read_record(path, FinishedStep, "a step")
    assert finished.as_dict() == FINISHED
    left_out = {"step", "ingredients", "files"}
    kept = {name: value for name, value in FINISHED.items() if name not in left_out}
    assert finished.summary().as_dict() == kept


@pytest.mark.parametrize(
    "wrong",
    [{"files": None}, {"files": {"a": 1}}, {"seconds": "1"}, {"cells": True}, {"status": 1}],
)
def test_a_record_with_a_wrong_field_is_refused(tmp_path, wrong):
    path = tmp_path / "03_x.json"
    path.write_text(json.dumps(FINISHED | wrong))
    with pytest.raises(DataError, match=next(iter(wrong))):
        read_record(path, FinishedStep, "a step")
