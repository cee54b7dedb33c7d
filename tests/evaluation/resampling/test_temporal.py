from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.resampling.temporal import periods, temporal_scores


class Last(BaseEstimator):
    """Answers with the label of the last row that it was trained on; keeps what was predicted."""

    tested = ()

    def fit(self, X, y):
        self.label_, self.trained_ = y[-1], list(X)
        return self

    def predict(self, X):
        Last.tested = (*Last.tested, (self.trained_, list(X)))
        return np.array([self.label_] * len(X), dtype=object)


@pytest.fixture
def frame():
    """A hundred queries, one a day, in the order of time; labels take turns."""
    days = pd.date_range("2025-01-01", periods=100).strftime("%Y-%m-%d")
    rows = pd.DataFrame({"query": days, "intent": ["tax", "goal"] * 50, "created_at": days})
    rows["selection"] = "natural"
    return rows


@pytest.fixture(autouse=True)
def nothing_tested():
    Last.tested = ()


def test_training_rows_come_before_a_date_and_tested_ones_after_it(frame):
    table = temporal_scores(Last(), frame.sample(frac=1, random_state=0), n_boot=20)
    for (trained, tested), cut in zip(Last.tested, table["cut"], strict=True):
        assert max(trained) < cut <= min(tested)


def test_windows_grow_and_no_row_is_tested_twice(frame):
    table = temporal_scores(Last(), frame, n_boot=20)
    tested = [text for _, texts in Last.tested for text in texts]
    assert table["n_train"].tolist() == [25, 50, 75] and table["n_test"].tolist() == [25] * 3
    assert len(tested) == len(set(tested)) == 75
    assert table["until"].tolist() == [*table["cut"][1:], ""]


def test_rows_picked_for_being_hard_are_learnt_from_but_not_tested(frame):
    frame.loc[::5, "selection"] = "hard"
    table = temporal_scores(Last(), frame, n_boot=20)
    hard = set(frame.loc[::5, "query"])
    assert not hard & {text for _, texts in Last.tested for text in texts}
    assert hard & set(Last.tested[-1][0])
    assert table["n_test"].sum() == 60


def test_a_label_that_is_new_after_the_date_is_counted(frame):
    frame.loc[90:, "intent"] = "loan"
    assert temporal_scores(Last(), frame, n_boot=20)["n_unseen"].tolist() == [0, 0, 10]


def test_accuracy_is_that_of_the_answers_with_an_interval(frame):
    (row,) = temporal_scores(Last(), frame, cuts=1, n_boot=200).to_dict("records")
    assert row["accuracy"] == pytest.approx(0.5)
    assert row["accuracy_low"] < 0.5 < row["accuracy_high"]


def test_rows_of_one_day_are_not_parted(frame):
    days = frame["created_at"].where(frame.index < 30, "2025-06-01")
    (row,) = temporal_scores(Last(), frame.assign(created_at=days), n_boot=20).to_dict("records")
    assert (row["cut"], row["n_train"], row["n_test"]) == ("2025-06-01", 30, 70)


@pytest.mark.parametrize("change", [{"created_at": None}, {"created_at": "2025-01-01"}])
def test_without_dates_to_part_there_is_an_empty_table(frame, change):
    table = temporal_scores(Last(), frame.assign(**change))
    assert table.empty and "accuracy_low" in table


def test_without_a_column_of_dates_there_is_an_empty_table(frame):
    assert temporal_scores(Last(), frame.drop(columns="created_at")).empty


def test_what_is_no_date_is_named(frame):
    frame.loc[3, "created_at"] = "yesterday"
    with pytest.raises(DataError, match="'created_at' holds 'yesterday'"):
        temporal_scores(Last(), frame)


def test_no_cut_is_refused(frame):
    with pytest.raises(ValueError, match="cuts is 0"):
        temporal_scores(Last(), frame, cuts=0)


# --- answers over time -----------------------------------------------------------


def test_periods_follow_each_other_and_part_no_day():
    days = np.repeat(pd.date_range("2025-01-01", periods=50).strftime("%Y-%m-%d"), 4)
    frame = pd.DataFrame({"created_at": [*days, None]}).sample(frac=1, random_state=0)
    found = periods(frame, parts=2)
    early, late = (frame["created_at"][mask] for mask in found.values())
    assert (len(early), len(late)) == (100, 100) and early.max() < late.min()
    assert list(found) == ["2025-01-01 to 2025-01-25", "2025-01-26 to 2025-02-19"]


def test_rows_without_dates_or_too_few_have_no_periods(frame):
    assert not periods(frame.drop(columns="created_at"))
    assert not periods(frame, parts=6)
    assert len(periods(frame, parts=5)) == 5
