from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.comparison import compare
from nivesh_lib.evaluation.findings.comparison import _stands, changes, gain, leader
from nivesh_lib.records.estimate import Estimate

LABELS = ["loan", "save", "tax"]
TRUE = np.array(LABELS * 100, dtype=object)


def answers(wrong: int, start: int = 0) -> np.ndarray:
    """Return answers to 300 queries, the first ``wrong`` from ``start`` on with the next label."""
    given, at = TRUE.copy(), np.arange(start, start + wrong)
    given[at] = np.array(LABELS * 101, dtype=object)[at + 1]
    return given


def board(champion=None, **wrong):
    named = {name: answers(*value) for name, value in wrong.items()}
    return compare(TRUE, named, champion=champion, n_boot=100)


@pytest.mark.parametrize(
    ("models", "verdict", "words"),
    [
        (
            {"ensemble": (10,), "tfidf": (60, 100)},
            "met",
            "and is ahead of the bag of words by more",
        ),
        (
            {"ensemble": (10,), "tfidf": (60, 100), "a_b, c": (70, 90)},
            "met",
            "ahead of each of 2 other models",
        ),
        (
            {"ensemble": (30,), "tfidf": (32, 100)},
            "undecided",
            "and cannot be told from the bag of",
        ),
        (
            {"ensemble": (30,), "rules": (32, 100), "a_b": (150,)},
            "undecided",
            "ahead of 1 of 2 by more",
        ),
        ({"ensemble": (10,)}, "", "no other model was recorded"),
    ],
)
def test_the_leader_is_judged_by_the_tests_and_says_so(models, verdict, words):
    found = leader(board(**models), TRUE)
    assert (found.verdict, bool(found.mark)) == (verdict, bool(verdict))
    assert words in found.claim and found.claim.startswith("The combined model routes 9")
    assert found.title + "." == found.claim


def test_a_model_that_is_named_and_behind_does_not_meet_the_mark():
    found = leader(board("tfidf", ensemble=(10,), tfidf=(60, 100)), TRUE)
    assert found.verdict == "not met" and "is behind the combined model" in found.claim


def test_the_score_that_ranks_comes_first_in_the_table_and_ties_share_a_rank():
    found = leader(board(ensemble=(30,), tfidf=(32, 100), rules=(200,)), TRUE)
    assert found.table["rank"].tolist() == ["1=", "1=", "3"]
    assert list(found.table)[2] == "macro-F1" and "notebooks 02 to 05 only" in found.caveats[0]


@pytest.mark.parametrize(
    ("p95_ms", "named"),
    [
        ({"ensemble": 20.0, "tfidf": 1.4, "rules": 0.2}, True),
        ({"ensemble": 0.2, "tfidf": 1.4}, False),
        ({"ensemble": 20.0, "tfidf": None}, False),
        ({}, False),
    ],
)
def test_a_faster_model_that_cannot_be_told_apart_is_named_with_its_price(p95_ms, named):
    found = leader(board(ensemble=(30,), tfidf=(32, 100), rules=(200,)), TRUE, p95_ms)
    price = "the bag of words ties with it and answers 95 of 100 within 1.4 ms in place of 20.0 ms"
    assert (price in found.claim) is named and "the rule set" not in found.claim


def test_rare_labels_are_a_caveat():
    true = np.append(TRUE, ["a_rare"] * 9)
    found = leader(compare(true, {"a": true, "b": np.roll(true, 1)}, n_boot=50), true)
    assert found.caveats[0].startswith("Fewer than 10 rows") and "a rare." in found.caveats[0]


@pytest.mark.parametrize(
    ("mine", "others", "verdict", "said"),
    [
        (0, {"rules": 40}, "met", "is ahead of the rule set by more than chance: +"),
        (40, {"rules": 0}, "not met", "is behind the rule set by more than chance: -"),
        (40, {"rules": 40}, "undecided", "is right on the same rows as the rule set: no differ"),
        (40, {"rules": 41}, "undecided", "cannot be told from the rule set on these rows: +"),
        (0, {"rules": 90, "tfidf": 40}, "met", "2 other models by more than chance; the closest is "
         "the bag of words, with a lead of +"),
        (40, {"rules": 90, "tfidf": 41}, "undecided", "the bag of words on these rows"),
        (40, {"rules": 0, "tfidf": 40}, "not met", "; it is ahead of 0 of 2 by more than chance"),
    ],
)  # fmt: skip
def test_a_gain_is_more_than_chance_only_where_it_is_over_each(mine, others, verdict, said):
    answered = {name: answers(wrong) for name, wrong in others.items()}
    found = gain("lstm", TRUE, answers(mine), answered, n_boot=200)
    assert found.verdict == verdict and said in found.claim
    assert "the rule set" in found.mark and len(found.cells) == len(others)
    assert len(found.plot.data["differences"]) == 2 * len(others)


def test_a_tie_whose_interval_leaves_zero_out_says_what_it_was_corrected_for():
    gains = {"rules": Estimate(0.06, 0.01, 0.12, 96)}
    _, words = _stands(gains, {"rules": "undecided"})
    assert words.startswith("cannot be told from the rule set on these rows, corrected for all")


def test_what_users_would_notice_is_counted_both_ways_with_queries():
    rows = pd.DataFrame({"intent": ["a_b", "a_b", "c", "c"], "predicted": ["a_b", "c", "c", "c"]})
    rows = rows.assign(query=[f"mail a@b.in about {n}" for n in range(4)], confidence=0.5)
    rows.loc[3, "confidence"] = 0.9
    found = changes("lstm", "tfidf", rows, np.array(["c", "a_b", "c", "a_b"]), ["a_b", "c"])
    assert found.claim.startswith("In place of the bag of words, the LSTM would answer 2 of 4 q")
    assert "1 of 4 others (5 to 70 of 100)" in found.claim and found.estimate.value == 0.25
    assert found.rows.to_numpy().tolist() == [
        ["mail [EMAIL] about 3", "c: taken for a b before, now rightly"],
        ["mail [EMAIL] about 0", "a b: taken for c before, now rightly"],
        ["mail [EMAIL] about 1", "a b: rightly before, now taken for c"],
    ]
    assert found.table["true"].tolist() == ["c"]


def test_where_nothing_changes_there_are_no_examples():
    same = {"intent": LABELS, "predicted": LABELS, "query": "q", "confidence": 0.5}
    found = changes("a_b, c", "tfidf", pd.DataFrame(same), np.array(LABELS), LABELS)
    assert "the a b, c would" in found.claim and found.rows.empty


@pytest.mark.parametrize(("best", "why"), [("rules", "it leads"), ("lstm", "it left no answers")])
def test_without_another_model_one_line_says_why(best, why):
    found = changes(best, "rules", pd.DataFrame(), None, LABELS)
    assert found.claim.startswith(f"Nothing is compared with the rule set: {why}")
    missing = gain("lstm", TRUE, TRUE, {"tfidf": TRUE, "rules": None}, name="gain_over_02")
    assert missing.claim.startswith("Nothing is compared with the rule set") and not missing.verdict


def test_names_with_commas_are_quoted_among_others():
    others = {"a, b": answers(3), "c_d": answers(4)}
    assert "“the a, b” and the c d" in gain("lstm", TRUE, TRUE, others, n_boot=50).mark
