from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.metrics import score
from nivesh_lib.evaluation.slices import (
    MIN_ROWS,
    by_slice,
    headline_mask,
    masks_by_column,
    masks_by_rule,
    masks_by_tag,
)

FRAME = pd.DataFrame(
    {
        "selection": ["natural", "hard", None, "natural"],
        "language": ["hi", "en", "hi", None],
        "traits": ["typo long", None, "typo", ""],
    }
)


def test_hard_rows_stay_out_of_the_headline():
    assert headline_mask(FRAME).tolist() == [True, False, True, True]


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


def test_a_rule_on_the_text_is_a_pattern_in_any_case_or_a_function():
    frame = pd.DataFrame({"query": ["EMI of ₹5k", "sip", "emi kya hai"]})
    masks = masks_by_rule(frame, {"emi": r"\bemi\b", "short": lambda text: len(text) < 5})
    assert masks["emi"].tolist() == [True, False, True]
    assert masks["short"].tolist() == [False, True, False]
