"""``nivesh drift``: exit codes, what it compares, and what it says where it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.evaluation.resampling.cross_validation import cross_validate
from nivesh_lib.models.text.tfidf import TfidfClassifier
from nivesh_lib.runs.layout import RunDirectory

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def rows(make_rows):
    return make_rows(300, seed=9)


@pytest.fixture
def trained(home, make_rows):
    """A run whose model was trained on a dataset, with its answers out of fold."""
    publish(make_rows(300), "mine", "1.0.0", description="")
    data, run, model = load_dataset("mine@1.0.0"), RunDirectory(home / "run"), TfidfClassifier()
    oof = cross_validate(model, data.train, labels=sorted(set(data.train["intent"]))).oof
    run.write_table("oof", "03_tfidf", oof)
    model.fit(data.train["query"], data.train["intent"])
    model.save(run.model("03_tfidf"), data="mine@1.0.0")
    return run


def file(home, name, frame):
    frame.to_csv(home / name, index=False)
    return home / name


def asked(run, *arguments):
    done = run("drift", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def aspects(found):
    return {cell["test"] for cell in found["cells"]}


def test_without_a_model_the_input_alone_is_compared(home, rows, run):
    before, now = file(home, "a.csv", rows[:200]), file(home, "b.csv", rows[200:][["query"]])
    done = run("drift", "--reference", before, "--current", now)
    assert done.returncode == 0 and done.stdout.startswith("No drift is shown between 100 new")
    assert "There is no model yet" in done.stdout and "told by Hindi words" in done.stdout


def test_longer_queries_are_drift_and_the_exit_code_says_so(home, rows, run):
    longer = rows[200:].assign(query=rows["query"] + " and more of it")
    before, now = file(home, "a.csv", rows[:200]), file(home, "b.csv", longer)
    code, found = asked(run, "--reference", before, "--current", now)
    assert (code, found["drift"], found["verdict"]) == (3, True, "not met")
    assert found["cells"][0]["test"] == "length" and found["rows"] == {"before": 200, "now": 100}
    assert aspects(found) == {"label", "length"}  # no word of either side is Hindi


def test_the_training_data_are_answered_out_of_fold(trained, home, rows, run):
    model, now = trained.model("03_tfidf"), file(home, "b.csv", rows)
    call = ["--reference", "mine@1.0.0", "--current", now, "--model", model]
    code, found = asked(run, *call)
    assert code == 0 and {"probabilities", "predicted"} <= aspects(found)
    assert any("models of the folds answer" in one for one in found["caveats"])
    shutil.rmtree(trained.path / "oof")
    code, found = asked(run, *call)
    assert code == 0 and aspects(found) == {"label"}  # all queries have six words
    assert any("Its answers are not compared" in one for one in found["caveats"])


def test_rows_that_the_model_was_trained_on_are_left_out_of_both_sides(trained, home, rows, run):
    seen = load_dataset("mine@1.0.0").train[["query", "intent"]]
    before = file(home, "a.csv", pd.concat([seen[:50], rows[:200]]))
    now = file(home, "b.csv", pd.concat([seen[50:60], rows[200:]]))
    model = trained.model("03_tfidf")
    _, found = asked(run, "--reference", before, "--current", now, "--model", model)
    assert found["rows"] == {"before": 200, "now": 100} and "probabilities" in aspects(found)
    assert "Left out of both sides: 60 rows that the model was trained on." in found["caveats"]


def test_a_batch_chosen_for_being_hard_is_not_judged(home, rows, run):
    hard = rows[200:].assign(query=rows["query"] + " and more of it", selection="hard")
    before, now = file(home, "a.csv", rows[:200]), file(home, "b.csv", hard)
    code, found = asked(run, "--reference", before, "--current", now)
    assert (code, found["drift"], found["verdict"]) == (0, False, "")
    assert found["claim"].startswith("A difference is shown between 100 queries chosen for being")
    mixed = file(home, "c.csv", pd.concat([hard, rows[100:140]]))
    code, found = asked(run, "--reference", before, "--current", mixed)
    assert (
        found["rows"]["now"] == 40
        and "Left out of --current: 100 rows chosen" in found["caveats"][0]
    )


def test_the_page_is_written_below_the_verdict(home, rows, run):
    before, now = file(home, "a.csv", rows[:200]), home / "b.txt"
    now.write_text("\n".join(rows["query"][200:]))
    done = run("drift", "--reference", before, "--current", now, "--page", home / "p.html")
    assert done.returncode == 0 and f"Evidently's page: {home / 'p.html'}" in done.stdout
    assert done.stdout.splitlines()[0] in (home / "p.html").read_text(encoding="utf-8")


def test_without_a_page_evidently_is_not_imported(home, rows):
    before, now = file(home, "a.csv", rows[:200]), file(home, "b.csv", rows[200:])
    code = (
        "import sys; from nivesh_lib.cli.app import app\n"
        f"try: app(['drift', '--reference', {str(before)!r}, '--current', {str(now)!r}])\n"
        "except SystemExit as end: print(end.code, {'evidently', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text\nsave\ntax\n", "has no column 'query'; it has text"),
        ("", "has no column 'query'; it has none"),
        ("query\n", "has no rows"),
        ("query\nsave tax\n", "has one row"),
        (None, "does not exist"),
        ("same", "holds the very queries of"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_message(home, rows, run, content, said):
    before, now = file(home, "a.csv", rows), home / "b.csv"
    if content == "same":
        file(home, "b.csv", rows[::-1])
    elif content is not None:
        now.write_text(content)
    done = run("drift", "--reference", before, "--current", now)
    assert done.returncode == 1 and said in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_broken_model_is_an_error_and_not_taken_for_none(trained, home, rows, run):
    before, now = file(home, "a.csv", rows[:200]), file(home, "b.csv", rows[200:])
    (trained.model("03_tfidf") / "vocabulary.json").unlink()
    model = trained.model("03_tfidf")
    done = run("drift", "--reference", before, "--current", now, "--model", model)
    assert done.returncode == 1 and "vocabulary.json is missing" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--reference", "a.csv"], ["--current", "a.csv"]])
def test_both_sides_have_to_be_named(run, arguments):
    assert run("drift", *arguments).returncode == 2


def test_a_published_file_is_no_side(trained, home, run):
    now = next(home.glob("data/mine/v1.0.0/mine.json"))
    done = run("drift", "--reference", "mine@1.0.0", "--current", now)
    assert done.returncode == 1 and "held-out rows included" in done.stderr
