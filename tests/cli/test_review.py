from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nivesh_lib.cli.app import data_app
from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset, resolve
from nivesh_lib.errors import NiveshError
from tests.runs.examples import contents

WORDS = ("alpha", "beta", "gamma", "delta", "kappa", "sigma", "omega", "theta")
LABELS = ("tax_planning", "loan_inquiry")
WRONG = 4  # training rows that the model is sure are labelled wrong


@pytest.fixture
def home(tmp_path, monkeypatch):
    """mine@1.0.0, and a last run in which two models were evaluated on it."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    rows = [
        {"query": f"{a} {b} {n} {a}{b}", "intent": LABELS[n % 2]}
        for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
    ]
    publish(pd.DataFrame(rows), "mine", "1.0.0", description="")
    train = load_dataset("mine").train
    sure = np.random.default_rng(0).uniform(0.85, 0.95, len(train))
    sure[:WRONG] = 0.96  # confident learning doubts what is surer than a label usually is
    right = np.where(
        train[["intent"]].to_numpy() == np.array(LABELS), sure[:, None], 1 - sure[:, None]
    )
    doubting = right.copy()
    doubting[:WRONG] = right[:WRONG, ::-1]
    plain = train[["id", "fold"]]
    steps = {
        step: (pd.concat([plain, pd.DataFrame(proba, columns=list(LABELS))], axis=1), f1)
        for step, proba, f1 in (("02_baseline", right, 0.5), ("03_tfidf", doubting, 0.9))
    }
    run = tmp_path / "reports" / "runs" / "one"
    for kind in ("results", "oof"):
        (run / kind).mkdir(parents=True)
    for step, (table, f1) in steps.items():
        result = contents(step[3:], f1, dataset="mine@1.0.0")
        (run / "results" / f"{step}.json").write_text(json.dumps(result))
        table.to_parquet(run / "oof" / f"{step}.parquet")
    (tmp_path / "reports" / "latest").symlink_to(run)
    return tmp_path


@pytest.fixture
def call(home):
    def run(*arguments):
        result = CliRunner().invoke(data_app, [str(argument) for argument in arguments])
        if isinstance(result.exception, NiveshError):
            return 1, f"error: {result.exception}"
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout if result.exit_code == 0 else result.output

    return run


@pytest.fixture
def file(home):
    return home / "reports" / "reviews" / "mine@1.0.0.csv"


def rewrite(path, change):
    with path.open(encoding="utf-8-sig", newline="") as source:
        rows = [row | change(n, row) for n, row in enumerate(csv.DictReader(source))]
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def decide(n, row):
    if n == WRONG - 1:
        return {"decision": "drop", "note": "unclear"}
    return {"decision": "relabel", "new_label": row["suggested"]}


def test_from_doubt_to_the_next_version(call, home, file):
    code, output = call("review", "--reviewer", "asha")
    assert (
        code == 0 and f"{WRONG} of {WRONG} rows of mine@1.0.0 whose label 03_tfidf doubts" in output
    )
    assert output.endswith(f"{file} --extends mine@1.0.0 --version 1.0.1\n")
    rewrite(file, decide)
    code, output = call(
        "add", "mine", "--review", file, "--extends", "mine@1.0.0", "--version", "1.0.1"
    )
    assert code == 0 and f"review of {WRONG} rows: {WRONG - 1} relabelled, 1 dropped" in output
    version, old = resolve("mine@1.0.1"), resolve("mine@1.0.0")
    assert (version.parent, version.rows, len(version.manifest["changes"])) == (
        "1.0.0",
        old.rows - 1,
        WRONG,
    )
    assert version.manifest["sources"] == old.manifest["sources"]
    assert version.manifest["description"] == "mine@1.0.0 as reviewed in mine@1.0.0.csv"
    facts = json.loads(call("diff", "mine@1.0.0", "mine@1.0.1", "--json")[1])
    assert (len(facts["relabelled"]), facts["removed"], facts["added"]) == (WRONG - 1, 1, 0)


def test_top_and_model_and_output_choose(call, home):
    code, output = call("review", "--top", "2", "--output", home / "a.csv", "--json")
    assert code == 0
    assert json.loads(output) == {
        "dataset": "mine@1.0.0", "model": "03_tfidf", "doubted": WRONG,
        "file": str(home / "a.csv"), "rows": 2,
    }  # fmt: skip
    code, output = call("review", "--model", "02_baseline", "--run", "one")
    assert (code, output) == (
        0,
        "mine@1.0.0: 02_baseline doubts no label; there is nothing to review\n",
    )


def test_a_file_that_may_hold_decisions_stays(call, file):
    call("review")
    rewrite(file, decide)
    before = file.read_bytes()
    code, output = call("review")
    assert code == 1 and "name another file with --output" in output
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "none"], "none is no run"),
        (["--model", "09"], "has no model '09'; it has 03_tfidf, 02_baseline"),
    ],
)
def test_a_run_or_model_that_is_not_there_is_answered_with_what_is(call, options, message):
    code, output = call("review", *options)
    assert code == 1 and message in output


def test_tables_that_are_missing_or_of_other_rows_are_named(call, home):
    path = home / "reports" / "latest" / "oof" / "03_tfidf.parquet"
    table = pd.read_parquet(path)
    table.iloc[1:].to_parquet(path)
    message = "03_tfidf.parquet: does not hold id, fold and a probability for each label"
    assert message in call("review")[1]
    path.write_bytes(b"")
    assert message in call("review")[1]
    path.unlink()
    assert message in call("review")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--review", "a.csv"], "--review needs --extends"),
        ([], "name a FILE of rows"),
        (
            ["--review", "a.csv", "--extends", "1.0.0", "--holdout", "b.csv"],
            "--holdout needs a FILE",
        ),
    ],
)
def test_a_wrong_call_has_code_2(call, arguments, message):
    code, output = call("add", "mine", "--version", "1.0.1", *arguments)
    assert code == 2 and message in " ".join(output.split())


def test_a_review_with_problems_publishes_nothing(call, file):
    call("review")
    code, output = call("add", "mine", "--review", file, "--extends", "1.0.0", "--version", "1.0.1")
    assert code == 1 and f"none of its {WRONG} rows is decided" in output
    rewrite(file, lambda n, row: {"decision": "drop"})  # without a reviewer
    code, output = call("add", "mine", "--review", file, "--extends", "1.0.0", "--version", "1.0.1")
    assert code == 1 and f"has {WRONG} problems" in output
    assert not list(file.parents[2].glob("data/mine/v1.0.1"))


def test_a_new_label_needs_the_labels_and_a_major_number(call, file):
    call("review", "--reviewer", "asha")
    rewrite(file, lambda n, row: {"decision": "relabel", "new_label": "gold"})
    add = ("add", "mine", "--review", file, "--extends", "mine@1.0.0", "--version")
    assert "'gold' is not in the labels" in call(*add, "2.0.0")[1]
    labels = ("--labels", "loan_inquiry,tax_planning,gold")
    assert "'gold' is new" in call(*add, "1.1.0", *labels)[1]
    assert call(*add, "2.0.0", *labels)[0] == 0
    assert resolve("mine@2.0.0").labels == ("loan_inquiry", "tax_planning", "gold")


def test_a_review_may_come_with_new_rows(call, home, file):
    call("review", "--reviewer", "asha")
    rewrite(file, decide)
    new = [{"query": f"{word} and something new {n}", "intent": LABELS[n % 2]}
           for n, word in enumerate(WORDS)]  # fmt: skip
    pd.DataFrame(new).to_csv(home / "new.csv", index=False)
    code, _ = call(
        "add",
        "mine",
        home / "new.csv",
        "--review",
        file,
        "--extends",
        "1.0.0",
        "--version",
        "1.1.0",
    )
    assert code == 0
    assert resolve("mine@1.1.0").rows == resolve("mine@1.0.0").rows + len(WORDS) - 1
    assert resolve("mine@1.1.0").manifest["sources"] == ["new.csv"]
