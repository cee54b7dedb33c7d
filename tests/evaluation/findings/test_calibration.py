from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.confidence.calibration import Calibration
from nivesh_lib.evaluation.confidence.selective import (
    AbstentionPolicy,
    Costs,
    InScopeProbability,
)
from nivesh_lib.evaluation.findings.calibration import (
    abstention,
    at_threshold,
    calibration,
    not_asked,
    out_of_scope,
)
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.reporting.figures import figure_of


def proba(confidence: float, n: int = 200) -> pd.DataFrame:
    return pd.DataFrame({"loan": np.full(n, confidence), "tax": np.full(n, 1 - confidence)})


TRUE = ["loan"] * 160 + ["tax"] * 40  # of 200 answers, 80 of 100 are right
FRAME = pd.DataFrame({"intent": TRUE})


def answers(*parts: pd.DataFrame) -> pd.DataFrame:
    table = pd.concat(parts, ignore_index=True)
    return table.assign(id=range(len(table)), fold=0)


def fitted(before, after, *, helped=True, corrected=None) -> Calibration:
    corrected = proba(0.8) if corrected is None else corrected
    return Calibration(0.5, {}, corrected, Estimate(*before, 200), Estimate(*after, 200), helped)


def made(before, after, *, helped=True, confidence=0.6):
    found = {"a_b": fitted(before, after, helped=helped)}
    return calibration("a_b", found, {"a_b": answers(proba(confidence))}, FRAME)


@pytest.mark.parametrize(
    ("before", "after", "verdict", "words"),
    [
        ((0.2, 0.18, 0.22), (0.0, -0.02, 0.02), "met", "no error shows (at most 2.0 points)"),
        ((0.2, 0.18, 0.22), (0.04, 0.01, 0.049), "met", "4.0 points (1.0 to 4.9) remain"),
        ((0.2, 0.18, 0.22), (0.04, 0.01, 0.08), "undecided", "4.0 points (1.0 to 8.0) remain"),
        ((0.2, 0.18, 0.22), (0.09, 0.07, 0.12), "not met", "9.0 points (7.0 to 12) remain"),
        ((0.01, 0.005, 0.02), (0.0, -0.01, 0.015), "met", "no error shows (at most 1.5 points)"),
    ],
)
def test_calibration_is_judged_by_what_is_left(before, after, verdict, words):
    found = made(before, after)
    assert found.verdict == verdict and words in found.claim
    assert found.claim.startswith("The confidence of the a b is ") and found.title in found.claim


def test_confidence_that_no_temperature_helps_is_said_as_it_is():
    error = (0.15, 0.12, 0.18)
    found = made(error, error, helped=False, confidence=0.95)
    assert found.verdict == "not met" and "15 points too high, and no temperature" in found.claim
    assert list(found.plot.data["bins"]) == ["as it is"]


def test_no_error_at_all_is_said_with_what_it_could_be():
    found = made((0.0, -0.01, 0.03), (0.0, -0.01, 0.03), helped=False, confidence=0.8)
    assert "shows no error (at most 3.0 points), and no" in found.claim


@pytest.mark.parametrize(("before", "words"), [(0.2, "5.0 points, a quarter of what it was"),
                                               (0.05, "2.0 points, as it was small")])  # fmt: skip
def test_the_mark_says_where_its_points_come_from(before, words):
    assert made((before, before, before), (0, 0, 0)).mark == f"off by at most {words}"


def test_an_error_below_zero_is_shown_as_zero_and_all_models_are_in_the_table():
    found = {name: fitted((0.2, 0.18, 0.22), (-0.009, -0.04, 0.02)) for name in ("tfidf", "static")}
    oof = dict.fromkeys(("tfidf", "static", "lstm"), answers(proba(0.6)))
    one = calibration("static", found, oof, FRAME)
    assert one.table["model"].tolist() == ["bag of words", "token table"]
    assert (one.table.filter(like="off corrected").to_numpy() >= 0).all()
    assert (one.estimate.value, one.estimate.low, one.estimate.high) == (0, 0, 0.02)


