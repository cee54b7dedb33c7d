"""``nivesh release --evaluate-only`` on small datasets in a home of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nivesh_lib.cli import release as cli_release
from nivesh_lib.cli.app import app
from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import ChecksumError, DataError, HoldoutError, ModelError
from nivesh_lib.ledger import ledger_path, openings
from nivesh_lib.models.base import get_model
from nivesh_lib.releases import holdout_evaluation

pytestmark = pytest.mark.usefixtures("no_collection")
WORDS = {"tax": "save refund 80c deduction return", "rent": "flat pay landlord lease deposit"}
OBJECTIVES = """
[intent_classifier]
accuracy_target = 0.5
latency_target_ms = 10000
min_confidence = 0.7
[intent_classifier.marks]
03_tfidf = 0.99
"""


def rows(n, seed, **columns):
    """Return texts of two intents that a bag of words tells apart, none near another."""
    rng = np.random.default_rng(seed)
    intents = [list(WORDS)[i % 2] for i in range(n)]
    texts = []
    for intent in intents:
        others = (f"w{k}" for k in rng.integers(9999, size=6))
        texts.append(" ".join([*rng.choice(WORDS[intent].split(), 2), *others]))
    return pd.DataFrame({"query": texts, "intent": intents, **columns})


@pytest.fixture
def home(tmp_path, monkeypatch):
    """intents@1.0.0 with 100 rows, 20 of them held out; objectives that can be met."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    publish(rows(100, 0, language=["en", "hi"] * 50), "intents", "1.0.0", description="first")
    (tmp_path / "data" / "objectives.toml").write_text(OBJECTIVES)
    return tmp_path


def fitted(data="intents@1.0.0"):
    train = load_dataset(data).train
    return get_model("tfidf").fit(train["query"], train["intent"])


@pytest.fixture
def model(home):
    return fitted().save(home / "model", data="intents@1.0.0")


def release(*arguments, **options):
    command = ["release", "--evaluate-only", "--who", "asha", *map(str, arguments)]
    return CliRunner().invoke(app, command, **options)


def refused(*arguments):
    """Run it with errors let through; nothing may have been opened or written."""
    try:
        release(*arguments, "--yes", catch_exceptions=False)
    finally:
        assert openings() == []


def test_a_model_is_judged_and_everything_is_recorded(home, model):
    done = release("--model", model, "--yes", "--why", "candidate")
    assert done.exit_code == 0, done.output
    [opening] = openings()
    assert (opening.who, opening.why, opening.model, opening.rows) == (
        "asha", "candidate", "tfidf", 20,
    )  # fmt: skip
    assert opening.scores["accuracy"]["n"] == 20 and opening.scores["verdict"] == "met"
    assert "opened never before" in done.output and "every objective is met" in done.output


def test_the_record_has_scores_slices_and_openings_and_no_query(home, model):
    done = release("--model", model, "--yes")
    [path] = (home / "reports" / "releases").iterdir()
    record = json.loads(path.read_text())
    assert path.name in done.output and path.stem.endswith(openings()[0].model_hash[:8])
    assert [j["objective"] for j in record["judgements"]] == [
        "accuracy at least 0.5",
        "latency p95 at most 10000 ms",
    ]
    assert record["metrics"]["macro_f1"] == openings()[0].scores["macro_f1"]
    assert record["openings"][0]["id"] == openings()[0].id
    published = json.loads((home / "data/intents/v1.0.0/intents.json").read_text())
    assert not any(row["query"] in path.read_text() for row in published)


def test_scores_are_those_of_the_held_out_rows(home, model):
    told = json.loads(release("--model", model, "--yes", "--json").stdout)
    published = pd.DataFrame(json.loads((home / "data/intents/v1.0.0/intents.json").read_text()))
    manifest = json.loads((home / "data/intents/v1.0.0/manifest.json").read_text())
    held = published[published["id"].isin(manifest["holdout"])]
    right = (fitted().predict(held["query"]) == held["intent"]).mean()
    assert told["metrics"]["accuracy"]["value"] == right


@pytest.mark.parametrize(
    ("target", "verdict", "said"),
    [("0.999", "undecided", "Verdict: undecided"), (None, "not judged", "write data/objectives")],
)
def test_the_verdict_is_that_of_the_interval_and_no_failure(home, model, target, verdict, said):
    text = f"[intent_classifier]\naccuracy_target = {target}" if target else ""
    (home / "data" / "objectives.toml").write_text(text)
    done = release("--model", model, "--yes")
    assert done.exit_code == 0 and said in done.output
    assert openings()[0].scores["verdict"] == verdict


