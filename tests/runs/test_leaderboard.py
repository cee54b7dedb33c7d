from __future__ import annotations

import json

import pytest

from nivesh_lib.errors import DataError, ModelError
from nivesh_lib.records.results import StepResult
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.runs.leaderboard import (
    best_model,
    chosen_model,
    leaderboard,
    score_names,
    verdict_of,
)
from tests.runs.examples import comparison, contents, estimate, result


def validation(*issues):
    checked = {"valid": not issues, "issues": list(issues), "warnings": ["a look"]}
    return StepResult.model_validate({"validation": checked})


def test_data_that_did_not_pass_is_the_first_thing_said_and_bars_the_release():
    met = [{"objective": "accuracy at least 0.5", "status": "met", "found": "0.7"}]
    results = {"03_tfidf": result("tfidf", 0.7, judgements=met)}
    assert "Every objective is met" in verdict_of(results | {"01": validation()})[-1]
    sentences = verdict_of(results | {"01": validation("one", "two")})
    assert sentences[0] == "✘ The data did not pass validation: 2 issues, listed in 01."
    assert sentences[-1] == "It is not ready for release."
    assert not any("Every objective is met" in sentence for sentence in sentences)


def test_one_issue_is_said_too_where_no_model_was_evaluated():
    sentences = verdict_of({"01_data": validation("one")})
    assert "1 issue," in sentences[0] and "No model was evaluated" in sentences[1]


TWO = {"a": result("rules", 0.70), "b": result("tfidf", 0.72)}


def comparison_result(**fields):
    return StepResult.model_validate(comparison(**fields))


def test_without_a_paired_test_the_answer_says_what_makes_one():
    sentences = verdict_of(TWO)
    assert sentences[1].startswith("Second: rules, 0.700. Whether that is more than chance")
    assert "notebook 06 or `nivesh compare`" in sentences[1]


def test_with_a_paired_test_the_answer_is_its_own():
    sentences = verdict_of({**TWO, "06": comparison_result()})
    assert sentences[1] == (
        "Second: tfidf, 0.720 (-0.020, paired 95 % interval -0.070 to +0.030, corrected p 0.300). "
        "rules cannot be told."
    )


def test_the_leaderboard_takes_order_and_ties_from_the_comparison():
    board = leaderboard({**TWO, "06": comparison_result()})
    assert [(entry.model, entry.rank) for entry in board] == [("rules", "1="), ("tfidf", "1=")]
    assert [bool(entry.to_champion) for entry in board] == [False, True]


def test_a_comparison_that_lacks_a_model_ranks_nobody():
    results = {**TWO, "c": result("new", 0.9), "06": comparison_result()}
    assert [entry.model for entry in leaderboard(results)] == ["new", "tfidf", "rules"]
    assert {entry.rank for entry in leaderboard(results)} == {""}
    assert "notebook 06" in verdict_of(results)[1]


def test_two_models_of_one_name_are_told_apart_by_their_steps():
    results = {"a": result("tfidf", 0.7), "b": result("tfidf", 0.8)}
    compared = comparison_result(best="tfidf", other="b")
    board = leaderboard({**results, "06": compared})
    assert [(entry.step, bool(entry.to_champion)) for entry in board] == [("a", False), ("b", True)]


def test_the_last_comparison_counts_since_it_has_more_models():
    results = {**TWO, "06": comparison_result(), "07": result("new", 0.9)}
    assert {entry.rank for entry in leaderboard(results)} == {""}
    results["07"] = result("new", 0.9, **comparison(best="new", other="tfidf", third="rules"))
    assert [entry.model for entry in leaderboard(results)] == ["new", "tfidf", "rules"]
    assert all(entry.rank for entry in leaderboard(results))


@pytest.mark.parametrize(
    ("race", "ms"),
    [
        ([{"model": "tfidf", "step": "b", "p95_ms": 0.5}], [9.0, 0.5]),
        ([{"model": "other", "step": "", "p95_ms": 0.5}], [9.0, 9.0]),
        (
            [{"step": "b", "p95_ms": "fast"}, {"step": "b"}, "odd", {"step": [], "p95_ms": 1}],
            [9.0, 9.0],
        ),
        ("odd", [9.0, 9.0]),
    ],
)
def test_a_model_has_the_latency_of_the_race_where_there_was_one(race, ms):
    results = {step: one | {"metrics": {**one.metrics, "p95_ms": 9.0}} for step, one in TWO.items()}
    board = leaderboard(results | {"07": StepResult.model_validate({"race": race})})
    assert {entry.step: entry.p95_ms for entry in board} == dict(zip("ab", ms, strict=True))


NONE_SET = {"file": "data/mine/objectives.toml", "missing": "No objective is set for mine."}


def test_without_objectives_the_verdict_says_so_and_bad_data_bars_the_release_all_the_same():
    results = {"03": result("tfidf", 0.7, objectives=NONE_SET), "01": validation("one")}
    assert verdict_of(results)[-2:] == [NONE_SET["missing"], "It is not ready for release."]


def test_a_score_that_only_some_models_have_is_a_column_after_the_headline_ones():
    scores = contents("new", 0.8)["metrics"] | {f"recall{e}": 0.5 for e in ("", "_low", "_high")}
    board = leaderboard({**TWO, "c": result("new", 0.8, metrics=scores | {"recall_n": 100})})
    assert score_names(entry.scores for entry in board) == ["macro_f1", "accuracy", "recall"]
    assert board[0].scores["recall"].n == 100 and "recall" not in board[1].scores


@pytest.fixture
def run(tmp_path):
    """A run with two models, of which the second is better."""
    directory = RunDirectory(tmp_path)
    for step, f1 in (("02_rules", 0.4), ("03_tfidf", 0.7)):
        directory.write_result(step, result(step[3:], f1))
        directory.model(step).mkdir(parents=True)
    return directory


def test_the_best_model_of_a_run_is_found_with_its_directory(run):
    assert best_model(run) == run.path / "models" / "03_tfidf"
    assert chosen_model(run)[0] == "03_tfidf" and chosen_model(run, "02_rules")[1].model == "rules"


def test_a_model_whose_results_are_damaged_might_be_the_best(run):
    run.result_file("02_rules").write_text("{")
    with pytest.raises(ModelError, match=r"02_rules\.json.*--force`.*--model DIRECTORY"):
        best_model(run)
    with pytest.raises(DataError, match=r"02_rules\.json"):
        chosen_model(run)
    assert chosen_model(run, "03_tfidf")[0] == "03_tfidf"


def test_the_nested_metrics_of_an_older_version_are_refused_plainly(run):
    nested = {"macro_f1": estimate(0.9), "accuracy": estimate(0.9)}
    old = json.dumps(contents("tfidf", 0.9, metrics=nested))
    run.result_file("03_tfidf").write_text(old)
    assert list(run.results()) == ["02_rules"]
    for choose, error in ((best_model, ModelError), (chosen_model, DataError)):
        with pytest.raises(error, match=r"macro_f1 is nested, as an older version wrote it"):
            choose(run)


def test_a_run_without_models_says_what_makes_them(run, tmp_path):
    with pytest.raises(ModelError, match="`nivesh run` trains them"):
        best_model(RunDirectory(tmp_path / "none"))
    with pytest.raises(DataError, match="run `nivesh run`"):
        chosen_model(RunDirectory(tmp_path / "none"))
    with pytest.raises(DataError, match="has no model '09'; it has 03_tfidf, 02_rules"):
        chosen_model(run, "09")
