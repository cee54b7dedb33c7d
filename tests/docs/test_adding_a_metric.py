"""docs/adding_a_metric.md, followed to the letter with its own code."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from typer.testing import CliRunner

from nivesh_lib.cli.app import app
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.evaluation import scores
from nivesh_lib.evaluation.resampling.cross_validation import cross_validate
from nivesh_lib.evaluation.summary import headline_scores, result_of
from nivesh_lib.models.base import get_model
from nivesh_lib.notebook.session import start_run
from nivesh_lib.runs.leaderboard import leaderboard, score_names
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "adding_a_metric.md").read_text(encoding="utf-8")
LATENCY = {"p50_ms": 1.0, "p95_ms": 2.0, "n": 10, "threads": 1}


@pytest.fixture
def metric(monkeypatch):
    """The page's metric, registered."""
    function, entry = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names = {"np": np, "Metric": scores.Metric}
    exec(function + f"made = ({entry.strip()})", names)
    (made,) = names["made"]
    monkeypatch.setitem(scores.METRICS, made.name, made)
    return made


@pytest.fixture
def home(tmp_path, monkeypatch):
    shutil.copytree(REPOSITORY / "tests" / "frozen" / "home", tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    return tmp_path


def test_a_model_s_result_and_the_leaderboard_have_it(metric, home, store):
    data = load_dataset("toy@1.0.0")
    cv = cross_validate(get_model("rules"), data.train, labels=data.labels)
    found = headline_scores(data.train, cv, n_boot=50)
    result = result_of(
        "rules", "02_toy", data.train, cv,
        dataset=data.ref, labels=data.labels, scores=found, latency=LATENCY, size_bytes=1,
    )  # fmt: skip
    run = start_run("02_toy", {"DATASET": data.ref})
    run.log(result, dataset=data, oof=cv.oof)
    (entry,) = leaderboard(run.directory.results())
    rows = scores.headline_mask(data.train)
    expected = balanced_accuracy_score(data.train["intent"][rows], cv.predicted[rows])
    assert entry.scores[metric.name].value == pytest.approx(expected)
    assert score_names([entry.scores]) == ["macro_f1", "accuracy", metric.name]
    assert f"{metric.name}_fold_mean" in run.directory.results()["02_toy"].metrics


def test_nivesh_compare_shows_it_and_ranks_by_it(metric, home):
    plain = CliRunner().invoke(app, ["compare", "20260125-101500", "--metric", metric.name])
    assert plain.exit_code == 0 and "balanced accuracy [95 %]" in plain.output
    printed = CliRunner().invoke(app, ["compare", "20260125-101500", "--json"])
    assert metric.name in json.loads(printed.output)["models"][0]