def test_a_model_that_is_always_wrong_is_not_ready_and_that_is_no_failure(home):
    train = load_dataset("intents").train
    swapped = train["intent"].map({"tax": "rent", "rent": "tax"})
    wrong = get_model("tfidf").fit(train["query"], swapped)
    wrong.save(home / "model", data="intents@1.0.0")
    done = release("--model", home / "model", "--yes")
    assert done.exit_code == 0 and "✘ not met: accuracy at least 0.5" in done.output
    assert "It is not ready for release." in done.output


def test_without_evaluate_only_it_says_what_there_is(home):
    done = CliRunner().invoke(app, ["release"])
    assert done.exit_code == 2
    assert "not built yet" in done.output and "release --evaluate-only" in done.output


def test_where_nobody_can_confirm_it_says_what_to_type(home, model):
    done = release("--model", model)
    assert done.exit_code == 2 and "--yes" in done.output and openings() == []


@pytest.mark.parametrize(("answer", "code", "opened"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0)])
def test_a_person_is_asked_first(home, model, monkeypatch, answer, code, opened):
    monkeypatch.setattr(cli_release, "_somebody_is_there", lambda: True)
    done = release("--model", model, input=answer)
    assert (done.exit_code, len(openings())) == (code, opened)
    assert "a little less honest" in done.output and "Open it?" in done.output


def test_a_second_opening_needs_a_reason_and_is_counted(home, model):
    release("--model", model, "--yes")
    with pytest.raises(HoldoutError, match="--reason TEXT"):
        release("--model", model, "--yes", catch_exceptions=False)
    done = release("--model", model, "--yes", "--reason", "labels were corrected")
    assert "opened 1 time before, for 1 model" in done.output
    assert [o.of_model for o in openings()] == [1, 2]
    assert len(list((home / "reports" / "releases").iterdir())) == 2


def test_trained_again_to_the_same_weights_it_is_the_same_model(home, model):
    release("--model", model, "--yes")
    fitted().save(home / "again", data="intents@1.0.0", about={"mlflow_run_id": "another"})
    with pytest.raises(HoldoutError, match="was opened for model"):
        release("--model", home / "again", "--yes", catch_exceptions=False)


def test_another_model_is_told_how_often_it_was_opened(home, model):
    release("--model", model, "--yes")
    train = load_dataset("intents").train
    other = get_model("tfidf", C=0.5).fit(train["query"], train["intent"])
    other.save(home / "other", data="intents@1.0.0")
    assert "opened 1 time before, for 1 model" in release("--model", home / "other").output
    publish(rows(20, 1), "intents", "1.1.0", description="", parent="1.0.0")
    told = release("--model", model, "--dataset", "intents@1.1.0").output
    assert "opened never before; other versions of intents 1 time" in told


# --- latency -----------------------------------------------------------------------------------

MEASURED = {"p95_ms": 300.0, "p95_ms_low": 280.0, "p95_ms_high": 320.0, "n": 100}
QUIET = {"reference_ms": 1.0, "reference_ms_low": 1.0, "reference_ms_high": 1.2}
BUSY = QUIET | {"reference_ms_high": 8.0}


@pytest.fixture
def latency(home, monkeypatch):
    """Set the latency that is measured; 100 ms are allowed."""
    (home / "data" / "objectives.toml").write_text(OBJECTIVES.replace("10000", "100"))

    def measured(**times):
        found = MEASURED | {"reference_ms_n": 50} | times
        monkeypatch.setattr(holdout_evaluation, "measure_latency", lambda *_, **__: found)

    return measured


