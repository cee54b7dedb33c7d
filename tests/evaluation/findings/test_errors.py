from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.errors import overlapping_intents, shares_of_errors
from nivesh_lib.evaluation.findings.errors import (
    behaviour,
    doubtful_labels,
    leaks,
    overlaps,
    would_help,
)


def test_leaks_are_said_in_the_claim():
    assert leaks([], 1200, 3).claim == "None of the checks finds a leak in 1,200 training rows."
    found = leaks([{"severity": "error", "message": "'#tx' stands in 30 rows"}], 1200, 0)
    assert found.claim == "The scores may be too high: '#tx' stands in 30 rows."


def asked(labels, predicted):
    frame = pd.DataFrame({"query": [f"mail a@b.in {n}" for n in range(len(labels))]})
    frame["intent"] = labels
    names = sorted(set(labels))
    return frame, np.array(predicted, dtype=object), overlapping_intents(labels, predicted, names)


def test_the_pair_confused_both_ways_is_named_with_a_query_of_each():
    found = overlaps(*asked(["a_b"] * 3 + ["tax"] * 3, ["a_b", "tax", "tax", "tax", "a_b", "tax"]))
    assert found.claim == "A b and tax are taken for each other most: 3 of their 6 queries."
    assert found.rows["note"].tolist() == ["a b, taken for tax", "tax, taken for a b"]
    assert found.rows["query"][0] == "mail [EMAIL] 1"


def test_confusion_in_one_direction_is_no_overlap():
    found = overlaps(*asked(["a", "b"], ["b", "b"]))
    assert found.claim == "No two labels are taken for each other in both directions."


def doubted(n: int, target: float | None):
    frame = pd.DataFrame({"id": range(100), "query": "call 9876543210", "intent": "a_b"})
    table = pd.DataFrame({"id": range(n), "label": "a_b", "suggested": "c, d", "score": 0.1})
    return doubtful_labels(table, frame, target=target)


@pytest.mark.parametrize(
    ("n", "target", "reachable"),
    [(6, 0.99, False), (1, 0.99, True), (6, 0.9, True), (6, None, True)],
)
def test_doubts_say_whether_the_accuracy_asked_for_is_in_reach(n, target, reachable):
    claim = doubted(n, target).claim
    assert claim.startswith(
        "The label of 1 of 100 rows is in doubt (1.0 %)"
        if n == 1
        else f"The labels of {n} of 100 rows are in doubt ({n}.0 %)"
    )
    assert ("no model could show the 99 of 100 asked for" in claim) == (not reachable)


def test_rows_picked_for_being_hard_do_not_count_for_what_is_in_reach():
    frame = pd.DataFrame({"id": range(100), "query": "q", "intent": "a"})
    frame["selection"] = np.where(frame["id"] < 6, "hard", "natural")
    table = pd.DataFrame({"id": range(6), "label": "a", "suggested": "b", "score": 0.1})
    assert "no model could" not in doubtful_labels(table, frame, target=0.99).claim


def test_doubted_rows_are_shown_without_personal_data():
    found = doubted(4, None)
    assert len(found.rows) == 3 and found.rows["query"][0] == "call [PHONE]"
    assert found.rows["note"][0] == "labelled a b, suggested “c, d”"
    assert doubted(0, None).rows.empty


def helped(**wrong: int):
    """Return the finding for groups of 100 queries each, with so many wrong."""
    right = np.concatenate([np.arange(100) >= n for n in wrong.values()])
    place = np.repeat(np.arange(len(wrong)), 100)
    groups = {name: place == k for k, name in enumerate(wrong)}
    return would_help(shares_of_errors(right, groups, n_boot=500), len(right))


def test_what_the_claim_names_is_first_in_table_and_figure():
    found = helped(**{"traits=no_keyword": 60, "b": 10, "c": 10})
    assert found.claim.startswith("Most is to be won on queries of “traits: no keyword”: 33 % of")
    assert found.cells[0]["queries with"] == "traits: no keyword" in found.claim
    assert next(iter(found.plot.data["differences"])) == "traits: no keyword"


def test_a_group_that_is_sure_comes_before_one_with_more_to_win():
    rows = [("wide", 0.05, -0.01, 0.1), ("sure", 0.02, 0.01, 0.03)]
    table = pd.DataFrame(rows, columns=["group", "gain", "gain_low", "gain_high"])
    found = would_help(table.assign(rows=50, share=0.3), 100)
    assert found.claim.startswith("Most is to be won on queries of “sure”")
    assert [row["queries with"] for row in found.cells] == ["sure", "wide"]


def test_no_group_stands_out_or_is_large_enough():
    assert helped(a=20, b=21, c=19).claim == (
        "No group of queries is shown to be harder than the rest."
    )
    assert "large enough" in would_help(shares_of_errors(np.ones(9), {}), 9).claim


def outcomes(*failed: float) -> pd.DataFrame:
    rows = [("direction", f"test {n}", 50, f, f / 2, f + 0.1) for n, f in enumerate(failed)]
    return pd.DataFrame(rows, columns=["kind", "test", "rows", "failed", "low", "high"])


def test_the_test_that_fails_most_is_named_first_beside_the_other_models():
    found = behaviour({"ensemble": outcomes(0.1, 0.5), "tfidf": outcomes(0.2)}, "ensemble")
    assert found.claim == (
        "The combined model fails most often at “test 1”: 50 of 100 tests (25 to 60)."
    )
    assert found.table["test"].tolist() == ["test 1", "test 0"]
    assert found.cells[0]["bag of words"] is None and found.cells[1]["bag of words"] == 20


def test_a_model_that_fails_nothing_and_one_without_answers():
    assert behaviour({"a_b": outcomes(0.0)}, "a_b").claim == (
        "The a b passes all 1 behavioural tests."
    )
    assert behaviour({}, "a_b").claim.startswith("No answers of the a b to behavioural tests")
