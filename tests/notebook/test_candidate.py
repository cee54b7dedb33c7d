from __future__ import annotations

import shutil

import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.models.base import get_model
from nivesh_lib.notebook import candidate as module
from nivesh_lib.notebook.candidate import Candidate
from nivesh_lib.notebook.session import start_run
from nivesh_lib.releases.log import writing
from nivesh_lib.releases.package import Package
from nivesh_lib.reporting.figures import figure_of

PARAMS = {"DATASET": "toy@1.0.0", "N_BOOT": 20, "N_TIMED": 3}


@pytest.fixture
def home(tmp_path, monkeypatch, store):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("NIVESH_RUN_DIR", str(tmp_path / "reports" / "runs" / "first"))
    monkeypatch.setenv("NIVESH_MODE", "nbval")
    words = ("rent", "chai", "train", "gold", "school", "phone", "fees", "bread")
    rows = [
        {"query": f"{verb} {word} {n}", "intent": label}
        for label, verb in (("spend_it", "pay"), ("save, up", "keep"))
        for word in words
        for n in ("one", "two", "three")
    ]
    publish(pd.DataFrame(rows), "toy", "1.0.0", description="toy")
    return tmp_path


def recorded(*models: str) -> None:
    for number, model in enumerate(models, start=2):
        run = start_run(f"0{number}_{model}", PARAMS)
        run.finish(run.evaluate(get_model(model), load_dataset("toy@1.0.0")))


def candidate() -> tuple[module.Run, Candidate]:
    run = start_run("09_release", PARAMS)
    run.set_marks(objectives=False, staging="s", production="p")
    return run, Candidate.of(run, load_dataset("toy@1.0.0"), "06_cv_and_bias")


def every_finding(one: Candidate) -> list[str]:
    made = [one.answer(), one.gates("staging"), one.gates("production")]
    made += [one.against_predecessor(), one.worry(), one.history()]
    return [finding.claim for finding in made]


def test_without_release_objectives_slices_or_other_findings_each_says_so(home, capsys):
    recorded("rules", "tfidf")
    run, one = candidate()
    answer, staging, production, predecessor, worry, history = every_finding(one)
    assert answer.startswith("The bag of words would be released, as 1.0.0: ")
    assert staging.startswith("Nothing is asked for staging: No objective is set for toy; write ")
    assert production.startswith("Nothing is asked for production: ")
    assert one.gates("staging").verdict == ""
    assert "nothing to compare with; `nivesh release` would make 1.0.0." in predecessor
    assert "no slice has enough rows" in worry and "not part of the run: equal accuracy" in worry
    assert history.startswith("No release of toy is in the log yet")
    one.card()
    run.finish()
    assert "06_cv_and_bias" in capsys.readouterr().out
    assert {f.name for f in run.directory.result("09_release").findings} >= {"staging", "worry"}


OBJECTIVES = """
[intent_classifier]
accuracy_target = 0.99
[intent_classifier.staging]
accuracy = 0.0
size_mb = 0.001
hours_in_staging = 2
accuracy_loss = 0.5
"""


def test_gates_are_judged_out_of_fold_and_what_the_holdout_cannot_show_is_said(home):
    (home / "data" / "toy" / "objectives.toml").write_text(OBJECTIVES)
    recorded("tfidf")
    _, one = candidate()
    staging, production = one.gates("staging"), one.gates("production")
    gates = [row["gate"] for row in staging.cells]
    assert gates == ["data", "accuracy", "size mb"]
    assert staging.verdict == "not met" and staging.claim.endswith("not: size mb.")
    assert production.verdict in ("undecided", "not met")
    held = len(one.data.manifest["holdout"])
    (beyond, later) = production.caveats
    assert beyond.startswith(
        f"On the {held} held-out rows, 0.99 cannot be shown. Even {held} right"
    )
    assert "381 rows could show it" in beyond and "`nivesh release`" in later


def test_the_first_that_is_not_late_and_was_saved_is_the_candidate(home, monkeypatch):
    recorded("rules", "tfidf")
    _, best = candidate()
    assert best.chosen.result.model == "tfidf"
    monkeypatch.setattr(module, "is_late", lambda result: result.model == "tfidf")
    _, other = candidate()
    assert other.chosen.result.model == "rules"
    assert "not the bag of words, too late or not saved" in other.answer().claim


@pytest.fixture
def released(home, monkeypatch):
    """A release of the bag of words of an earlier run, which serves; then a run of its own."""
    recorded("rules", "tfidf")
    _, first = candidate()
    made = first.draft.changed(version="1.0.0", run="first", step="03_tfidf")
    Package.of(made.name, "1.0.0").write(made, [], {})
    line = {"name": made.name, "version": "1.0.0", "digest": made.digest, "who": "A", "why": "b"}
    with writing() as log:
        log.append("release", line | {"registered": "1"})
        moved = {
            "stage": "production",
            "override": "",
            "gates": [{"name": "accuracy", "verdict": "met"}],
            "archive_replaced": False,
        }
        log.append("promotion", line | moved)
    monkeypatch.setenv("NIVESH_RUN_DIR", str(home / "reports" / "runs" / "second"))
    recorded("rules", "tfidf")
    return made


def test_the_candidate_is_compared_with_the_release_that_serves_on_the_same_rows(released):
    _, one = candidate()
    assert one.draft.version == "1.0.1" and one.last == released
    found = one.against_predecessor()
    assert found.verdict == "undecided" and found.estimate.n == len(one.data.train)
    assert "release 1.0.0: no difference" in found.claim


def test_a_release_whose_run_is_gone_is_not_compared(released, home):
    (home / "reports" / "runs" / "first" / "oof" / "03_tfidf.parquet").unlink()
    _, one = candidate()
    claim = one.against_predecessor().claim
    assert claim.startswith("The out-of-fold answers of release 1.0.0 (first) are not here")


def test_a_release_whose_package_is_elsewhere_is_not_taken_for_none(released, home):
    shutil.rmtree(home / "reports" / "releases")
    _, one = candidate()
    assert one.last is None and one.draft.version == "1.1.0"
    assert "the package of 1.0.0 is not on this machine" in one.draft.bump[0]
    assert "package of release 1.0.0 is not on this machine" in one.against_predecessor().claim


def test_the_history_is_drawn_from_the_log(released):
    _, one = candidate()
    found = one.history()
    assert found.claim == "1 version of toy was released; 1.0.0 serves."
    assert [row["stage"] for row in found.cells] == ["Development", "Production"]
    (label,) = figure_of(found).axes[0].get_yticklabels()
    assert label.get_text() == "1.0.0" and "1.0.0 in production from" in found.plot.alt


def test_without_any_model_one_finding_says_so_and_the_rest_is_silent(home, capsys):
    run, one = candidate()
    made = [one.answer(), one.gates("staging"), one.against_predecessor(), one.worry(), one.card()]
    assert made[1:] == [None] * 4 and "nivesh run --dataset toy@1.0.0" in made[0].claim
    assert one.history().claim.startswith("No release of toy")
    run.finish()
    names = [finding.name for finding in run.directory.result("09_release").findings]
    assert names == ["candidate", "history"] and "06_cv" not in capsys.readouterr().out