def test_on_a_busy_machine_latency_is_undecided_and_measured_again_without_an_opening(
    home, model, latency
):
    latency(**BUSY)
    done = release("--model", model, "--yes")
    assert (
        "~ undecided: latency p95 at most 100 ms (found 300.0 [280.0, 320.0] ms; the" in done.output
    )
    assert "only the latency is open" in done.output and "same command again" in done.output
    latency(**QUIET, p95_ms=3.0, p95_ms_low=2.9, p95_ms_high=3.2)
    done = release("--model", model)  # nothing is opened, so nobody is asked
    assert done.exit_code == 0 and "measured again" in done.output
    [opening] = openings()
    assert opening.scores["verdict"] == "met" and opening.scores["accuracy"]["n"] == 20
    assert [j["status"] for j in opening.scores["judgements"]] == ["met", "met"]
    lines = [json.loads(line) for line in ledger_path().read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["opening", "scores", "latency"]
    assert lines[1]["scores"]["p95_ms"] == {"value": 300.0, "low": 280.0, "high": 320.0, "n": 100}
    assert len(list((home / "reports" / "releases").iterdir())) == 2
    with pytest.raises(HoldoutError, match="--reason"):
        release("--model", model, catch_exceptions=False)


def test_on_a_quiet_machine_a_slow_model_is_slow_for_good(home, model, latency):
    latency(**QUIET)
    assert "✘ not met: latency p95" in release("--model", model, "--yes").output
    with pytest.raises(HoldoutError, match="--reason"):
        release("--model", model, catch_exceptions=False)


def test_a_latency_that_an_older_version_called_too_slow_is_measured_again(home, model, latency):
    latency(**dict.fromkeys([*QUIET, "reference_ms_n"]))
    release("--model", model, "--yes")
    assert openings()[0].scores["verdict"] == "not met"
    latency(**BUSY)
    told = json.loads(release("--model", model, "--json").stdout)
    assert told["verdict"] == "undecided" and told["metrics"]["reference_ms"]["high"] == 8.0
    assert told["metrics"]["accuracy"]["n"] == 20 and len(openings()) == 1


# --- what fails before anything is opened ------------------------------------------------------


def test_a_folder_that_is_no_model_is_named(home):
    with pytest.raises(ModelError, match=r"no model\.json"):
        refused("--model", home)


def test_without_any_model_it_says_how_to_get_one(home):
    with pytest.raises(ModelError, match="`nivesh run` trains them"):
        refused()


def test_a_model_that_does_not_say_its_data_needs_a_dataset(home):
    fitted().save(home / "model")
    with pytest.raises(ModelError, match="add --dataset"):
        refused("--model", home / "model")
    done = release("--model", home / "model", "--dataset", "intents@1.0.0", "--yes")
    assert done.exit_code == 0 and "is not known" in done.output


def test_a_damaged_model_is_refused(home, model):
    (model / "vocabulary.json").unlink()
    with pytest.raises(ModelError, match=r"vocabulary\.json is missing"):
        refused("--model", model)


def test_classes_that_are_not_the_labels_are_named(home):
    get_model("tfidf").fit(["a b", "c d"], ["tax", "gold"]).save(home / "m", data="intents@1.0.0")
    with pytest.raises(ModelError, match="only one of them has 'gold', 'rent'"):
        refused("--model", home / "m")


def test_data_that_was_tampered_with_is_refused(home, model):
    path = home / "data" / "intents" / "v1.0.0" / "intents.json"
    path.write_text(path.read_text().replace('"rent"', '"tax"', 1))
    with pytest.raises(ChecksumError):
        refused("--model", model)


def test_a_draft_is_no_ground_for_a_release(home):
    publish(rows(60, 3), "intents", "0.1.0", description="draft")
    fitted("intents@0.1.0").save(home / "model", data="intents@0.1.0")
    with pytest.raises(DataError, match="is a draft"):
        refused("--model", home / "model")


def test_objectives_that_cannot_be_read_are_refused(home, model):
    (home / "data" / "objectives.toml").write_text("[")
    with pytest.raises(DataError, match=r"objectives\.toml: cannot be read"):
        refused("--model", model)


def test_a_ledger_that_cannot_be_written_is_refused(home, model):
    ledger_path().mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        release("--model", model, "--yes", catch_exceptions=False)


def test_a_place_for_records_that_cannot_be_used_is_refused(home, model):
    (home / "reports").write_text("a file")
    with pytest.raises(
        DataError, match=r"releases cannot be written: \S*reports is a file.*Move it"
    ):
        refused("--model", model)
    (home / "reports").unlink()
    (home / "reports").mkdir()
    (home / "reports" / "releases").write_text("a file")
    with pytest.raises(DataError, match=r"releases is a file, and a folder is needed.*Move it"):
        refused("--model", model)


@pytest.mark.parametrize("option", ["--who", "--why"])
def test_an_empty_entry_is_refused(home, model, option):
    with pytest.raises(HoldoutError, match=option):
        refused("--model", model, option, " ")


# --- code --------------------------------------------------------------------------------------


def git(home, *arguments):
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *name, *arguments], cwd=home, check=True, capture_output=True)
    return done.stdout.decode().strip()


def test_without_git_it_says_that_no_commit_can_be_recorded(home, model):
    assert "no git commit here" in release("--model", model, "--yes").output
    assert openings()[0].commit == "no git"


def test_without_git_the_line_and_the_screen_say_so(home, model, monkeypatch):
    monkeypatch.setenv("PATH", str(home))
    done = release("--model", model, "--yes")
    assert "git is missing, so nobody can tell" in done.output and openings()[0].git == "missing"


