from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.findings import quality
from nivesh_lib.evaluation.objectives import Objective
from nivesh_lib.records.estimate import Estimate

AT_LEAST = [Objective("m", "accuracy", 0.8)]


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict", "said"),
    [
        (0.9, 0.85, 0.95, "met", "90 of 100 queries (85 to 95) rightly; the mark of 80 of 100 is"),
        (0.6, 0.55, 0.65, "not met", "60 of 100 queries (55 to 65) rightly; the mark is 80 of"),
        (0.8, 0.75, 0.85, "undecided", "whether the mark of 80 of 100 is met, these rows cannot"),
    ],
)
def test_a_score_is_judged_by_its_interval_and_says_so(value, low, high, verdict, said):
    (found,) = quality.scores("tfidf", {"accuracy": Estimate(value, low, high, 200)}, AT_LEAST)
    assert found.verdict == verdict and said in found.claim
    assert found.claim.startswith("The bag of words routes")


def test_a_score_without_an_objective_has_no_verdict():
    (found,) = quality.scores("my_model", {"macro_f1": Estimate(0.5, 0.4, 0.6, 99)})
    assert found.claim == "The my model reaches a macro-F1 of 0.50 (0.40 to 0.60)."
    assert not found.verdict and found.table["mark"].tolist() == [""]


def test_the_finding_that_is_shown_lists_every_score_with_its_mark():
    both = {name: Estimate(0.9, 0.85, 0.95, 200) for name in ("accuracy", "macro_f1")}
    shown, other = quality.scores("tfidf", both, [*AT_LEAST, Objective("m", "macro_f1", 0.99)])
    marks = ["accuracy at least 0.8: met", "macro-F1 at least 0.99: not met"]
    assert shown.table["score"].tolist() == ["accuracy", "macro-F1"]
    assert shown.table["mark"].tolist() == marks
    assert other.verdict == "not met" and not other.cells and other.plot is None


def frame(true):
    return pd.DataFrame({"query": [f"query {n}" for n in range(len(true))], "intent": true})


def test_the_most_frequent_confusion_is_named_with_queries_of_it():
    found = quality.confusions(
        frame(["a_b", "a_b", "c"]), np.array(["c", "a_b", "c"]), ["a_b", "c"]
    )
    assert found.claim == "A b is taken for c most often: 1 of its 2 queries."
    assert [one.note for one in found.examples] == ["a b, taken for c", "a b, rightly"]
    assert found.examples[0].query == "query 0"


def test_a_label_with_a_comma_is_quoted_in_a_sentence():
    found = quality.confusions(frame(["a, b", "c"]), np.array(["c", "c"]), ["a, b", "c"])
    assert found.claim == "“a, b” is taken for c most often: 1 of its 1 query."
    assert found.examples[0].note == "“a, b”, taken for c"


def test_without_an_error_nothing_is_confused():
    found = quality.confusions(frame(["a", "c"]), np.array(["a", "c"]), ["a", "c"])
    assert found.claim == "None of 2 queries is confused." and not found.examples


def test_labels_with_few_rows_are_a_caveat():
    found = quality.by_label(["a"] * 30 + ["b, c"] * 3, ["a"] * 33, ["a", "b, c"])
    assert found.claim.startswith("F1 goes from 0.00 for “b, c” (3 queries) to 0.95 for a")
    assert found.caveats == ["Fewer than 20 rows, so that single ones move the score: “b, c”."]


def slices(*rows):
    return pd.DataFrame(
        [
            {"slice": name, "rows": 50, "accuracy": v, "accuracy_low": v - 0.1}
            | {"accuracy_high": v + 0.1}
            for name, v in rows
        ]
    )


def test_the_worst_slice_is_named_and_selected_rows_are_none():
    hard = ("selection=hard", 0.2), ("selection=natural", 0.4)
    found = quality.by_slice(slices(*hard, ("language=hi", 0.5), ("x=y", 0.9)))
    assert (
        found.claim
        == "The group “language: hi” is served worst: 50 of 100 queries (40 to 60) are right."
    )
    assert len(found.cells) == 4 and "a slice of their own" in found.caveats[1]


@pytest.mark.parametrize("table", [pd.DataFrame(), slices(("selection=hard", 0.2))])
def test_without_columns_to_slice_by_that_is_said(table):
    assert quality.by_slice(table).claim == "The data has no columns to slice by."


@pytest.mark.parametrize(
    ("stated", "said"),
    [(0.6, "too low"), (0.99, "too high"), (0.9, "no difference shows (at most 2.9 points)")],
)
def test_confidence_is_compared_with_the_share_that_is_right(stated, said):
    proba = pd.DataFrame({"a": np.full(400, stated), "b": 1 - stated})
    true = ["a"] * 360 + ["b"] * 40
    found = quality.confidence(proba, true, threshold=0.5)
    assert said in found.claim and "90 % of the answers are right" in found.claim
    assert "from 0.5 on, as the objectives ask, it would answer 100 of 100 queries" in found.claim
    assert found.cells == [{"at confidence": 0.5, "answered": 1.0, "right of those": 0.9}]
    none = quality.confidence(proba, true, threshold=1.0).claim
    assert none.endswith("from 1 on, as the objectives ask, it would hand over all queries.")


LATENCY = {
    "p50_ms": 1.0,
    "p95_ms": 2.0,
    "p95_ms_low": 1.5,
    "p95_ms_high": 2.5,
    "n": 99,
    "threads": 2,
}
WITHIN = [Objective("m", "p95_ms", 1.0, at_most=True)]


def test_the_cost_judges_the_latency():
    found = quality.cost("tfidf", LATENCY, WITHIN, 3_100_000, 1.2)
    assert found.verdict == "not met" and found.mark == "latency p95 at most 1 ms"
    assert "within 2.0 ms (1.5 to 2.5), and it takes 3.1 MB on disk" in found.claim


def test_a_busy_machine_leaves_the_latency_undecided_and_says_why():
    beside = {"reference_ms": 2.0, "reference_ms_low": 1.0, "reference_ms_high": 4.0}
    found = quality.cost("tfidf", {**LATENCY, **beside, "reference_ms_n": 9}, WITHIN, None, None)
    assert found.verdict == "undecided" and "busy" in found.caveats[0]


def test_a_model_without_words_shows_none():
    assert quality.learned({}).claim == "The model has no weights of words to show."
