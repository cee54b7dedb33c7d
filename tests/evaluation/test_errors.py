from __future__ import annotations

import socket

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.errors import (
    likely_label_errors,
    overlapping_intents,
    shares_of_errors,
)

LABELS = ["a", "b", "c"]


def table(proba: np.ndarray, labels: list[str] = LABELS) -> pd.DataFrame:
    frame = pd.DataFrame(proba, columns=labels)
    return frame.assign(id=[f"r{n}" for n in range(len(frame))], fold=np.arange(len(frame)) % 5)


def answering(labels: list[str]) -> pd.DataFrame:
    return table(np.array([[0.8 if label == name else 0.1 for name in LABELS] for label in labels]))


def planted(n: int = 300, flipped: int = 10, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A model that is right on nine rows in ten, and labels of which some were changed after."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, n)
    seen = np.where(rng.random(n) < 0.9, true, (true + 1) % 3)
    proba = rng.dirichlet([1, 1, 1], n) * 0.3
    proba[np.arange(n), seen] += 0.7
    given = true.copy()
    given[:flipped] = (true[:flipped] + 2) % 3
    ids = [f"r{row}" for row in range(n)]
    return pd.DataFrame({"id": ids, "intent": [LABELS[k] for k in given]}), table(proba)


# --- label errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_at_least_eight_of_ten_planted_label_errors_are_found(seed):
    found = likely_label_errors(*planted(seed=seed))
    assert sum(int(row_id[1:]) < 10 for row_id in found["id"]) >= 8
    # The model's own errors, 30 rows, are all that can be doubted beside them.
    assert len(found) <= 10 + 1.5 * 30


def test_a_model_without_doubt_finds_every_planted_error_and_nothing_else():
    frame, _ = planted(flipped=0)
    oof = answering(frame["intent"].tolist())
    changed = frame.assign(
        intent=["c" if n < 10 and v != "c" else v for n, v in enumerate(frame["intent"])]
    )
    found = likely_label_errors(changed, oof)
    wrong = changed["intent"] != frame["intent"]
    assert sorted(found["id"]) == sorted(changed["id"][wrong])
    assert found["suggested"].tolist() == frame.set_index("id")["intent"][found["id"]].tolist()


def test_the_score_is_the_probability_of_the_given_label_and_ranks_the_rows():
    frame, oof = planted()
    found = likely_label_errors(frame, oof)
    first = found.iloc[0]
    assert found["score"].is_monotonic_increasing
    assert first["score"] == oof.set_index("id").loc[first["id"], first["label"]]
    assert (found["suggested"] != found["label"]).all()


def test_rows_outside_the_frame_change_nothing():
    frame, oof = planted()
    alone = likely_label_errors(frame.head(200), oof.head(200))
    oof.loc[200:, LABELS] = [0.0, 0.0, 1.0]
    pd.testing.assert_frame_equal(likely_label_errors(frame.head(200), oof[::-1]), alone)


def test_labels_without_rows_and_an_empty_frame_are_no_obstacle():
    frame, oof = planted()
    two = frame[frame["intent"] != "c"]
    assert set(likely_label_errors(two, oof)["label"]) <= {"a", "b"}
    assert likely_label_errors(frame.head(0), oof).empty


def test_a_row_without_probabilities_and_a_label_without_a_column_are_refused():
    frame, oof = planted()
    with pytest.raises(ValueError, match=r"1 of 300 rows have no out-of-fold prob.*'r0'"):
        likely_label_errors(frame, oof.iloc[1:])
    with pytest.raises(ValueError, match="label 'd' has no column"):
        likely_label_errors(frame.replace("a", "d"), oof)
    with pytest.raises(ValueError, match="twice"):
        likely_label_errors(frame, pd.concat([oof, oof.head(1)]))


def test_nothing_is_sent_anywhere(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(likely_label_errors(*planted()))


# --- overlap -----------------------------------------------------------------------------------


def test_overlap_counts_both_directions_against_both_labels_rows():
    true = ["a"] * 20 + ["b"] * 30 + ["c"] * 10
    predicted = ["b"] * 4 + ["a"] * 16 + ["a"] * 6 + ["b"] * 24 + ["c"] * 10
    [row] = overlapping_intents(true, predicted, LABELS).to_dict("records")
    assert (row["first"], row["second"], row["n"]) == ("a", "b", 50)
    assert (row["first_as_second"], row["second_as_first"], row["share"]) == (4, 6, 0.2)
    # statsmodels.stats.proportion.proportion_confint(10, 50, method="wilson")
    assert (row["low"], row["high"]) == pytest.approx((0.112438, 0.330365), abs=1e-5)


def test_confusion_in_one_direction_is_no_overlap():
    assert overlapping_intents(["a", "a", "b"], ["b", "a", "b"], LABELS).empty


def test_the_worst_overlap_comes_first():
    true = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    predicted = ["b"] + ["a"] * 9 + ["a"] + ["c"] * 4 + ["b"] * 5 + ["b"] * 4 + ["c"] * 6
    assert overlapping_intents(true, predicted, LABELS)["first"].tolist() == ["b", "a"]


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
