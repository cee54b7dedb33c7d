from __future__ import annotations

import pytest

from nivesh_lib.reporting.tables import (
    PARTS,
    Cell,
    Interval,
    Part,
    interval,
    label,
    number,
    of_100,
    part_of,
    per_cent,
    plain,
    points,
    share,
)


def row_of(value, low=None, high=None):
    return {"x": value, "x_low": low, "x_high": high}


@pytest.mark.parametrize(
    "row",
    [
        {"x": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}},
        {"x": 0.5, "x_low": 0.4, "x_high": 0.6, "low": 0.0},
        {"x": 0.5, "low": 0.4, "high": 0.6},
    ],
)
def test_an_estimate_is_read_from_each_of_its_forms(row):
    assert interval(row, "x") == Interval(0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    "value", [None, "0.5", True, float("nan"), float("inf"), [], {"value": "a"}, 10**400]
)
def test_a_value_that_is_no_finite_number_is_not_measured(value):
    assert number({"x": value}, "x") is None and interval({"x": value}, "x") is None
    for column in (per_cent, plain, points, share):
        assert column("x")({"x": value}) == Cell("not measured")


def test_a_share_is_shown_of_100_with_a_bar_that_stays_on_its_axis():
    assert of_100(row_of(0.5, 0.4, 0.6), "x") == "50.0 (40.0 to 60.0)"
    bar = (0.99, 0.95, 1.0)
    assert share("x")(row_of(0.99, 0.95, 1.02)) == Cell("99.0", "95.0 to 102.0", bar)
    assert share("x")(row_of(0.5)) == Cell("50.0")


def test_zero_has_no_sign():
    assert points("x")(row_of(-0.0001, -0.01, 0.0)) == Cell("0.0", "-1.0 to 0.0")


def test_a_table_leaves_out_columns_without_values():
    rows = [{"name": "a", "kept": "1"}, {"name": "b", "kept": "2"}]
    columns = {"name": label("name"), "gone": label("x"), "no number": plain("x")}
    table = Part(rows=rows, columns={**columns, "kept": label("kept")}).table
    assert table.columns == ("name", "kept")
    assert table.rows[1] == (Cell("b"), Cell("2"))
    assert Part(columns=columns).table is None


def test_a_part_is_made_from_the_rows_that_have_its_fields(monkeypatch):
    monkeypatch.setitem(PARTS, "key", None)
    empty = Part("empty")
    build = part_of("key", texts=["name"], estimates=["x"], when_empty=empty)(
        lambda record, rows: Part(rows=rows)
    )
    usable = {"name": "a", "x": 1}
    record = {"key": [usable, {"name": "a"}, {"name": "", "x": 1}, {"x": 1}, None, 3]}
    assert build(record).rows == [usable] and PARTS["key"] is build
    assert build({"key": usable}).rows == [usable]
    assert build({"key": []}) is empty
    assert build({"key": [{}]}) is None and build({}) is None
