from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from nivesh_lib.evaluation import intervals
from nivesh_lib.evaluation.intervals import MIN_ROWS, share_of, wilson
from nivesh_lib.evaluation.scores import (
    by_slice,
    changed_confusions,
    confusion,
    headline_mask,
    masks_by_column,
    masks_by_rule,
    masks_by_tag,
    paired_difference,
    per_class,
    score,
    top_confusions,
)
from nivesh_lib.records.estimate import Estimate

steady = settings(derandomize=True, deadline=None, max_examples=80)
pairs = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1)
TRUE = ["tax", "tax", "tax", "loan", "loan", "goal"]
PREDICTED = ["tax", "loan", "loan", "loan", "tax", "goal"]
LABELS = ["tax", "loan", "goal", "budget"]


def columns(rows):
    return tuple(list(column) for column in zip(*rows, strict=True))


def macro_f1(true, predicted):
    return f1_score(true, predicted, labels=sorted(set(true)), average="macro", zero_division=0.0)


def guesses(rng, true, accuracy):
    """Predictions that are right with the given probability, else one label off."""
    return (true + (rng.random(true.shape) > accuracy)) % 3


# --- values ----------------------------------------------------------------------


@steady
@given(pairs)
def test_values_agree_with_scikit_learn(rows):
    true, predicted = columns(rows)
    found = score(true, predicted, n_boot=2)
    assert found["accuracy"].value == pytest.approx(accuracy_score(true, predicted))
    assert found["macro_f1"].value == pytest.approx(macro_f1(true, predicted))


@steady
@given(pairs)
def test_the_interval_of_accuracy_brackets_its_value(rows):
    found = score(*columns(rows), n_boot=300)["accuracy"]
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.n == len(rows)


@pytest.mark.parametrize("accuracy", [0.05, 0.5, 0.95])
def test_the_interval_of_macro_f1_brackets_its_value(accuracy):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 120)
    found = score(true, guesses(rng, true, accuracy), n_boot=300)["macro_f1"]
    assert found.low < found.value < found.high


def test_faultless_predictions_score_one_and_leave_some_doubt():
    for found in score(TRUE, TRUE, n_boot=50).values():
        assert (found.value, found.high) == (1, 1) and found.low < 1


