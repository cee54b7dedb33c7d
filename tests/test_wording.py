from __future__ import annotations

import pytest

from nivesh_lib.records.estimate import Estimate
from nivesh_lib.wording import (
    counted,
    human_bytes,
    milliseconds,
    of_100,
    percent,
    whole,
    would_show,
)


@pytest.mark.parametrize(
    ("size", "text"), [(None, "not measured"), (12, "12 B"), (1500, "1.5 kB"), (3.2e6, "3.2 MB")]
)
def test_sizes_are_readable(size, text):
    assert human_bytes(size) == text


def test_a_missing_time_is_not_measured():
    assert (milliseconds(None), milliseconds(None, "-")) == ("not measured", "-")


@pytest.mark.parametrize(("ms", "text"), [(0.412, "0.41 ms"), (1.23, "1.2 ms"), (21.8, "21.8 ms")])
def test_a_time_below_a_millisecond_has_two_decimals(ms, text):
    assert milliseconds(ms) == text


@pytest.mark.parametrize(("value", "text"), [(6.5, "7"), (21.5, "22"), (0.49, "0"), (99.9, "100")])
def test_a_half_is_rounded_up(value, text):
    assert whole(value) == text
    assert of_100(Estimate(value / 100, 0.0, 1.0, 9)) == f"{text} of 100 queries (0 to 100)"


def test_one_is_not_many():
    found = [counted(n, "row") for n in (0, 1, 1200)]
    assert [*found, counted(2, "query", "queries")] == [
        "0 rows",
        "1 row",
        "1,200 rows",
        "2 queries",
    ]


@pytest.mark.parametrize(
    ("share", "n", "text"),
    [
        (2 / 3, 3, "2 of 3 queries (10 to 90 of 100)"),
        (0.5, 19, "50 of 100 queries (10 to 90)"),  # no number of 19 rows is a half of them
        (0.5, 20, "50 of 100 queries (10 to 90)"),
    ],
)
def test_a_share_of_very_few_rows_is_said_of_them(share, n, text):
    assert of_100(Estimate(share, 0.1, 0.9, n)) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.031, "3.1 %"), (0.5, "50 %"), (1, "100 %")]
)
def test_a_percentage_has_no_needless_digits(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("least", "words"),
    [
        ([0.08, 0.124, 0.1], "; a gap below 8 points would be missed"),
        ([0.08, 0.081], "; a gap below 8 points would be missed"),
        ([0.08, float("nan")], "; even the largest gap would be missed"),
        ([], ""),
    ],
)
def test_how_large_a_gap_would_have_to_be_is_said(least, words):
    found = would_show(least)
    assert found.startswith(words) and found.endswith("more than one time in five" if least else "")
