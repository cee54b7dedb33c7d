from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from nivesh_lib.evaluation.intervals import paired_accuracy_difference, wilson
from nivesh_lib.evaluation.robustness.fairness import (
    CONTROL,
    _holm_alphas,
    accuracy_gaps,
    detectable,
    flip_rates,
    segment_scores,
)
from nivesh_lib.evaluation.samples import accuracy_change
from nivesh_lib.evaluation.scores import masks_by_column, masks_by_rule


def segments(*counts: tuple[int, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return right answers and masks for (right, rows) of each segment."""
    right = np.concatenate([np.arange(n) < r for r, n in counts])
    place = np.repeat(np.arange(len(counts)), [n for _, n in counts])
    return right, {f"s{k}": place == k for k in range(len(counts))}


# --- differences between segments --------------------------------------------------------------


def test_the_interval_is_newcombe_s_published_one():
    right, masks = segments((56, 70), (48, 80))  # Newcombe (1998), table II, (a), method 10
    (gap,) = accuracy_gaps(right, {"s0": masks["s0"]})
    assert gap.difference.value == pytest.approx(0.2)
    found = (gap.difference.low, gap.difference.high)
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert gap.verdict == "gap"


def test_alone_it_is_the_interval_that_drift_uses():
    right, masks = segments((30, 60), (150, 200))
    (gap,) = accuracy_gaps(right, {"s0": masks["s0"]})
    known = accuracy_change(right[masks["s1"]], right[masks["s0"]])
    assert (gap.difference.low, gap.difference.high) == pytest.approx((known.low, known.high))


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        (((50, 100), (450, 500)), "gap"),
        (((75, 100), (400, 500)), "cannot tell"),
        (((4500, 5000), (4505, 5000)), "no gap"),
        (((2900, 5000), (3100, 5000)), "cannot tell"),  # surely a difference, of about 4 points
    ],
)
def test_the_verdict_is_of_the_interval(counts, verdict):
    right, masks = segments(*counts)
    assert [gap.verdict for gap in accuracy_gaps(right, masks)] == [verdict]


def test_two_values_are_one_comparison_and_the_smaller_is_named():
    right, masks = segments((400, 500), (75, 100))
    assert [gap.segment for gap in accuracy_gaps(right, masks)] == ["s1"]


def test_segments_of_few_rows_are_left_out():
    right, masks = segments((10, 19), (80, 100))
    assert accuracy_gaps(right, masks) == []


def test_the_more_comparisons_the_wider_the_intervals():
    right, masks = segments((56, 70), (48, 80))
    more = {f"m{k}": np.roll(np.arange(150) < 75, 7 * k) for k in range(9)}
    alone, *_ = accuracy_gaps(right, {"s0": masks["s0"]})
    among, *_ = accuracy_gaps(right, {"s0": masks["s0"], **more})
    assert among.difference.low < alone.difference.low
    assert (alone.verdict, among.verdict) == ("gap", "cannot tell")


@pytest.mark.parametrize(
    "p_values",
    [
        [0.2, 0.001, 0.02, 0.03],
        [0.03, 0.04],  # the second lies below 0.05, but the first stops the procedure
        [0.01, 0.04, 0.9],
        [0.016, 0.024, 0.05],
        [0.5, 0.6],
    ],
)
def test_levels_reject_what_holm_s_procedure_rejects(p_values):
    alphas = _holm_alphas({str(k): p for k, p in enumerate(p_values)})
    mine = [p <= alphas[str(k)] for k, p in enumerate(p_values)]
    assert mine == multipletests(p_values, method="holm")[0].tolist()


# 500 draws have a standard error of 1 point: an interval of 91 or 99 % is still refused.
@pytest.mark.parametrize(
    ("draws", "lowest", "highest"),
    [(500, 0.925, 0.975), pytest.param(2000, 0.93, 0.97, marks=pytest.mark.slow)],
)
def test_a_difference_of_just_five_points_is_seldom_called_a_gap_and_the_interval_covers_it(
    draws, lowest, highest
):
    rng, n = np.random.default_rng(7), 300
    masks = {"s": np.arange(2 * n) < n}
    found = []
    for _ in range(draws):
        right = rng.random(2 * n) < np.where(masks["s"], 0.75, 0.80)
        found += accuracy_gaps(right, masks)
    covered = np.mean([g.difference.low <= -0.05 <= g.difference.high for g in found])
    assert lowest <= covered <= highest
    assert np.mean([g.verdict == "gap" for g in found]) < 0.05


def test_equal_segments_are_seldom_called_unequal_however_many():
    rng, n = np.random.default_rng(3), 480
    masks = {f"s{k}": np.arange(n) % 8 == k for k in range(8)}
    draws = [accuracy_gaps(rng.random(n) < 0.8, masks, margin=0.0) for _ in range(100)]
    assert np.mean([any(g.verdict == "gap" for g in gaps) for gaps in draws]) < 0.1


def drawn(rng: np.random.Generator, gap: float, share: float = 0.87):
    """Return answers of three segments, the first with a gap, and masks of them and of a fourth."""
    place = np.repeat([0, 1, 2], (160, 240, 400))
    masks = {f"s{k}": place == k for k in range(3)} | {"language": np.arange(800) % 5 == 0}
    return rng.random(800) < np.where(masks["s0"], share - gap, share), masks


# The standard errors of 300 and of 4,000 draws are 2.3 and 0.6 points. Without a margin, a gap of
# one segment shows in the others too, and Holm's later steps are easier: it is found more often.
@pytest.mark.parametrize(
    ("margin", "draws", "low", "high"),
    [
        (0.05, 300, 0.74, 0.86),
        (0.0, 300, 0.74, 0.89),
        pytest.param(0.05, 4000, 0.78, 0.82, marks=pytest.mark.slow),
        pytest.param(0.0, 4000, 0.78, 0.85, marks=pytest.mark.slow),
    ],
)
def test_a_gap_of_the_size_claimed_is_called_one_four_times_out_of_five(margin, draws, low, high):
    _, masks = drawn(np.random.default_rng(1), 0.0)
    right = np.arange(800) % 100 < 87  # of the rest, as many are right as will be drawn
    least = detectable(right, masks["s0"], comparisons=4, margin=margin)
    assert least > margin
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        gaps = accuracy_gaps(*drawn(rng, least), margin=margin)
        found.append(next(gap.verdict for gap in gaps if gap.segment == "s0") == "gap")
    assert low <= np.mean(found) <= high


def test_what_would_be_found_grows_with_the_margin_and_with_the_comparisons():
    right, masks = segments((120, 160), (560, 640))
    least = [
        detectable(right, masks["s0"], comparisons=k, margin=margin)
        for k, margin in ((1, 0.0), (4, 0.0), (4, 0.05))
    ]
    assert least == sorted(least) and least[2] - least[1] > 0.05


def test_what_no_accuracy_could_show_is_not_a_number():
    right, masks = segments((1, 20), (2, 40))
    assert np.isnan(detectable(right, masks["s0"]))


# --- segments ----------------------------------------------------------------------------------


@pytest.fixture
def predictions():
    """Two hundred rows: of `low` half are right at 0.9, of `high` all at 0.6."""
    rows = pd.DataFrame({"id": range(200), "query": ["tax ₹5"] * 50 + ["tax"] * 150})
    rows["intent"] = "tax"
    rows["segment"] = ["low", "high"] * 100
    rows["language"] = ["en"] * 170 + ["hi"] * 30
    right = (rows["segment"] == "high") | (rows["id"] % 4 == 0)
    sure = np.where(rows["segment"] == "high", 0.6, 0.9)
    p_tax = np.where(right, sure, 1 - sure)
    return rows, pd.DataFrame({"id": rows["id"], "fold": 0, "loan": 1 - p_tax, "tax": p_tax})


def test_a_segment_has_scores_calibration_and_abstention(predictions):
    masks = masks_by_column(predictions[0], ["segment"])
    abstained = predictions[0]["segment"].to_numpy() == "high"
    table = segment_scores(*predictions, masks, abstained=abstained, n_boot=200)
    table = table.set_index("slice")
    low, high = table.loc["segment=low"], table.loc["segment=high"]
    assert (low["rows"], low["accuracy"], high["accuracy"]) == (100, 0.5, 1.0)
    assert (low["calibration"], high["calibration"]) == pytest.approx((0.4, -0.4))
    assert (low["abstained"], high["abstained"]) == (0.0, 1.0)
    assert low["abstained_high"] == pytest.approx(wilson(0, 100)[1])


def test_the_interval_of_calibration_is_that_of_a_mean_corrected_for_the_number(predictions):
    masks = masks_by_column(predictions[0], ["segment"])
    low = segment_scores(*predictions, masks, n_boot=20).set_index("slice").loc["segment=low"]
    assert low["calibration_high"] - 0.4 == pytest.approx(2.24 * 0.5 / 10, abs=0.01)  # of two
    assert "abstained" not in low


def test_a_rule_on_the_text_is_a_segment(predictions):
    rules = {"an amount": lambda text: "₹" in text, "short": lambda text: len(text) < 4}
    table = segment_scores(*predictions, masks_by_rule(predictions[0], rules), n_boot=20)
    assert dict(zip(table["slice"], table["rows"], strict=True)) == {"an amount": 50, "short": 150}


def test_no_segment_large_enough_gives_an_empty_table(predictions):
    assert segment_scores(*predictions, {"few": np.arange(200) < 5}).empty


def test_rows_in_another_order_are_refused(predictions):
    rows, oof = predictions
    with pytest.raises(ValueError, match="same ids in the same order"):
        segment_scores(rows, oof[::-1], {})


# --- counterfactual pairs ----------------------------------------------------------------------


PEOPLE = [
    f"person: {who}"
    for who in ("another name", "other gender", "other community", "other region", "large city")
]


def answered(test: str, flipped: set[int], n: int = 20) -> pd.DataFrame:
    p_tax = np.where(np.isin(range(n), list(flipped)), 0.1, 0.9)
    return pd.DataFrame({"probe": test, "id": range(n), "fold": 0, "loan": 1 - p_tax, "tax": p_tax})


def test_flips_are_counted_against_a_change_that_means_nothing():
    recorded = pd.concat(
        [
            answered("person: introduced", set()),
            answered("person: another name", {0}),
            answered("person: other gender", set(range(1, 9))),
        ]
    )
    table = flip_rates(answered("", set()).drop(columns="probe"), recorded).set_index("attribute")
    assert table["flipped"].to_dict() == {CONTROL: 0.05, "gender of the name": 0.4}
    assert table.loc[CONTROL, "flipped_high"] == wilson(0.05, 20)[1]
    assert table.loc["gender of the name", "more"] == pytest.approx(0.35)
    known = paired_accuracy_difference(np.isin(range(20), range(1, 9)), np.arange(20) == 0)
    assert table.loc["gender of the name", "more_low"] == pytest.approx(known.low)
    assert np.isnan(table.loc[CONTROL, "more"])


def test_the_more_pairs_are_compared_the_wider_the_intervals():
    recorded = [answered(f"person: {who}", set()) for who in ("introduced", "another name")]
    recorded += [answered(f"person: other {who}", {1, 2}) for who in ("gender", "region")]
    recorded.append(answered("view: amount spelling", {1, 2}).tail(19))
    oof = answered("", set()).drop(columns="probe")
    two, three = (flip_rates(oof, pd.concat(recorded[:n])).set_index("attribute") for n in (3, 5))
    assert two.loc["gender of the name", "more_low"] > three.loc["gender of the name", "more_low"]
    # Other rows than the control: Newcombe's interval of 2 of 19 against 0 of 20.
    row = three.loc["style of amounts"]
    known = confint_proportions_2indep(2, 19, 0, 20, method="newcomb", alpha=0.05 / 3)
    assert (row["more_low"], row["more_high"]) == pytest.approx(known)


def test_changes_that_mean_nothing_are_seldom_said_to_mean_something():
    rng, found = np.random.default_rng(5), []
    for _ in range(60):
        flips = {who: set(np.flatnonzero(rng.random(200) < 0.08)) for who in PEOPLE}
        introduced = answered("person: introduced", set(), 200)
        recorded = pd.concat([introduced, *(answered(who, flips[who], 200) for who in PEOPLE)])
        table = flip_rates(answered("", set(), 200).drop(columns="probe"), recorded)
        found.append((table["more_low"] > 0).any())
    assert np.mean(found) < 0.1


def test_the_style_of_amounts_is_compared_with_the_text_as_written():
    recorded = answered("view: amount spelling", {3}).tail(18)
    table = flip_rates(answered("", set()).drop(columns="probe"), recorded)
    assert table[["attribute", "rows"]].to_numpy().tolist() == [["style of amounts", 18]]
    assert table["flipped"][0] == pytest.approx(1 / 18)


def test_a_pair_that_flips_together_is_no_flip():
    recorded = pd.concat([answered("manner: polite", {1, 2}), answered("manner: casual", {1, 2})])
    table = flip_rates(answered("", set()).drop(columns="probe"), recorded)
    assert table["flipped"].tolist() == [0.0]
