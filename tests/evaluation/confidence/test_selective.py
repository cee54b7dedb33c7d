from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.base import BaseEstimator
from sklearn.metrics import roc_auc_score

from nivesh_lib.evaluation.confidence.selective import (
    Costs,
    InScopeProbability,
    auroc,
    certainty_of,
    cheapest_threshold,
    cross_fitted_policy,
    fit_in_scope_probability,
    fold_ood_scores,
    recorded_scope_scores,
    risk_coverage,
    threshold_accepting,
)
from nivesh_lib.evaluation.resampling.cross_validation import cross_validate

COSTS = Costs(wrong=1.0, abstain=0.3)


def scored(n_inside=400, n_outside=150, *, apart=0.0, seed=0):
    """Rows inside and outside; `apart` is the shift of the OOD scores of those outside."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, n_inside)
    inside = pd.DataFrame(
        {
            "confidence": confidence,
            "ood_score": rng.normal(size=n_inside),
            "right": rng.random(n_inside) < confidence,
            "fold": np.arange(n_inside) % 5,
        }
    )
    outside = pd.DataFrame(
        {
            "confidence": rng.uniform(0.2, 1, n_outside),
            "ood_score": rng.normal(apart, size=n_outside),
            "kind": np.array(["chat", "noise", "weather"])[np.arange(n_outside) % 3],
            "fold": np.arange(n_outside) // 3 % 5,
        }
    )
    return inside, outside


# --- risk and coverage -----------------------------------------------------------


def test_risk_and_coverage_of_an_example():
    found = risk_coverage(np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 0, 1, 0]))
    assert found.threshold.tolist() == [0.9, 0.8, 0.1]
    assert found.coverage.tolist() == [0.25, 0.75, 1.0]
    assert found.risk.tolist() == pytest.approx([0, 1 / 3, 1 / 2])


# --- in scope against outside ----------------------------------------------------


def test_the_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 9, 80), rng.integers(0, 6, 50)
    expected = roc_auc_score(np.repeat([1, 0], [80, 50]), np.concatenate([inside, outside]))
    assert auroc(inside, outside).value == pytest.approx(expected)


def test_the_interval_of_the_auroc_holds_the_truth_in_95_of_100_draws():
    rng, covered = np.random.default_rng(3), 0
    truth = norm.cdf(1.5 / np.sqrt(2))  # two normals, 1.5 apart
    for _ in range(1000):
        found = auroc(rng.normal(1.5, size=200), rng.normal(size=100))
        covered += found.low <= truth <= found.high
    assert 930 <= covered <= 970


def test_a_perfect_auroc_of_a_few_rows_is_not_certain():
    found = auroc(np.arange(10, 22), np.arange(10))
    assert (found.value, found.high) == (1.0, 1.0) and found.low < 0.8


@pytest.mark.parametrize("n", [1, 19, 20, 100, 801])
def test_the_threshold_accepts_the_share_and_hardly_more(n):
    inside = np.random.default_rng(n).random(n)
    passed = (inside >= threshold_accepting(inside)).sum()
    assert 0.95 * n <= passed < 0.95 * n + 1


def test_one_side_alone_is_refused():
    with pytest.raises(ValueError, match="3 inside, 0 outside"):
        auroc(np.arange(3), np.array([]))


# --- thresholds ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_no_other_threshold_is_cheaper(seed):
    rng = np.random.default_rng(seed)
    certainty, weight = rng.integers(0, 12, 60) / 12, rng.random(60)
    right = rng.random(60) < certainty
    best = cheapest_threshold(certainty, right, costs=COSTS, weight=weight)
    costs = [
        np.average(np.where(certainty >= at, 1.0 - right, 0.3), weights=weight)
        for at in (-np.inf, np.inf, best, *np.unique(certainty))
    ]
    assert costs[2] == pytest.approx(min(costs))


def test_the_threshold_of_a_calibrated_certainty_follows_from_the_costs():
    rng = np.random.default_rng(0)
    certainty = rng.random(50_000)
    right = rng.random(50_000) < certainty
    assert cheapest_threshold(certainty, right, costs=COSTS) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(("right", "threshold"), [(1, -np.inf), (0, np.inf)])
def test_a_model_that_is_always_right_or_wrong_needs_no_threshold(right, threshold):
    found = cheapest_threshold(np.linspace(0, 1, 9), np.full(9, right), costs=COSTS)
    assert found == threshold


@pytest.mark.parametrize("costs", [(1, 0), (1, 1), (1, 2), (0, -1)])
def test_costs_that_leave_nothing_to_choose_are_refused(costs):
    with pytest.raises(ValueError, match="less than a wrong answer"):
        Costs(*costs)


def test_the_in_scope_probability_that_was_simulated_is_found():
    rng = np.random.default_rng(0)
    # Normals 3 apart with unit variance: the log odds are linear with slope 3, zero half way.
    drawn = rng.normal(size=20_000), rng.normal(3, size=2_000)
    found = fit_in_scope_probability(*drawn, outside_share=0.5)
    assert found.midpoint == pytest.approx(1.5, abs=0.1)
    assert found.steepness == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_in_scope_probability_has_the_prior_of_traffic(share):
    rng = np.random.default_rng(0)
    found = fit_in_scope_probability(
        rng.normal(size=5000), rng.normal(3, size=5000), outside_share=share
    )
    odds = norm.pdf(2.0) * (1 - share) / (norm.pdf(2.0 - 3) * share)
    assert found.of(np.array([2.0]))[0] == pytest.approx(odds / (1 + odds), abs=0.03)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_of_traffic_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="not between 0 and 1"):
        fit_in_scope_probability(np.arange(4), np.arange(4), outside_share=share)


def test_the_in_scope_probability_falls_with_the_ood_score_even_where_the_sample_does_not():
    found = fit_in_scope_probability(np.arange(3.0, 9), np.arange(0.0, 6))
    assert found.steepness > 0


def test_the_in_scope_probability_is_a_half_at_its_midpoint():
    found = InScopeProbability(1.5, 2.0).of(np.array([1.5, 0.5]))
    assert found.tolist() == pytest.approx([0.5, expit(2)])


# --- cross-fitted ----------------------------------------------------------------


@pytest.mark.parametrize("use_ood_score", [True, False])
def test_no_recall_is_claimed_where_rows_do_not_differ(use_ood_score):
    inside, outside = scored(2000, 600)
    found = cross_fitted_policy(inside, outside, costs=COSTS, use_ood_score=use_ood_score)
    assert found.recall_95.low < 0.05 < found.recall_95.high


def test_out_of_distribution_queries_are_caught_by_their_score():
    inside, outside = scored(apart=6.0)
    plain = cross_fitted_policy(inside, outside, costs=COSTS, use_ood_score=False)
    found = cross_fitted_policy(inside, outside, costs=COSTS)
    assert plain.recall_95.value < 0.2 and found.recall_95.value > 0.9
    assert found.cost < plain.cost
    assert found.by_kind["rows"].tolist() == [50, 50, 50]


def test_a_kind_does_not_help_to_catch_itself():
    """Most rows outside have high OOD scores, but all of one kind; the others teach nothing."""
    inside, outside = scored(1000, 300)
    outside["kind"] = np.where(
        np.arange(300) < 240, "noise", outside["kind"].replace("noise", "chat")
    )
    outside["ood_score"] = np.where(outside["kind"] == "noise", 9.0, -1.0)
    found = cross_fitted_policy(inside, outside, costs=COSTS)
    assert found.by_kind.set_index("kind").loc["noise", "recall_95"] < 0.2
    certainty = certainty_of(outside, found.in_scope)
    bar = threshold_accepting(certainty_of(inside, found.in_scope))
    assert (certainty[:240] < bar).mean() > 0.6


def test_each_row_counts_once():
    inside, outside = scored()
    found = cross_fitted_policy(inside, outside, costs=COSTS)
    assert (found.acceptance.n, found.recall.n) == (400, 150)
    assert found.acceptance.value == found.accepted.mean()


@pytest.mark.parametrize("change", [{"kind": "chat"}, {"fold": 0}])
def test_one_fold_or_kind_is_too_few(change):
    inside, outside = scored()
    frames = (
        (inside, outside.assign(**change))
        if "kind" in change
        else (
            inside.assign(**change),
            outside,
        )
    )
    with pytest.raises(ValueError, match="2 folds and 2 kinds"):
        cross_fitted_policy(*frames, costs=COSTS)


class Memory(BaseEstimator):
    """Answers by the alphabet, whatever it was fitted on."""

    def fit(self, X, y):
        self.classes_ = np.array(["a", "b"], dtype=object)
        return self

    def predict_proba(self, X):
        return np.array([[0.9, 0.1] if text < "m" else [0.2, 0.8] for text in X])


class Scorer:
    """Scores 1 for every text that it was not fitted on or exposed to."""

    def fit(self, X):
        self.seen_ = set(X)
        return self

    def exposed(self, X, outside):
        assert set(X) == self.seen_
        return Scorer().fit(self.seen_ | set(outside))

    def score(self, X):
        return np.array([float(text not in self.seen_) for text in X])


def test_every_row_is_scored_as_the_model_that_did_not_see_its_fold_answered():
    frame = pd.DataFrame(
        {"query": list("cdxy"), "intent": ["a", "b", "b", "b"], "fold": [0, 1, 0, 1]},
        index=[3, 2, 1, 0],
    ).assign(id=list("cdxy"))
    others = pd.DataFrame({"query": list("ez"), "id": list("ez"), "kind": ["k", "j"]})
    others["fold"] = [1, 0]
    cases = pd.DataFrame({"probe": "o", "id": list("ez"), "fold": -1, "query": list("ez")})
    run = cross_validate(Memory(), frame, labels=["a", "b"], cases=cases)
    inside, outside = recorded_scope_scores(
        frame,
        run.oof,
        others,
        run.case_answers.drop(columns="probe"),
        ood_scores=fold_ood_scores(Scorer(), frame, others),
    )
    assert inside.ood_score.tolist() == [1.0] * 4
    assert inside.right.tolist() == [True, False, True, True]
    assert inside.index.tolist() == [3, 2, 1, 0] and inside.fold.tolist() == [0, 1, 0, 1]
    assert outside.confidence.tolist() == [0.9, 0.8] and not outside.right.any()
    assert outside.kind.tolist() == ["k", "j"] and outside.ood_score.tolist() == [1.0, 1.0]


def test_no_query_outside_is_scored_by_what_knew_its_fold_or_its_kind():
    frame = pd.DataFrame({"query": list("abcd"), "fold": [0, 1, 0, 1]})
    kinds = [f"k{n}" for n in range(6)]
    others = pd.DataFrame([(f"{k} {n}", k, n % 2) for k in kinds for n in range(4)])
    others.columns = ["query", "kind", "fold"]
    known = []

    class Noted(Scorer):
        def exposed(self, X, outside):
            known.append(set(outside))
            return super().exposed(X, outside)

    inside, outside = fold_ood_scores(Noted(), frame, others)
    assert inside.tolist() == [1.0] * 4 and outside.tolist() == [1.0] * 24
    assert len(known) == 8 and all(len(one) in (8, 10) for one in known)  # of five kinds, or four


def test_a_row_outside_without_an_answer_of_its_fold_is_refused():
    frame = pd.DataFrame({"id": ["r"], "intent": ["a"], "fold": [0]})
    oof = pd.DataFrame({"id": ["r"], "fold": [0], "a": [1.0]})
    others = pd.DataFrame({"id": ["o"], "kind": ["k"], "fold": [4]})
    nothing = np.zeros(1), np.zeros(1)
    with pytest.raises(ValueError, match="have no out-of-fold probabilities"):
        recorded_scope_scores(frame, oof, others, oof.assign(id="o"), ood_scores=nothing)
