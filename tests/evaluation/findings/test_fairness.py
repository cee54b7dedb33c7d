from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.findings.fairness import (
    counterfactuals,
    fairness,
    handover_by_segment,
    segments,
)
from nivesh_lib.evaluation.robustness.fairness import CONTROL

NAMES = ("income_segment=high", "lower case, comma")


def split(first: tuple[int, int], rest: tuple[int, int]):
    """Return which of (true, rows) of a segment and of the rest are true, and the masks."""
    found = np.concatenate([np.arange(n) < true for true, n in (first, rest)])
    mask = np.arange(len(found)) < first[1]
    return found, dict(zip(NAMES, (mask, ~mask), strict=True))


SIDES = [
    ((50, 100), (450, 500), "not met", "-40.0 (-49.9 to -29.9) points"),
    ((98, 100), (350, 500), "not met", "+28.0 (+21.7 to +32.4) points"),
    ((75, 100), (400, 500), "undecided", "points would be missed more than one time in five"),
    ((4500, 5000), (4505, 5000), "met", "is 5 points from the rest"),
]


@pytest.mark.parametrize(("first", "rest", "verdict", "words"), SIDES)
def test_a_gap_is_found_excluded_or_not_established(first, rest, verdict, words):
    found = fairness(*split(first, rest))
    assert found.verdict == verdict and words in found.claim
    assert found.mark == "no segment's accuracy is 5 points from the rest"
    assert ("not established" in found.claim) == (verdict == "undecided")
    assert found.title + "." == found.claim and found.claim[0].isupper()


def test_a_segment_that_is_served_better_is_said_to_be():
    better, worse = (fairness(*split(*two)).claim for two in (SIDES[1][:2], SIDES[0][:2]))
    assert "Of income segment: high, 98 of 100 are answered rightly, +28.0" in better
    assert "Of income segment: high, 50 of 100 are answered rightly, -40.0" in worse


@pytest.mark.parametrize(("first", "rest", "verdict", "words"), SIDES)
def test_hand_over_is_judged_in_the_same_way_as_right_answers(first, rest, verdict, words):
    found = handover_by_segment(*split(first, rest))
    assert (found.verdict, found.name) == (verdict, "handover_by_segment") and words in found.claim
    assert found.mark == "no segment's share handed over is 5 points from the rest"


def test_a_segment_that_is_handed_over_more_often_is_on_the_right_of_the_band():
    found = handover_by_segment(*split((60, 100), (50, 500)))
    assert "60 of 100 are handed over, +50.0" in found.claim
    (row,) = found.cells
    assert row["handed over, of 100"] == 60 and row["against the rest"] == pytest.approx(50)


def test_the_gap_that_would_be_found_is_beyond_the_margin_and_to_a_segment_s_harm():
    least = "found 4 times of 5 from"
    few, many = (handover_by_segment(*split((n // 10, n), (50, 500))) for n in (40, 400))
    assert few.cells[0][least] > many.cells[0][least] > 5
    worse = fairness(*split((390, 400), (490, 500)))  # a gap of more than 2 points must be below
    assert 5 < worse.cells[0][least] < 98


def test_high_and_medium_income_handed_over_at_different_rates_is_judged():
    found = handover_by_segment(*split((37, 162), (97, 638)))  # 22.8 against 15.2 of 100
    assert found.verdict == "undecided"
    assert "(lower case, comma) to 23 of 100 (income segment: high) are handed" in found.claim


def test_so_few_rows_that_nothing_would_show_are_said_to_be():
    found = fairness(*split((1, 20), (2, 40)))
    assert found.verdict == "undecided" and "even the largest gap" in found.claim


@pytest.mark.parametrize("masks", [{}, {"few": np.arange(200) < 5}])
def test_without_segments_one_line_says_so(masks):
    found = fairness(np.ones(200), masks)
    assert found.verdict == "" == found.mark and "no segments of enough rows" in found.claim


def test_without_a_threshold_nothing_is_handed_over():
    assert handover_by_segment(None, {}).verdict == ""


def scored(low: float, high: float) -> pd.DataFrame:
    row = {"slice": "language=hi", "rows": 50, "accuracy": 0.8, "accuracy_low": 0.7}
    row |= {"accuracy_high": 0.9, "macro_f1": 0.8, "macro_f1_low": 0.7, "macro_f1_high": 0.9}
    row |= {"calibration": (low + high) / 2, "calibration_low": low, "calibration_high": high}
    return pd.DataFrame([row])


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.02, 0.1), "is off for language: hi (by +6.0 (+2.0 to +10.0) points)."),
        ((-0.1, -0.02), "is off for language: hi (by -6.0 (-10.0 to -2.0) points)."),
        ((-0.1, 0.1), "is not shown to be off for the 1 group of queries."),
    ],
)
def test_a_segment_whose_confidence_is_off_is_named(ends, words):
    found = segments(scored(*ends))
    assert words in found.claim and "handed over" not in found.table
    assert "no segments" in segments(pd.DataFrame()).claim


def test_of_several_groups_the_one_that_is_furthest_off_is_named():
    table = pd.concat([scored(0.02, 0.1), scored(-0.2, -0.1), scored(-0.1, 0.1)])
    claim = segments(table).claim
    assert "is off for language: hi (by -15.0" in claim
    assert claim.endswith("points) and 1 more of 3 groups of queries.")


def rates(low: float) -> pd.DataFrame:
    rows = [(CONTROL, 200, 0.065, np.nan, np.nan), ("region", 200, 0.06, -0.005, -0.04)]
    rows += [("style of amounts", 200, 0.1, 0.035, low)]
    table = pd.DataFrame(rows, columns=["attribute", "rows", "flipped", "more", "more_low"])
    return table.assign(flipped_low=0.04, flipped_high=0.15, more_high=table["more"] + 0.08)


@pytest.mark.parametrize(
    ("low", "words"),
    [
        (0.01, "Style of amounts changes 10 of 100 answers (4 to 15), more than another name does"),
        (
            -0.02,
            "Nothing about who asks, or how, is shown to change more answers than another name",
        ),
    ],
)
def test_the_style_of_amounts_is_judged_against_another_name(low, words):
    found = counterfactuals(rates(low))
    assert found.claim.startswith(words) and found.estimate.low == low
    left = "up to 12 points more are not excluded (style of amounts)" in found.claim
    assert left == (low < 0)


@pytest.mark.parametrize("table", [rates(0.4).head(1), pd.DataFrame()])
def test_without_pairs_to_compare_one_line_says_so(table):
    assert counterfactuals(table).claim.startswith("No answers to pairs that differ")
