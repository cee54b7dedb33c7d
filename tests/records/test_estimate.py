"""Tests of estimates and their columns."""

from __future__ import annotations

from nivesh_lib.records.estimate import Estimate, as_columns


def test_an_estimate_reads_as_value_and_interval():
    assert str(Estimate(0.5, 0.4, 0.6, 10)) == "0.500 [0.400, 0.600]"


def test_columns_are_named_after_the_estimate_and_in_its_order():
    low, high = Estimate(0.1, 0.0, 0.2, 5), Estimate(0.9, 0.8, 1.0, 5)
    assert low.columns("recall") == {"recall": 0.1, "recall_low": 0.0, "recall_high": 0.2}
    names = ["b", "b_low", "b_high", "a", "a_low", "a_high"]
    assert list(as_columns({"b": low, "a": high})) == names
