"""The command line as a whole process or through typer's runner."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nivesh_lib import __version__
from nivesh_lib.cli.app import _print_summary, app
from nivesh_lib.models.base import get_model
from nivesh_lib.records.run import RunRecord
from nivesh_lib.runs.layout import RunDirectory
from tests.runs.examples import result

X = ["save tax now", "tax refund", "pay rent", "rent is high"]
Y = ["tax", "tax", "rent", "rent"]


@pytest.fixture
def model(tmp_path):
    return get_model("tfidf").fit(X, Y).save(tmp_path / "model")


def run_process(*arguments):
    command = [sys.executable, "-m", "nivesh_lib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"nivesh {__version__}\n"


def test_predict_answers_each_text_in_json_lines(model):
    done = CliRunner().invoke(app, ["predict", "tax?", "rent?", "--model", str(model), "--json"])
    answers = [json.loads(line) for line in done.output.splitlines()]
    assert [a["intent"] for a in answers] == ["tax", "rent"]
    assert set(answers[0]) == {"intent", "confidence", "alternatives"}


def test_an_error_is_one_line_on_stderr_and_exit_code_1(tmp_path):
    done = run_process("predict", "tax?", "--model", tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_without_a_run_predict_says_how_to_get_a_model(tmp_path, monkeypatch, run):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    done = run("predict", "tax?")
    assert done.returncode == 1 and "`nivesh run`" in done.stderr


@pytest.mark.parametrize("text", ["[]", '"text"', '{"model": "tfidf", "metrics": []}', "{"])
def test_predict_names_the_results_that_it_cannot_read(tmp_path, monkeypatch, run, text):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    latest = tmp_path / "reports" / "latest"
    (latest / "results").mkdir(parents=True)
    (latest / "models" / "03_tfidf").mkdir(parents=True)
    (latest / "results" / "03_tfidf.json").write_text(text)
    done = run("predict", "tax?")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "03_tfidf.json" in done.stderr and "`nivesh run --force`" in done.stderr


@pytest.mark.parametrize("arguments", [["predict"], ["run", "--nonsense"], ["data", "add", "x"]])
def test_wrong_usage_is_exit_code_2(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_wrong_objective_is_refused_before_anything_starts(tmp_path, monkeypatch, run):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    (tmp_path / "data" / "mine").mkdir(parents=True)
    text = '[intent_classifier.marks]\n03_tfidf = "good"'
    (tmp_path / "data" / "mine" / "objectives.toml").write_text(text)
    done = run("run", "--dataset", "mine@1.0.0")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "mine/objectives.toml" in done.stderr and "03_tfidf = 'good'" in done.stderr


def test_a_home_without_a_pipeline_is_named(tmp_path, monkeypatch, run):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    done = run("run")
    assert done.returncode == 1 and "pipeline.toml" in done.stderr


def test_the_example_answer_is_computed_once_and_kept_in_the_record(home, monkeypatch, capsys):
    fields = {"status": "done", "profile": "default", "dataset": {"ref": "intents@1.1.0"}}
    fields |= {"started": "", "git": {}, "environment": {}, "seconds": 1.0, "complete": False}
    fields["steps"] = {"03_tfidf": {"status": "done", "key": "same"}}
    runs = [RunDirectory(home / "reports" / "runs" / name) for name in ("one", "two")]
    for run in runs:
        get_model("tfidf").fit(X, Y).save(run.model("03_tfidf"))
        run.write_result("03_tfidf", result("tfidf", 0.8, step="03_tfidf"))
        run.write_record(RunRecord.model_validate(fields | {"run": run.name}))
    shown = []
    for run in (runs[0], runs[0], runs[1]):  # the same model, linked into the second run
        _print_summary(run, run.record())
        shown.append(capsys.readouterr().out.replace(run.name, "RUN"))
        monkeypatch.setattr("nivesh_lib.serving.predictor.load_model", None)
    assert len(set(shown)) == 1 and "(else " in shown[0]
