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


def made(before, after, *, helped=True, confidence=0.6):
    found = Calibration(0.5, {}, proba(0.8), Estimate(*before, 200), Estimate(*after, 200), helped)
    row = {"model": "a_b", "temperature": 0.5, "brier_before": 0.4, "brier_after": 0.3}
    row |= found.before.columns("ece_before") | found.after.columns("ece_after")
    table = pd.DataFrame([row])
    return calibration("a_b", found, proba(confidence), proba(0.8), TRUE, table)


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


def bars(**cells) -> pd.DataFrame:
    row = {"model": "tfidf", "answered_before": 0.26, "answered_after": 0.74}
    return pd.DataFrame([row | {"right_before": 0.9968, "right_after": 0.93} | cells])


def test_a_threshold_is_said_before_and_after_and_never_rounded_to_all():
    found = at_threshold("tfidf", bars(), 0.7)
    assert found.claim == (
        "At a confidence of 0.7, the bag of words answers 26 of 100 queries as it is and 74 of "
        "100 corrected; 99.7 % and 93 % of these answers are right."
    )


def test_where_nothing_is_answered_nothing_is_right():
    found = at_threshold("tfidf", bars(answered_before=0.0, right_before=np.nan), 0.7)
    assert found.claim.endswith("answers 0 of 100 queries as it is and 74 of 100 corrected.")


def test_without_a_threshold_or_queries_one_line_says_so():
    assert "set no least confidence" in at_threshold("tfidf", bars(), None).claim
    assert not_asked("out_of_scope").name == "out_of_scope" and not_asked("x").verdict == ""


def policy(let_through: float, n: int = 100) -> AbstentionPolicy:
    half = 0.08
    caught = Estimate(1 - let_through, 1 - let_through - half, 1 - let_through + half, n)
    kinds = pd.DataFrame({"kind": ["small_talk", "x"], "rows": [20, 20], "recall": [0.9, 0.7]})
    share = Estimate(0.8, 0.75, 0.85, 200)
    scope = InScopeProbability(1.0, 1.0)
    return AbstentionPolicy(scope, 0.6, 0.4, 0.13, share, caught, share, caught, kinds)


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
    assert len(found.plot.data["curves"]["with the OOD score"]["risk"]) <= 200
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
