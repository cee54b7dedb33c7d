from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.comparison import compare
from nivesh_lib.evaluation.errors import flips
from nivesh_lib.evaluation.findings.comparison import gains, leader, nothing_replaced, replaced
from tests.evaluation.answers import LABELS, rows, table

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
        ({"ensemble": (10,), "tfidf": (60, 100)}, "met", "ahead of the bag of words by more than"),
        ({"ensemble": (10,), "tfidf": (60, 100), "a_b, c": (70, 90)}, "met", "each of the two"),
        ({"ensemble": (30,), "tfidf": (32, 100)}, "undecided", "cannot tell it from the bag of"),
        ({"ensemble": (30,), "rules": (32, 100), "a_b": (150,)}, "undecided", "from the rule set"),
        ({"ensemble": (10,)}, "", "no other model was recorded"),
    ],
)
def test_the_leader_is_judged_by_the_tests_and_says_so(models, verdict, words):
    found = leader(board(**models))
    assert (found.verdict, bool(found.mark)) == (verdict, bool(verdict))
    assert words in found.claim and found.claim.startswith("The combined model routes 9")
    assert found.title + "." == found.claim


def test_a_model_that_is_named_and_behind_does_not_meet_the_mark():
    found = leader(board("tfidf", ensemble=(10,), tfidf=(60, 100)))
    assert found.verdict == "not met" and "behind the combined model" in found.claim


def test_a_tie_names_only_what_cannot_be_told_apart():
    found = leader(board(ensemble=(30,), tfidf=(32, 100), rules=(200,)))
    assert "bag of words" in found.claim and "rule set" not in found.claim
    assert found.table["rank"].tolist() == ["1=", "1=", "3"]


def test_gains_go_from_the_closest_to_the_farthest_model():
    found = gains(board(ensemble=(10,), tfidf=(60, 100), rules=(150,)), TRUE, {"tfidf": 0.2})
    assert found.claim.startswith("The bag of words is 16.")
    assert "behind the combined model; the rule set is" in found.claim and "chance" not in found
    assert found.table["95 of 100 within, ms"].tolist()[0] == 0.2


def test_a_lead_within_chance_is_signed_and_said_to_be():
    found = gains(board(ensemble=(30,), tfidf=(32, 100)), TRUE)
    assert "(-" in found.claim and found.claim.endswith("which may be chance.")


def test_rare_labels_are_a_caveat():
    true = np.append(TRUE, ["a_rare"] * 9)
    found = gains(compare(true, {"a": true, "b": np.roll(true, 1)}, n_boot=50), true)
    assert found.caveats[0].startswith("1 of 4 labels have fewer than 10 rows, a rare the fewest")


def test_one_model_has_no_gain():
    found = gains(board(ensemble=(10,)), TRUE)
    assert found.verdict == "" and found.claim.startswith("No other model was recorded")


@pytest.fixture
def asked():
    return rows().assign(query=lambda f: "mail a@b.in about " + f["intent"])


def test_what_users_would_notice_is_counted_both_ways_with_queries(asked):
    before, now = table(asked, wrong=range(20)), table(asked, wrong=range(15, 25))
    found = replaced("ensemble", "tfidf", flips(asked, before, now), asked)
    assert found.claim.startswith("In place of the bag of words, the combined model would answer ")
    assert "15 of 100 queries" in found.claim and "5 of 100 others" in found.claim
    assert found.table["queries"].tolist() == [15, 5]
    assert found.rows["query"].str.contains("[EMAIL]", regex=False).all()
    assert found.rows["note"].str.contains("rightly before").tolist() == [True, True, False]


def test_where_nothing_changes_there_are_no_examples(asked):
    same = table(asked)
    found = replaced("a_b, c", "tfidf", flips(asked, same, same), asked)
    assert "the a b, c would" in found.claim and found.rows.empty


@pytest.mark.parametrize(("best", "why"), [("tfidf", "it leads"), ("x", "it was not recorded")])
def test_without_a_simpler_model_one_line_says_why(best, why):
    found = nothing_replaced(best, "tfidf")
    assert found.claim == f"Nothing is compared with the bag of words: {why}."


def test_names_with_commas_are_quoted_among_others():
    found = leader(board(ensemble=(30,), **{"a, b": (31, 100), "c_d": (31, 150)}))
    assert "“the a, b” and the c d" in found.claim
    assert isinstance(found.table, pd.DataFrame)
