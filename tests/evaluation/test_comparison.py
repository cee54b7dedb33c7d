from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from nivesh_lib.evaluation import comparison
from nivesh_lib.evaluation.comparison import compare, mcnemar, ranks, swap_test
from nivesh_lib.evaluation.scores import paired_difference, score


def guesses(rng, true, accuracy, k=4):
    """Predictions that are right with the given probability, else one label off."""
    return (true + (rng.random(true.shape) > accuracy)) % k


@pytest.fixture(scope="module")
def models():
    """Two models that are nearly the same and much better than a third."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 400)
    good = guesses(rng, true, 0.9)
    twin = np.where(rng.random(400) < 0.1, guesses(rng, true, 0.88), good)
    return true, {"poor": guesses(rng, true, 0.6), "good": good, "twin": twin}


# --- tests -----------------------------------------------------------------------


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 5), (3, 12), (41, 79), (9, 0)])
def test_mcnemar_agrees_with_statsmodels(only_first, only_second):
    expected = statsmodels_mcnemar([[7, only_first], [only_second, 2]], exact=True).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(min(expected, 1))


def test_the_swap_test_agrees_with_swapping_whole_columns():
    rng = np.random.default_rng(2)
    true = rng.integers(0, 3, 60)
    first, second = guesses(rng, true, 0.8, 3), guesses(rng, true, 0.65, 3)

    def apart(one, other):
        scores = [f1_score(true, column, average="macro") for column in (one, other)]
        return abs(scores[0] - scores[1])

    found = apart(first, second)
    swapped = rng.random((700, 60)) < 0.5
    larger = [apart(np.where(s, second, first), np.where(s, first, second)) for s in swapped]
    slow = np.mean(np.array(larger) >= found - 1e-9)
    assert swap_test(true, first, second) == pytest.approx(slow, abs=0.05)
    assert 0.01 < slow < 0.5  # neither end, where anything would agree


def test_of_all_swaps_the_share_with_a_larger_difference_is_mcnemar_s_p():
    # Where every label has the same rows and errors go nowhere, macro-F1 follows accuracy.
    true = np.repeat(["a"], 40)
    first = np.array(["a"] * 30 + ["?"] * 10)
    second = np.array(["a"] * 20 + ["?"] * 18 + ["a"] * 2)
    exact = binomtest(10, 12).pvalue
    assert swap_test(true, first, second, n_draws=20_000) == pytest.approx(exact, abs=0.01)


def test_the_swap_test_in_blocks_changes_nothing(monkeypatch, models):
    true, columns = models
    whole = swap_test(true, columns["good"], columns["twin"], n_draws=500)
    monkeypatch.setattr(comparison, "_BLOCK_CELLS", 300)
    assert swap_test(true, columns["good"], columns["twin"], n_draws=500) == pytest.approx(
        whole, abs=0.05
    )


def test_a_model_cannot_be_told_from_itself(models):
    true, columns = models
    assert swap_test(true, columns["good"], columns["good"]) == 1


def test_the_swap_test_rejects_models_that_are_alike_as_seldom_as_it_says():
    rng = np.random.default_rng(11)
    rejected = 0
    for _ in range(400):
        true = rng.integers(0, 4, 200)
        first, second = (guesses(rng, true, 0.8) for _ in range(2))
        rejected += swap_test(true, first, second, n_draws=199) <= 0.05
    assert 0.02 <= rejected / 400 <= 0.08


# Uncorrected, one of the ten pairs would differ in about 24 % of runs; 150 runs tell that from 5.
@pytest.mark.parametrize(
    ("n_runs", "most"), [(150, 0.09), pytest.param(400, 0.07, marks=pytest.mark.slow)]
)
def test_of_five_models_that_are_alike_one_differs_in_at_most_one_run_of_twenty(n_runs, most):
    rng = np.random.default_rng(12)
    wrong = 0
    for _ in range(n_runs):
        right = rng.random((5, 200)) < 0.8
        pairs = combinations(right, 2)
        p = [mcnemar(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in pairs]
        wrong += min(multipletests(p, method="holm")[1]) < 0.05
    assert wrong / n_runs <= most


# --- ranks -----------------------------------------------------------------------


def differing(*pairs):
    return {frozenset(pair): pair in pairs for pair in combinations("abcd", 2)}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], ["1=", "1=", "1=", "1="]),
        ([("a", "c"), ("a", "d")], ["1=", "1=", "3=", "3="]),
        ([("a", "b"), ("b", "c"), ("c", "d")], ["1", "2", "3", "4"]),
        # b starts a group, so that d is ranked against b, though it may be tied with a.
        ([("a", "b"), ("b", "d")], ["1", "2=", "2=", "4"]),
    ],
)
def test_models_tied_with_the_first_of_their_group_share_its_rank(pairs, expected):
    assert ranks("abcd", differing(*pairs)) == expected


def test_better_models_rank_first_and_twins_share_a_rank(models):
    table = compare(*models, n_boot=200)
    assert [(row.rank, row.model) for row in table.models] == [
        ("1=", "good"),
        ("1=", "twin"),
        ("3", "poor"),
    ]
    assert table.champion == "good" and table.ties == ("twin",)
    assert table.sentence == "On these 400 rows good cannot be told from twin."


# --- the table -------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_scores_and_differences_are_those_of_the_metrics(models, metric):
    true, columns = models
    table = compare(true, columns, metric=metric, n_boot=200)
    last = table.models[-1]
    assert last.scores == score(true, columns["poor"], n_boot=200)
    assert last.to_champion.value == paired_difference(
        true, columns["poor"], columns["good"], metric=metric, n_boot=200
    )
    assert last.to_champion.differs and last.to_next is None


def test_for_accuracy_the_test_is_mcnemar_s(models):
    found = compare(*models, metric="accuracy", n_boot=50).models[-1].to_champion
    assert found.p == found.p_mcnemar == mcnemar(found.only_this, found.only_other)
    assert found.p_corrected == found.p_mcnemar_corrected >= found.p


def test_rows_that_one_model_alone_got_right_are_counted(models):
    true, columns = models
    found = compare(true, columns, n_boot=50).models[0].to_next
    good, twin = columns["good"] == true, columns["twin"] == true
    assert (found.only_this, found.only_other) == ((good & ~twin).sum(), (twin & ~good).sum())


def test_a_named_champion_is_compared_with_though_it_is_not_the_best(models):
    table = compare(*models, champion="poor", n_boot=50)
    assert [row.to_champion is None for row in table.models] == [False, False, True]
    assert table.models[0].to_champion.value.value > 0
    assert table.sentence == "poor differs from each of the others by more than chance."


def test_one_model_is_a_table_too(models):
    true, columns = models
    table = compare(true, {"good": columns["good"]}, n_boot=50)
    assert (table.pairs, table.models[0].rank) == (0, "1")
    assert table.sentence == "good is the only model here."


def test_the_table_is_plain_data(models):
    table = compare(*models, n_boot=50)
    plain = json.loads(json.dumps(table.as_dict()))
    assert [row["rank"] for row in plain["models"]] == ["1=", "1=", "3"]
    assert plain["models"][1]["to_champion"]["value"]["n"] == 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": {}}, "no model"),
        ({"metric": "f1"}, "'f1' is not one of accuracy, macro_f1"),
        ({"champion": "b"}, "'b' is not one of a"),
        ({"predictions": {"a": ["x"]}}, "a has 1 predictions for 2 rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    arguments = {"y_true": ["x", "y"], "predictions": {"a": ["x", "y"]}} | change
    with pytest.raises(ValueError, match=message):
        compare(**arguments)
