from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.evaluation.priorities import shares_of_errors


@pytest.fixture
def example():
    """Of 40 rows in a group 20 are wrong, of 60 others 6."""
    group = np.arange(100) < 40
    wrong = np.zeros(100, dtype=bool)
    wrong[:20] = wrong[40:46] = True
    return ~wrong, group


def test_the_gain_is_what_the_group_would_win_at_the_rate_of_the_rest(example):
    right, group = example
    (row,) = shares_of_errors(right, {"hard": group}).to_dict("records")
    assert (row["rows"], row["wrong"], row["share"]) == (40, 20, 20 / 26)
    assert (row["error_rate"], row["rest_error_rate"]) == (0.5, 0.1)
    assert row["gain"] == pytest.approx((20 - 40 * 0.1) / 100)


def test_the_hardest_comes_first_and_what_is_easier_than_the_rest_gains_nothing(example):
    right, group = example
    table = shares_of_errors(right, {"easy": ~group, "hard": group})
    assert table["group"].tolist() == ["hard", "easy"]
    assert table["gain_high"][1] < 0 < table["gain_low"][0]


def test_groups_that_are_small_or_faultless_or_everything_are_left_out(example):
    right, group = example
    groups = {"small": np.arange(100) < 19, "faultless": right & group | right, "all": right | True}
    table = shares_of_errors(right, groups)
    assert table.empty and "gain" in table


def test_the_interval_of_the_gain_is_that_of_resampled_rows(example):
    right, group = example
    (row,) = shares_of_errors(right, {"hard": group}, n_boot=4000).to_dict("records")
    rng, gains = np.random.default_rng(1), []
    for _ in range(4000):
        rows = rng.integers(0, 100, 100)
        wrong, inside = ~right[rows], group[rows]
        gains.append((wrong & inside).mean() - inside.mean() * wrong[~inside].mean())
    expected = np.percentile(gains, [2.5, 97.5])
    assert [row["gain_low"], row["gain_high"]] == pytest.approx(expected, abs=0.01)
