from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.intervals import wilson
from nivesh_lib.evaluation.robustness.behaviour import behaviour, changed
from nivesh_lib.evaluation.robustness.cases import EN, HINGLISH, OWN_WISH

FRAME = pd.DataFrame({"id": list("abcd"), "intent": ["loan", "loan", "tax", "tax"]})


def table(p_tax, ids="abcd", **columns) -> pd.DataFrame:
    p_tax = np.array(p_tax)
    return pd.DataFrame({**columns, "id": list(ids), "fold": 0, "loan": 1 - p_tax, "tax": p_tax})


OOF = table([0.2, 0.2, 0.8, 0.8])


def test_an_invariance_fails_where_the_answer_differs_from_the_one_as_written():
    recorded = table([0.1, 0.9, 0.6, 0.4], probe="view: typos")
    (row,) = behaviour(FRAME, OOF, recorded).to_dict("records")
    assert (row["kind"], row["test"], row["rows"]) == ("invariance", "typos", 4)
    assert (row["failed"], row["low"], row["high"]) == (0.5, *wilson(0.5, 4))


def test_rows_are_matched_by_id_not_by_place():
    assert changed(OOF, OOF[::-1]).tolist() == [False] * 4
    assert changed(OOF, table([0.9, 0.9], ids="da")).tolist() == [False, True]


@pytest.mark.parametrize(
    ("test", "p_tax", "failed"),
    [
        # Of its own intent, loan for a and b, tax for c and d, each loses 0.2, 0.05, 0.2, 0.
        (OWN_WISH, [0.4, 0.25, 0.6, 0.8], {"a stated wish gets less likely": 0.5}),
        # Tax, which is not wanted, gains 0.2 and 0.1 (within the tolerance) and loses 0.2 twice.
        ("ruled out: tax", [0.4, 0.3, 0.6, 0.6], {"a topic ruled out gets likelier": 0.25}),
        # The new wish is tax; the old one is loan for a and b.
        (
            "taken back for: tax",
            [0.05, 0.3, 0.8, 0.8],
            {"a wish taken back gets likelier": 0.25, "a new wish gets less likely": 0.25},
        ),
    ],
)
def test_a_direction_fails_where_a_probability_moves_the_wrong_way(test, p_tax, failed):
    found = behaviour(FRAME, OOF, table(p_tax, probe=test))
    assert dict(zip(found["test"], found["failed"], strict=True)) == failed


def test_a_pair_counts_once_however_many_models_answer_it():
    pairs = pd.DataFrame({"id": ["p", "q"], "intent": ["tax", "loan"]})
    answered = [  # two models: p in Hinglish is wrong for one of them
        table([0.9, 0.1], ids="pq", probe=EN),
        table([0.9, 0.1], ids="pq", probe=EN).assign(fold=1),
        table([0.9, 0.1], ids="pq", probe=HINGLISH),
        table([0.3, 0.1], ids="pq", probe=HINGLISH).assign(fold=1),
    ]
    found = behaviour(FRAME, OOF, pd.concat(answered), paraphrases=pairs).set_index("test")
    assert found["failed"].tolist() == [0.25, 0.0, 0.25]
    assert (found["rows"] == 2).all()
    assert tuple(found.iloc[0][["low", "high"]]) == wilson(0.25, 2)


def test_the_interval_over_pairs_covers_when_models_of_a_pair_agree():
    rng, n, draws = np.random.default_rng(5), 40, 2000
    hard = rng.beta(0.4, 1.6, size=(draws, n, 1))  # some pairs fail for most models, most for none
    shares = (rng.random((draws, n, 5)) < hard).mean(axis=(1, 2))
    covered = [low <= 0.2 <= high for low, high in (wilson(s, n) for s in shares)]
    assert np.mean(covered) > 0.95


def test_tests_without_answers_are_left_out():
    assert behaviour(FRAME, OOF, table([], ids="", probe="other")).empty
