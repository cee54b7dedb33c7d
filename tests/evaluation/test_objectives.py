from __future__ import annotations

import pytest

from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.objectives import (
    MODEL_OBJECTIVES,
    Objective,
    allowed_loss_for,
    judge,
    judge_all,
    none_set,
    objectives_for,
    read_objectives,
    values_for,
)
from nivesh_lib.records.estimate import Estimate

TOML = """
[intent_classifier]
accuracy_target = 0.99
latency_target_ms = 100
min_confidence = 0.70

[intent_classifier.marks]
03_tfidf = 0.7
"""
INTENTS, MINE = "intents@1.1.0", "mine@1.0.0"
NONE_FOR_MINE = "No objective is set for mine; write data/mine/objectives.toml."
AT_LEAST = Objective("m", "accuracy", 0.9)
AT_MOST = Objective("m", "p95_ms", 100, at_most=True)


@pytest.fixture(autouse=True)
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    return (tmp_path / "data" / "objectives.toml").write_text


def between(low, high):
    return Estimate((low + high) / 2, low, high, 100)


@pytest.mark.parametrize(
    ("objective", "low", "high", "status"),
    [
        (AT_LEAST, 0.91, 0.95, "met"),
        (AT_LEAST, 0.90, 0.95, "met"),
        (AT_LEAST, 0.89, 0.95, "undecided"),
        (AT_LEAST, 0.85, 0.90, "undecided"),
        (AT_LEAST, 0.85, 0.89, "not met"),
        (AT_MOST, 80, 99, "met"),
        (AT_MOST, 80, 100, "met"),
        (AT_MOST, 80, 101, "undecided"),
        (AT_MOST, 100, 120, "undecided"),
        (AT_MOST, 101, 120, "not met"),
    ],
)
def test_the_interval_decides_and_not_the_point(objective, low, high, status):
    assert judge(objective, (low + high) / 2, low, high).status == status


@pytest.mark.parametrize(
    ("value", "slowdown", "status"),
    [(99, 1.2, "met"), (101, 1.2, "not met"), (99, 3, "met"), (101, 3, "undecided")],
)
def test_a_latency_is_not_missed_on_a_busy_machine(value, slowdown, status):
    reference = {"reference_ms": Estimate(1.0, 1.0, slowdown, 100)}
    (judged,) = judge_all({"p95_ms": value, **reference}, [AT_MOST])
    assert judged.status == status
    (judged,) = judge_all({"accuracy": 0.5, **reference}, [AT_LEAST])
    assert judged.status == "not met" and judged.found == "0.500"


@pytest.mark.parametrize(("value", "status"), [(99.9, "met"), (100, "met"), (100.1, "not met")])
def test_a_value_without_an_interval_is_met_or_not(value, status):
    (judged,) = judge_all({"p95_ms": value, "p95_ms_n": 200}, [AT_MOST])
    assert judged.status == status


def test_what_was_found_is_shown_with_interval_and_unit():
    assert judge(AT_LEAST, 0.85, 0.8, 0.9).found == "0.850 [0.800, 0.900]"
    assert judge(AT_MOST, 2.345, 2.345, 2.345).found == "2.3 ms"


def test_a_judgement_reads_as_a_sentence():
    judged = str(judge(AT_MOST, 120, 120, 120))
    assert judged == "latency p95 at most 100 ms: not met, 120.0 ms"


def test_a_step_has_the_release_objectives_and_its_own_mark(write):
    write(TOML)
    assert [str(objective) for objective in objectives_for("03_tfidf", dataset=INTENTS)] == [
        "accuracy at least 0.99",
        "latency p95 at most 100 ms",
        "macro-F1 at least 0.7",
    ]


def test_a_step_without_a_mark_has_the_release_objectives_only(write):
    write(TOML)
    assert [o.metric for o in objectives_for("99_other", dataset=INTENTS)] == ["accuracy", "p95_ms"]


def test_what_was_not_measured_is_not_judged(write):
    write(TOML)
    judged = judge_all({"macro_f1": between(0.8, 0.9)}, objectives_for("03_tfidf", dataset=INTENTS))
    assert [(j.objective.metric, j.status) for j in judged] == [("macro_f1", "met")]


