"""``nivesh compare``; what it counts is in tests/evaluation/test_comparison.py."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nivesh_lib.cli.app import app
from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.scores import METRICS, Metric
from tests.runs.examples import contents

LABELS = ["loan", "rent", "tax"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A home with the dataset mine@1.0.0."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    words = np.random.default_rng(0).integers(0, 10**9, (150, 3))
    rows = pd.DataFrame(
        {
            "query": [" ".join(f"{number:x}" for number in row) for row in words],
            "intent": [LABELS[n % 3] for n in range(150)],
        }
    )
    publish(rows, name="mine", version="1.0.0", description="a test", licence="CC0-1.0")
    return load_dataset("mine@1.0.0")


@pytest.fixture
def add_run(tmp_path, data):
    """Return a function that leaves a run with models of given shares of right answers."""

    def add(name, models, *, ref="mine@1.0.0", sha256=data.version.sha256, seed=0):
        folder = tmp_path / "reports" / "runs" / name
        (folder / "oof").mkdir(parents=True)
        (folder / "results").mkdir()
        record = {
            "run": name, "status": "done", "profile": "default", "started": "2026-01-25",
            "dataset": {"ref": ref, "sha256": sha256, "rows": 150}, "steps": {}, "git": {},
            "environment": {}, "mlflow_uri": "", "seconds": 1.0, "complete": True,
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(record))
        for step, (model, share) in models.items():
            (folder / "results" / f"{step}.json").write_text(json.dumps(contents(model, 0.5)))
            oof = out_of_fold(data.train, share, seed)
            oof.to_parquet(folder / "oof" / f"{step}.parquet", index=False)
        return folder

    return add


def out_of_fold(train, share, seed):
    """Probabilities that are right for a share of the rows, in another order than the rows."""
    rng = np.random.default_rng(seed)
    true = train["intent"].map(LABELS.index).to_numpy()
    said = np.where(rng.random(len(true)) < share, true, (true + 1) % 3)
    table = pd.DataFrame(np.eye(3)[said] * 0.7 + 0.1, columns=LABELS)
    return pd.concat([train[["id", "fold"]], table], axis=1).sample(frac=1, random_state=1)


def compare(*arguments):
    return CliRunner().invoke(
        app, ["compare", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "200"}
    )


def compared(*arguments):
    return json.loads(compare(*arguments, "--json").output)


def test_models_are_ranked_and_those_alike_share_a_rank(add_run):
    add_run("one", {"02_a": ("rules", 0.4), "03_b": ("tfidf", 0.9), "05_c.d": ("embedding", 0.88)})
    lines = compare("one").output.splitlines()
    assert lines[0] == "120 natural rows of mine@1.0.0, out of fold, by macro-F1"
    assert [line.split()[:2] for line in lines[3:6]] == [
        ["1=", "tfidf"],
        ["1=", "embedding"],
        ["3", "rules"],
    ]
    assert [line.split()[:2] for line in lines[8:10]] == [
        ["tfidf", "embedding"],
        ["embedding", "rules"],
    ]
    assert lines[9].endswith("<0.001")
    assert "tfidf cannot be told from embedding" in lines[11] and "3 pairs" in lines[12]


def test_without_a_run_the_last_one_is_read(tmp_path, add_run):
    folder = add_run("one", {"03_b": ("tfidf", 0.9)})
    (tmp_path / "reports" / "latest").symlink_to(folder)
    assert compare().output == compare("one").output == compare("latest", folder).output


def test_json_has_scores_differences_and_where_each_model_is_from(add_run, data):
    add_run("one", {"02_a": ("rules", 0.4), "03_b": ("tfidf", 0.9)})
    found = compared("one", "--metric", "accuracy")
    rules = found["models"][1]
    oof = out_of_fold(data.train, 0.4, 0).set_index("id").loc[data.train["id"], LABELS]
    right = (oof.idxmax(axis=1).to_numpy() == data.train["intent"].to_numpy()).mean()
    assert rules["accuracy"]["value"] == pytest.approx(right)
    assert rules["to_champion"]["other"] == "tfidf" and rules["to_champion"]["p_corrected"] < 0.001
    assert found["sources"]["rules"] == {"model": "rules", "run": "one", "step": "02_a"}


def test_models_of_several_runs_are_told_apart_by_run(add_run):
    add_run("one", {"02_a": ("rules", 0.4), "03_b": ("tfidf", 0.9)})
    add_run("two", {"03_b": ("tfidf", 0.9), "04_c": ("lstm", 0.6)}, seed=5)
    names = {row["model"] for row in compared("one", "two")["models"]}
    assert names == {"rules", "tfidf (one)", "tfidf (two)", "lstm"}


def test_two_models_of_one_name_in_a_run_are_told_apart_by_step(add_run):
    add_run("one", {"03_b": ("tfidf", 0.9), "06_c": ("tfidf", 0.7)})
    names = {row["model"] for row in compared("one")["models"]}
    assert names == {"tfidf (one, 03_b)", "tfidf (one, 06_c)"}


def test_a_model_that_did_not_change_between_runs_is_listed_once(add_run):
    for name in ("one", "two"):
        add_run(name, {"03_b": ("tfidf", 0.9)})
    found = compared("one", "two")
    assert [row["model"] for row in found["models"]] == ["tfidf"]
    assert found["repeated"] == [
        "tfidf (03_b) gave the same answers in two as in one: listed once."
    ]


def test_a_named_champion_is_the_one_compared_with(add_run):
    add_run("one", {"02_a": ("rules", 0.4), "03_b": ("tfidf", 0.9)})
    assert compared("one", "--champion", "rules")["models"][0]["to_champion"]["other"] == "rules"


def test_runs_of_different_datasets_are_refused_with_both_names(add_run):
    add_run("one", {"03_b": ("tfidf", 0.9)})
    add_run("two", {"03_b": ("tfidf", 0.9)}, ref="mine@2.0.0")
    with pytest.raises(DataError, match=r"one on mine@1\.0\.0, two on mine@2\.0\.0.*--dataset"):
        compare("one", "two")


def test_a_run_on_rows_that_were_replaced_is_refused(add_run):
    add_run("one", {"03_b": ("tfidf", 0.9)}, sha256="0" * 64)
    with pytest.raises(DataError, match=r"one was made on other rows of mine@1\.0\.0"):
        compare("one")


def test_a_table_that_lacks_rows_is_named(add_run, data):
    folder = add_run("one", {"03_b": ("tfidf", 0.9)})
    path = folder / "oof" / "03_b.parquet"
    out_of_fold(data.train, 0.9, 0).iloc[1:].to_parquet(path)
    with pytest.raises(DataError, match=r"03_b\.parquet: does not hold id, fold"):
        compare("one")
    path.write_text("no parquet")
    with pytest.raises(DataError, match=r"03_b\.parquet: does not hold id, fold"):
        compare("one")


def test_results_that_cannot_be_read_are_named(add_run):
    folder = add_run("one", {"03_b": ("tfidf", 0.9)})
    (folder / "results" / "03_b.json").write_text("{")
    with pytest.raises(DataError, match=r"03_b\.json: not the results of a step"):
        compare("one")


def test_a_run_without_models_says_how_to_get_some(add_run):
    add_run("one", {})
    with pytest.raises(DataError, match=r"no model with out-of-fold results.*`nivesh run`"):
        compare("one")


def test_what_is_no_run_is_named_on_one_line_with_exit_code_1(data, tmp_path, run):
    (tmp_path / "reports" / "runs" / "half").mkdir(parents=True)
    for arguments, said in (([], "no run ended well"), (["x"], "x is no run"), (["half"], "half")):
        done = run("compare", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert said in done.stderr and "`nivesh run" in done.stderr


@pytest.mark.parametrize("arguments", [["--metric", "f1"], ["--champion", "lstm"], ["--what"]])
def test_wrong_usage_is_exit_code_2(add_run, arguments):
    add_run("one", {"03_b": ("tfidf", 0.9)})
    done = compare("one", *arguments)
    assert done.exit_code == 2 and "Error" in done.output


def test_help_has_an_example():
    assert "Example: nivesh compare" in compare("--help").output


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.drop(columns="tax"),
        lambda t: t.rename(columns={"tax": "zzz"}),
        lambda t: t.assign(extra=0.0),
        lambda t: t.assign(tax=np.nan),
        lambda t: t.assign(tax=t["tax"] + 0.5),
        lambda t: t.assign(loan=-t["loan"]),
        lambda t: t.assign(fold=t["fold"] + 1),
        lambda t: t.iloc[1:],
    ],
)
def test_a_damaged_table_is_refused_and_not_compared(add_run, damage):
    folder = add_run("one", {"02_a": ("rules", 0.5), "03_b": ("tfidf", 0.8)})
    path = folder / "oof" / "03_b.parquet"
    damage(pd.read_parquet(path)).to_parquet(path, index=False)
    with pytest.raises(DataError, match=r"03_b\.parquet: does not hold id, fold and a prob"):
        compare("one")


def test_a_model_without_its_table_is_not_passed_over(add_run):
    folder = add_run("one", {"02_a": ("rules", 0.5), "03_b": ("tfidf", 0.8)})
    (folder / "oof" / "03_b.parquet").unlink()
    with pytest.raises(DataError, match=r"03_b\.parquet: does not hold"):
        compare("one")


def test_a_metric_of_the_registry_is_a_column_and_can_rank(add_run, monkeypatch):
    share_of_first = Metric("first", "recall of loan", lambda n: n[:, 0, 0] / n[:, 0].sum(axis=-1))
    monkeypatch.setitem(METRICS, "first", share_of_first)
    add_run("one", {"02_a": ("rules", 0.4), "03_b": ("tfidf", 0.9)})
    lines = compare("one", "--metric", "first").output.splitlines()
    assert lines[0].endswith("by recall of loan") and "recall of loan [95 %]" in lines[2]
    assert compared("one")["models"][0]["first"]["n"] == 120