def test_a_repository_elsewhere_is_said_and_not_asked(home, model, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    for place in (home, other):
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "--allow-empty", "-qm", "all"]):
            git(place, *arguments)
    commit = git(home, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    done = release("--model", model, "--yes")
    assert "warning: GIT_DIR points to another repository" in done.output
    [opening] = openings()
    assert opening.commit == commit
    assert opening.git == f"not in {commit}; GIT_DIR elsewhere"


def test_the_commit_is_recorded_and_only_other_changes_than_the_ledger_make_it_dirty(home, model):
    (home / ".gitignore").write_text("reports\n")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        git(home, *arguments)
    commit = git(home, "rev-parse", "HEAD")
    release("--model", model, "--yes")
    release("--model", model, "--yes", "--reason", "again")
    (home / "new.py").write_text("")
    done = release("--model", model, "--yes", "--reason", "again")
    assert [o.commit for o in openings()] == [commit, commit, f"{commit}-dirty"]
    assert "uncommitted changes" in done.output


# --- out of scope ------------------------------------------------------------------------------


@pytest.fixture
def out_of_scope(home):
    test = pd.DataFrame({"query": [f"x{n}q zz{n}" for n in range(40)], "kind": "nonsense"})
    choosing = pd.DataFrame({"query": [f"k{n} mm{n}" for n in range(40)], "kind": "small_talk"})
    publish(choosing, "out_of_scope", "1.0.0", description="", holdout_rows=test,
            task="out_of_scope")  # fmt: skip


def test_the_out_of_scope_half_is_opened_and_recorded_with_it(home, model, out_of_scope):
    told = json.loads(release("--model", model, "--yes", "--json").stdout)
    assert [o.data for o in openings()] == ["intents@1.0.0", "out_of_scope@1.0.0"]
    away = told["turned_away"]
    assert away["rule"] == "confidence below 0.7" and away["out_of_scope"]["n"] == 40
    assert openings()[1].scores == away
    assert away["out_of_scope"]["value"] > away["in_scope"]["value"]


def test_the_model_s_own_rule_goes_before_the_objectives(home, model, out_of_scope, monkeypatch):
    from nivesh_lib.models.text.tfidf import TfidfClassifier

    monkeypatch.setattr(
        TfidfClassifier, "accepts", lambda self, X: [text.startswith("x1") for text in X],
        raising=False,
    )  # fmt: skip
    away = json.loads(release("--model", model, "--yes", "--json").stdout)["turned_away"]
    assert away["out_of_scope"]["value"] == pytest.approx(29 / 40)
    assert away["in_scope"]["value"] == 1 and "accuracy_of_answered" not in away


def test_it_stays_closed_where_nothing_says_what_to_turn_away(home, model, out_of_scope):
    (home / "data" / "objectives.toml").write_text("[intent_classifier]\naccuracy_target = 0.5")
    told = json.loads(release("--model", model, "--yes", "--json").stdout)
    assert told["turned_away"] is None and len(openings()) == 1


def test_it_stays_closed_to_models_of_other_data(home, out_of_scope):
    publish(rows(60, 5), "mine", "1.0.0", description="")
    (home / "data" / "mine" / "objectives.toml").write_text(OBJECTIVES)
    fitted("mine@1.0.0").save(home / "model", data="mine@1.0.0")
    release("--model", home / "model", "--yes")
    assert [o.data for o in openings()] == ["mine@1.0.0"]


# --- whatever happens --------------------------------------------------------------------------

RUN = """
import os, signal, sys
from nivesh_lib.releases import holdout_evaluation
from nivesh_lib.__main__ import main
if sys.argv.pop(1) == "kill":
    holdout_evaluation._scores = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


def started(model, how, *more):
    command = [sys.executable, "-c", RUN, how, "release", "--evaluate-only", "--who", "asha"]
    return subprocess.Popen(
        [*command, "--yes", "--model", str(model), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_killed_after_opening_it_stays_opened_and_the_next_needs_a_reason(home, model):
    process = started(model, "kill")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert [o.scores for o in openings()] == [None]
    again = started(model, "run")
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 1 and "still judging, or ended" in errors
    assert list((home / "reports" / "releases").iterdir()) == []


def test_of_two_at_once_for_one_model_one_opens_it(home, model):
    both = [started(model, "run") for _ in range(2)]
    errors = "".join(process.communicate(timeout=60)[1] for process in both)
    assert sorted(process.returncode for process in both) == [0, 1]
    assert "--reason" in errors and len(openings()) == 1


def test_a_model_that_fails_on_the_rows_is_told_with_what_it_means(home, model, monkeypatch):
    def fail(*_):
        raise ValueError("boom")

    monkeypatch.setattr(holdout_evaluation, "_scores", fail)
    with pytest.raises(ModelError, match=r"opened, then judging failed.*boom.*--reason"):
        release("--model", model, "--yes", catch_exceptions=False)
    assert [o.scores for o in openings()] == [None]


def test_check_shows_the_checklists_and_opens_nothing(home, run):
    shown = run("release", "--check")
    assert shown.returncode == 0 and not shown.stderr
    assert len(shown.stdout.splitlines()) == 15
    assert "· Model meets accuracy thresholds: there is no release\n" in shown.stdout
    lines = json.loads(run("release", "--check", "--json").stdout)
    assert {"item", "evidence", "shown"} == set(lines[0]) and not lines[0]["shown"]
    assert openings() == []
