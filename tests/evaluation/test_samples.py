from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier

from nivesh_lib.evaluation.samples import (
    accuracy_change,
    answered,
    before_and_now,
    mean_change,
)
from nivesh_lib.models.text.tfidf import TfidfClassifier


def rows_of(n, *, start=0, selection=None, dates=None, labels=("tax", "loan")):
    numbers = np.arange(start, start + n)
    frame = pd.DataFrame({"id": numbers.astype(str), "fold": numbers % 5})
    frame["intent"] = [labels[k % len(labels)] for k in numbers]
    frame["query"] = [f"{label} {k}" for k, label in zip(numbers, frame["intent"], strict=True)]
    if selection:
        frame["selection"] = selection
    if dates:
        frame["created_at"] = [dates[k * len(dates) // n] for k in range(n)]
    return frame


def test_a_version_is_compared_with_the_one_that_it_extends():
    parent = rows_of(100, dates=["2026-01-01", "2026-02-01"])
    found = before_and_now(pd.concat([parent, rows_of(30, start=100)]), parent)
    assert len(found.before) == 100 and found.now["id"].tolist()[0] == "100"
    assert found.origin == "100 rows of the earlier version with 30 rows that were added since"
    assert (found.noun, found.limit) == ("new queries", "")


@pytest.mark.parametrize(
    ("natural", "hard", "compared"),
    [
        (0, 40, "hard"),
        (3, 40, "hard"),
        (30, 400, "natural"),
        (30, 1, "natural"),
        (30, 0, "natural"),
    ],
)
def test_rows_chosen_for_being_hard_are_compared_only_where_little_else_is_new(
    natural, hard, compared
):
    parent = rows_of(100, selection="natural")
    added = [
        rows_of(natural, start=100, selection="natural"),
        rows_of(hard, start=900, selection="hard"),
    ]
    found = before_and_now(pd.concat([parent, *added]), parent)
    assert set(found.now["selection"]) == {compared}
    assert ("chosen for being hard" in found.origin) == bool(found.limit) == (compared == "hard")


@pytest.mark.parametrize("added", [0, 5])
def test_a_version_that_adds_next_to_nothing_is_cut_at_the_middle_of_its_dates(added):
    parent = rows_of(100, dates=["2026-01-01", "2026-02-01"])
    found = before_and_now(pd.concat([parent, rows_of(added, start=100)]), parent)
    assert found.origin == "50 rows before 2026-02-01 with 50 rows since then"


def test_rows_without_a_date_are_on_neither_side():
    rows = rows_of(120, dates=["2026-01-01", "2026-02-01", None])
    found = before_and_now(rows)
    assert len(found.before) + len(found.now) == 80


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(100),
        rows_of(100, dates=["2026-01-01"]),
        rows_of(100, dates=["2026-01-01", *["2026-02-01"] * 9]),
        rows_of(100, dates=["2026-01-01", "2026-02-01"]).assign(
            intent=lambda f: np.where(f["created_at"] < "2026-02", "tax", "loan")
        ),
    ],
    ids=["no dates", "one date", "few early rows", "one early label"],
)
def test_one_fold_is_compared_with_the_others_where_nothing_else_can_be(rows):
    found = before_and_now(rows)
    assert set(found.now["fold"]) == {0} and set(found.before["fold"]) == {1, 2, 3, 4}
    assert (found.limit, found.earlier) == ("are no later than the others", "in the other folds")


def test_both_sides_are_answered_by_models_that_have_not_seen_them():
    seen = []

    class Model(DummyClassifier):
        def fit(self, x, y):
            seen.append(set(x))
            return super().fit(np.array(x)[:, None], y)

        def predict_proba(self, x):
            assert not seen[-1] & set(x)
            return super().predict_proba(np.array(x)[:, None])

    samples = answered(before_and_now(rows_of(100)), Model(strategy="prior"))
    assert {len(one) for one in seen} == {60}  # of the four folds, each model has three
    for frame in (samples.before, samples.now):
        assert set(frame["predicted"]) <= {"tax", "loan"} and (frame["confidence"] >= 0.5).all()


def test_the_probabilities_of_both_sides_have_the_columns_of_the_labels_from_before():
    parent = rows_of(60, labels=("tax", "loan", "goal"))
    rare = parent["intent"].eq("goal") & (parent["fold"] > 0)  # no model of now learns this label
    parent = parent.assign(intent=parent["intent"].mask(rare, "tax"))
    rows = pd.concat([parent, rows_of(30, start=100)])
    found = answered(before_and_now(rows, parent), TfidfClassifier(char_ngram_max=0))
    assert [list(of) for of in found.proba.values()] == [["goal", "loan", "tax"]] * 2
    assert (found.proba["now"]["goal"] == 0).all()
    before, now = found.batches()
    assert before.proba.shape == (len(found.before), 3) and now.proba.shape == (30, 3)
    assert before.labels == found.before["intent"].tolist() and now.languages is None


def test_hard_rows_from_before_are_trained_on_and_not_scored():
    parent = pd.concat([rows_of(60), rows_of(40, start=60, selection="hard")])
    samples = before_and_now(pd.concat([parent, rows_of(30, start=100)]), parent)
    found = answered(samples, TfidfClassifier(char_ngram_max=0))
    assert len(samples.before) == 100 and len(found.before) == 60
    assert found.right["before"].shape == (60,) and found.right["now"].all()


def test_a_change_of_means_has_a_normal_interval():
    found = mean_change(np.array([1.0, 3.0] * 50), np.array([2.0, 4.0] * 50))
    assert found.value == 1 and found.low == pytest.approx(1 - 1.96 * 0.1421, abs=1e-3)


def test_a_smaller_alpha_makes_the_interval_wider():
    before, now = np.array([1, 0] * 50), np.array([1, 1, 0] * 30)
    wide, narrow = accuracy_change(before, now, alpha=0.01), accuracy_change(before, now)
    assert wide.low < narrow.low and wide.high > narrow.high


def test_a_change_is_now_minus_before():
    found = accuracy_change(np.array([1, 1, 1, 0] * 50), np.array([1, 0] * 60))
    assert found.value == pytest.approx(-0.25)
    assert found.low < -0.25 < found.high < 0
    assert found.n == 120


def test_masks_and_numbers_give_the_same_change():
    before, now = np.array([True, False] * 9), np.array([True] * 9)
    assert accuracy_change(before, now) == accuracy_change(before * 1.0, now * 1.0)


def test_the_interval_holds_the_true_change_as_often_as_it_says():
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(400):
        found = accuracy_change(rng.random(300) < 0.9, rng.random(300) < 0.7)
        held += found.low <= -0.2 <= found.high
    assert 0.92 <= held / 400 <= 0.98