def test_the_seed_decides_the_interval_but_not_the_value():
    columns = TRUE * 9, PREDICTED * 8 + TRUE
    first, again, other = (score(*columns, n_boot=99, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first["accuracy"].value == other["accuracy"].value
    assert first["accuracy"] != other["accuracy"]


@pytest.mark.parametrize(("true", "predicted"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_columns_that_do_not_fit_are_refused(true, predicted):
    with pytest.raises(ValueError, match=f"{len(true)}, {len(predicted)}"):
        score(true, predicted)


def test_a_label_that_is_only_predicted_does_not_count_as_a_class():
    assert score(["a", "a"], ["a", "b"], n_boot=2)["macro_f1"].value == pytest.approx(2 / 3)


# --- intervals -------------------------------------------------------------------


def test_the_interval_of_accuracy_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        true = rng.integers(0, 3, 300)
        found = score(true, guesses(rng, true, 0.85), n_boot=400)["accuracy"]
        held += found.low <= 0.85 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        true = rng.integers(0, 3, 300)
        first = guesses(rng, true, 0.85)
        # Wrong where the first is, and in one row of ten: 0.85 - 0.9 * 0.85 apart.
        second = np.where(rng.random(300) < 0.1, (true + 1) % 3, first)
        found = paired_difference(true, first, second, n_boot=400)
        held += found.low <= 0.085 <= found.high
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_scoring_in_blocks_changes_nothing(monkeypatch, metric):
    rng = np.random.default_rng(3)
    true, first, second = rng.integers(0, 40, (3, 500)).astype(str)
    whole = score(true, first, n_boot=60), paired_difference(true, first, second, metric=metric)
    monkeypatch.setattr(intervals, "_BLOCK_CELLS", 7 * 40 * 40)
    blocks = score(true, first, n_boot=60), paired_difference(true, first, second, metric=metric)
    assert blocks == whole


def test_many_labels_score_as_if_each_draw_was_scored_alone():
    rng = np.random.default_rng(3)
    true = rng.integers(0, 400, 900)
    predicted = np.where(rng.random(900) < 0.7, true, rng.integers(0, 400, 900))
    draws = np.random.default_rng(42).integers(0, 900, (60, 900))
    alone = [1 - macro_f1(true[rows], predicted[rows]) for rows in draws]
    found = paired_difference(true, true, predicted, metric="macro_f1", n_boot=60)
    np.testing.assert_allclose([found.low, found.high], np.percentile(alone, [2.5, 97.5]))


# --- differences -----------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_difference_is_that_of_the_scores(metric):
    other = TRUE[::-1]
    found = paired_difference(TRUE, PREDICTED, other, metric=metric)
    ours, theirs = (score(TRUE, column, n_boot=2)[metric].value for column in (PREDICTED, other))
    assert found.value == pytest.approx(ours - theirs)
    assert found.low <= found.value <= found.high


@steady
@given(pairs)
def test_a_difference_turns_its_sign_with_the_order(rows):
    true, predicted = columns(rows)
    there = paired_difference(true, predicted, true, n_boot=50)
    back = paired_difference(true, true, predicted, n_boot=50)
    assert (there.value, there.low, there.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )


def test_a_model_does_not_differ_from_itself():
    found = paired_difference(TRUE, PREDICTED, PREDICTED, metric="macro_f1")
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_what_is_hard_for_both_cancels_out():
    rng = np.random.default_rng(5)
    true = rng.integers(0, 3, 300)
    shared = guesses(rng, true, 0.6)
    better = np.where(rng.random(300) < 0.1, true, shared)
    apart = score(true, better)["accuracy"]
    paired = paired_difference(true, better, shared)
    assert paired.high - paired.low < (apart.high - apart.low) / 2


# --- tables ----------------------------------------------------------------------


def test_an_estimate_reads_as_value_and_interval():
    assert str(Estimate(0.71049, 0.6, 0.8125, 300)) == "0.710 [0.600, 0.812]"
    assert Estimate(0.5, 0.4, 0.6, 9).as_dict() == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}


def test_the_table_per_class_has_every_label_in_the_order_given():
    table = per_class(TRUE, PREDICTED, LABELS)
    assert table.index.tolist() == LABELS
    assert table["support"].tolist() == [3, 2, 1, 0]
    assert table.loc["tax", ["precision", "recall", "f1"]].tolist() == pytest.approx(
        [1 / 2, 1 / 3, 2 / 5]
    )


def test_the_confusion_table_counts_truth_in_rows():
    table = confusion(TRUE, PREDICTED, LABELS)
    assert table.loc["tax"].tolist() == [1, 2, 0, 0]
    assert table["tax"].tolist() == [1, 1, 0, 0]


def test_top_confusions_are_the_most_frequent_wrong_pairs():
    found = top_confusions(TRUE, PREDICTED, LABELS)
    assert found.to_dict("list") == {
        "true": ["tax", "loan"],
        "predicted": ["loan", "tax"],
        "rows": [2, 1],
        "share of true": pytest.approx([2 / 3, 1 / 2]),
    }


@pytest.mark.parametrize(("predicted", "n", "rows"), [(TRUE, 5, 0), (PREDICTED, 1, 1)])
def test_top_confusions_are_as_many_as_there_are_or_asked_for(predicted, n, rows):
    found = top_confusions(TRUE, predicted, LABELS, n=n)
    assert (len(found), len(found.columns)) == (rows, 4)


def test_twelve_right_out_of_twelve_is_not_certainty():
    estimate = score(["a", "b"] * 6, ["a", "b"] * 6)["accuracy"]
    assert estimate.value == 1.0 and estimate.low == pytest.approx(0.757, abs=0.001)


@pytest.mark.parametrize(
    ("share", "n", "low", "high"), [(0.0, 10, 0.0, 0.2775), (0.5, 100, 0.4038, 0.5962)]
)
def test_wilson_s_interval_has_the_published_values(share, n, low, high):
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


def test_a_share_comes_with_wilson_s_interval():
    found = share_of(np.array([True, False, False, False]))
    assert (found.value, found.low, found.high, found.n) == (0.25, *wilson(0.25, 4), 4)


def test_the_pairs_whose_errors_changed_most_come_first():
    true = ["a"] * 4 + ["b"] * 3
    before = ["b", "b", "b", "a", "b", "b", "c"]
    after = ["a", "a", "a", "a", "b", "c", "c"]
    found = changed_confusions(true, before, after, ["a", "b", "c"])
    assert found.to_numpy().tolist() == [["a", "b", 3, 0], ["b", "c", 1, 2]]


FRAME = pd.DataFrame(
    {
        "selection": ["natural", "hard", None, "natural"],
        "language": ["hi", "en", "hi", None],
        "traits": ["typo long", None, "typo", ""],
    }
)


def test_hard_rows_stay_out_of_the_headline():
    assert headline_mask(FRAME).tolist() == [True, False, True, True]


def test_a_label_of_one_fold_stays_out_of_the_headline():
    frame = pd.DataFrame({"intent": list("aabbb"), "fold": [0, 0, 0, 1, 1]})
    assert headline_mask(frame).tolist() == [False, False, True, True, True]
    assert headline_mask(frame[:2]).all()  # one fold is a test set, not a cross-validation
    assert headline_mask(frame.assign(fold=frame["intent"])).all()  # else nothing would count


def test_all_rows_are_in_the_headline_where_none_was_selected():
    assert headline_mask(FRAME[["language"]]).tolist() == [True] * 4


def test_each_value_of_a_column_is_a_slice():
    masks = masks_by_column(FRAME, ["language", "income_segment"])
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "language=en": [False, True, False, False],
        "language=hi": [True, False, True, False],
    }


def test_each_tag_is_a_slice_and_rows_may_be_in_several():
    masks = masks_by_tag(FRAME)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "traits=long": [True, False, False, False],
        "traits=typo": [True, False, True, False],
    }


def test_a_frame_without_tags_has_no_tag_slices():
    assert masks_by_tag(FRAME[["language"]]) == {}


def rows_of(n):
    """``n`` true and predicted labels, every fourth wrong."""
    return ["a", "b"] * (n // 2), ["a", "b", "a", "a"] * (n // 4)


@pytest.mark.parametrize(("rows", "kept"), [(MIN_ROWS - 1, []), (MIN_ROWS, ["small"])])
def test_a_slice_below_the_least_number_of_rows_is_dropped(rows, kept):
    mask = np.arange(100) < rows
    table = by_slice(*rows_of(100), {"small": mask, "all": mask | True}, n_boot=20)
    assert table["slice"].tolist() == [*kept, "all"]
    assert table["rows"].tolist() == [*[rows for _ in kept], 100]


def test_a_slice_is_scored_on_its_own_rows():
    true, predicted = rows_of(100)
    first = np.arange(100) < 30
    (row,) = by_slice(true, predicted, {"first": first}, n_boot=50).to_dict("records")
    alone = score(true[:30], predicted[:30], n_boot=50)
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == (
        alone["accuracy"].value,
        alone["accuracy"].low,
        alone["accuracy"].high,
    )
    assert row["macro_f1"] == alone["macro_f1"].value


def test_no_slice_large_enough_gives_an_empty_table():
    assert by_slice(["a"], ["a"], {"one": np.array([True])}).empty


def test_a_rule_on_the_text_is_a_function():
    frame = pd.DataFrame({"query": ["EMI of ₹5k", "sip", "emi kya hai"]})
    masks = masks_by_rule(frame, {"short": lambda text: len(text) < 5})
    assert masks["short"].tolist() == [False, True, False]