@pytest.mark.parametrize(
    "metrics",
    [
        {"accuracy": between(0.8, 0.9)},
        {"accuracy": between(0.8, 0.9).as_dict()},
        {"accuracy": 0.85, "accuracy_low": 0.8, "accuracy_high": 0.9, "accuracy_n": 100},
    ],
)
def test_estimates_are_judged_in_memory_and_as_they_are_recorded(metrics):
    (judged,) = judge_all(metrics, [AT_LEAST])
    assert (judged.value, judged.low, judged.high) == (pytest.approx(0.85), 0.8, 0.9)


def test_without_a_file_there_are_no_objectives():
    assert objectives_for("03_tfidf", dataset=INTENTS) == []
    said = none_set(INTENTS)
    assert said == "No objective is set for intents; write data/objectives.toml."
    assert dict(MODEL_OBJECTIVES) == {}


@pytest.mark.parametrize("text", ["[intent_classifier", "a = " + "[" * 100_000])
def test_a_broken_file_is_named(write, text):
    write(text)
    with pytest.raises(DataError, match=r"objectives\.toml: cannot be read"):
        objectives_for("03_tfidf", dataset=INTENTS)


def test_other_data_is_not_judged_by_the_objectives_of_intents(write):
    write(TOML)
    assert objectives_for("03_tfidf", dataset=MINE) == [] and values_for(MINE) == {}
    assert none_set(MINE) == NONE_FOR_MINE


def test_other_data_has_a_file_of_its_own_for_all_its_versions(write, tmp_path):
    write(TOML)
    (tmp_path / "data" / "mine").mkdir()
    (tmp_path / "data" / "mine" / "objectives.toml").write_text(
        "[intent_classifier]\naccuracy_target = 0.5\nmin_confidence = 0.6"
    )
    for dataset in ("mine@1.0.0", "mine@2.0.0", "mine"):
        found = objectives_for("03_tfidf", dataset=dataset)
        assert [str(one) for one in found] == ["accuracy at least 0.5"]
        assert values_for(dataset)["min_confidence"] == 0.6
    assert MODEL_OBJECTIVES["intent_classifier"]["accuracy_target"] == 0.99


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[m]\naccuracy_target = "high"',
            r"\[m\]: accuracy_target = 'high' is not a number from 0",
        ),
        ("[m]\naccuracy_target = 99", "accuracy_target = 99 is not"),
        ("[m]\naccuracy_target = true", "accuracy_target = True is not"),
        ("[m]\nmin_confidence = -0.1", r"min_confidence = -0\.1 is not"),
        ("[m]\nmax_optimisation_loss = 2", "max_optimisation_loss = 2 is not"),
        ("[m]\nmax_optimization_loss = 0", "is not known. Write max_optimisation_loss"),
        ("[m]\nmin_confidence = nan", "min_confidence = nan is not"),
        ('[m]\nlatency_target_ms = "fast"', "latency_target_ms = 'fast' is not a number above 0"),
        ("[m]\nlatency_target_ms = 0", "latency_target_ms = 0 is not"),
        ("[m]\nlatency_target_ms = inf", "latency_target_ms = inf is not"),
        ('[m.marks]\n03_tfidf = "good"', r"marks\.03_tfidf = 'good' is not"),
        ("[m.marks]\n03_tfidf = 1.5", r"marks\.03_tfidf = 1\.5 is not"),
        ("[m]\nmarks = 0.7", r"marks = 0\.7 is no table"),
        ("accuracy_target = 0.9", "accuracy_target = 0.9 stands alone"),
        ("[m]\nacuracy_target = 0.9", "acuracy_target is not known. Write accuracy_target"),
    ],
)
def test_a_value_that_cannot_be_an_objective_is_named_with_its_file(write, text, message):
    write(text)
    with pytest.raises(DataError, match=rf"objectives\.toml.*{message}"):
        read_objectives()


@pytest.mark.parametrize(
    ("dataset", "allowed"), [(INTENTS, 0.01), (MINE, 0.005)], ids=["said", "not said"]
)
def test_an_optimised_model_may_lose_what_the_file_says_or_half_a_point(write, dataset, allowed):
    write("[intent_classifier]\nmax_optimisation_loss = 0.01")
    assert allowed_loss_for(dataset) == allowed


def test_the_view_follows_its_file_and_leaves_out_marks(write):
    write(TOML)
    assert MODEL_OBJECTIVES["intent_classifier"]["min_confidence"] == 0.70
    assert "marks" not in MODEL_OBJECTIVES["intent_classifier"]
    write("[ner]\nf1_target = 0.9")
    assert dict(MODEL_OBJECTIVES) == {"ner": {"f1_target": 0.9}}