def at_bar(sure: int, threshold: float | None = 0.7):
    """Of 200 answers, ``sure`` are above a confidence of 0.7 as they are, and 149 corrected."""
    before, after = (answers(proba(0.75, n), proba(0.6, 200 - n)) for n in (sure, 149))
    found = {"tfidf": fitted((0, 0, 0), (0, 0, 0), corrected=after[["loan", "tax"]])}
    frame = FRAME.assign(query=[f"query {n}" for n in range(len(FRAME))])
    return at_threshold("tfidf", found, {"tfidf": before}, frame, threshold)


@pytest.mark.parametrize(("threshold", "start"), [(0.7, 70), (None, 50)])
def test_each_threshold_has_what_it_answers_with_queries_on_both_sides(threshold, start):
    data = at_bar(53, threshold).plot.data
    assert data["thresholds"][data["start"]] == start / 100
    assert data["answered"][0] == 1 and data["answered"][70] == pytest.approx(149 / 200)
    assert data["answered"] == sorted(data["answered"], reverse=True)
    assert data["right"][0] == 0.8 and data["right"][99] is None
    assert {one["confidence"] >= 0.7 for one in data["examples"]} == {True, False}


def test_a_threshold_is_said_before_and_after_and_a_half_is_rounded_up():
    assert at_bar(53).claim == (
        "At a confidence of 0.7, the bag of words answers 27 of 100 queries as it is "
        "(100 % right) and 75 of 100 corrected (100 % right)."
    )


def test_where_nothing_is_answered_nothing_is_right():
    words = "answers 0 of 100 queries as it is and 75 of 100 corrected (100 % right)."
    assert at_bar(0).claim.endswith(words)


def test_without_a_threshold_or_queries_one_line_says_so():
    found = at_bar(10, None)
    assert "sets a least confidence" in found.claim
    assert found.plot.alt.startswith("From a confidence of 0.5 on, ")
    assert not_asked("out_of_scope").name == "out_of_scope" and not_asked("x").verdict == ""


def policy(let_through: float, n: int = 100) -> AbstentionPolicy:
    half = 0.08
    caught = Estimate(1 - let_through, 1 - let_through - half, 1 - let_through + half, n)
    kinds = pd.DataFrame({"kind": ["small_talk", "x"], "rows": [20, 20], "recall": [0.9, 0.7]})
    share = Estimate(0.8, 0.75, 0.85, 200)
    scope = InScopeProbability(1.0, 1.0)
    return AbstentionPolicy(scope, 0.6, 0.13, share, caught, caught, kinds, np.ones(200, bool))


@pytest.mark.parametrize(
    ("both", "verdict"), [(0.2, "met"), (0.3, "undecided"), (0.33, "undecided"), (0.5, "not met")]
)
def test_what_gets_through_is_judged_against_half_of_confidence_alone(both, verdict):
    scores = (np.linspace(0, 1, 500), np.arange(500) % 2)
    names = ("confidence", "certainty")
    found = out_of_scope(
        dict(zip(names, (policy(0.6), policy(both)), strict=True)),
        dict.fromkeys(names, Estimate(0.9, 0.8, 0.95, 300)),
        dict.fromkeys(names, scores),
    )
    assert found.verdict == verdict and "at most 30 of 100" in found.mark
    assert f"{100 * both:.0f} of 100 off-topic ones" in found.claim and "against 60" in found.claim
    assert len(found.plot.data["curves"]["with the out-of-distribution score"]["risk"]) <= 200
    assert figure_of(found)


def test_what_is_handed_over_names_the_kind_caught_least_with_queries():
    outside = pd.DataFrame({"query": ["call 9876543210", "b", "c"], "kind": "x"})
    found = abstention(
        "ensemble",
        policy(0.2),
        costs=Costs(),
        outside_share=0.1,
        outside=outside,
        certainty=np.array([0.9, 0.1, 0.2]),
    )
    assert "80 of 100 in-scope queries (75 to 85) and hands over 80 of 100 off-topic" in found.claim
    assert found.table["kind of off-topic query"].tolist() == ["x", "small talk"]
    assert found.rows.to_numpy().tolist() == [
        ["call [PHONE]", "off-topic, answered"],
        ["c", "off-topic, handed over"],
        ["b", "off-topic, handed over"],
    ]
