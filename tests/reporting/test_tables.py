from __future__ import annotations

import pytest

from nivesh_lib.reporting.tables import (
    Cell,
    Interval,
    interval,
    number,
    of_100,
    scaled,
    share,
    table,
)

FOUND = Interval(0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    "row",
    [
        {"x": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}},
        {"x": 0.5, "x_low": 0.4, "x_high": 0.6, "low": 0.0},
        {"x": 0.5, "low": 0.4, "high": 0.6},
    ],
)
def test_an_estimate_is_read_however_a_record_writes_it(row):
    assert interval(row, "absent", "x") == FOUND


@pytest.mark.parametrize("odd", [None, "0.5", True, float("nan"), float("inf"), [], {"value": "a"}])
def test_what_is_no_finite_number_is_not_measured(odd):
    assert number({"x": odd}, "x") is None and interval({"x": odd}, "x") is None
    assert scaled(interval({"x": odd}, "x")) == Cell("not measured")


def test_a_share_is_said_of_100_with_a_bar_that_stays_on_its_axis():
    assert of_100(FOUND) == "50.0 (40.0 to 60.0)"
    assert share(Interval(0.99, 0.95, 1.02)) == Cell("99.0", "95.0 to 102.0", (0.99, 0.95, 1.0))
    assert share(Interval(0.5)) == Cell("50.0")


def test_zero_has_no_sign():
    assert scaled(Interval(-0.0001, -0.01, 0.0), "{:+.1f}") == Cell("0.0", "-1.0 to 0.0")


def test_a_table_leaves_out_columns_without_anything_in_them():
    rows = [(Cell("a"), Cell(""), Cell("1")), (Cell("b"), Cell("not measured"), Cell("2"))]
    made = table(("name", "gone", "kept"), rows)
    assert made is not None and made.columns == ("name", "kept")
    assert made.rows[1] == (Cell("b"), Cell("2"))
    assert table(("name",), []) is None


def test_a_number_that_no_float_can_hold_is_none():
    assert number({"rows": 10**400}, "rows") is None
