"""Selective prediction: risk and coverage, AUROC, and the threshold below which to abstain.

A certainty is any score that rises with the probability that a prediction is right. In-scope
queries have a true label; queries outside belong to no label, and any prediction for one is wrong.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from nivesh_lib.evaluation.intervals import Z, paired_columns, share_of, wilson
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned,
    confidence_of,
    predicted_labels,
    probabilities,
)
from nivesh_lib.records.estimate import Estimate

ACCEPTED = 0.95  # share of in-scope queries that must be answered
_PARTS = 4  # in which kinds of queries outside are left out


@dataclass(frozen=True)
class Costs:
    """The costs of a wrong answer and of abstaining, in any unit."""

    wrong: float = 1.0
    abstain: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.abstain < self.wrong:
            raise ValueError(
                f"costs {self.abstain:g} of abstaining and {self.wrong:g} of a wrong answer: "
                "abstaining must cost more than nothing and less than a wrong answer"
            )


@dataclass(frozen=True)
class InScopeProbability:
    """The probability of being in scope as a falling logistic function of the OOD score."""

    midpoint: float
    steepness: float

    def of(self, ood_score: np.ndarray) -> np.ndarray:
        """Return the probability of being in scope for each row, shape (n,)."""
        return expit(self.steepness * (self.midpoint - np.asarray(ood_score, dtype=float)))


@dataclass(frozen=True)
class AbstentionPolicy:
    """Thresholds of certainty below which a model abstains, with cross-fitted estimates.

    ``in_scope`` and ``threshold``, that of least cost, are fitted on all rows, for the deployed
    model. The estimates are of held-out rows: ``cost`` for each query, ``acceptance`` of in-scope
    rows and ``recall`` of rows outside at the threshold of least cost; ``recall_95`` at one that
    accepts 95 % of in-scope rows. ``by_kind`` has one row for each kind of query outside, held
    out when its thresholds were fitted. ``accepted`` are the in-scope rows behind ``acceptance``,
    a mask: those that most of their fold's thresholds accept.
    """

    in_scope: InScopeProbability | None
    threshold: float
    cost: float
    acceptance: Estimate
    recall: Estimate
    recall_95: Estimate
    by_kind: pd.DataFrame
    accepted: np.ndarray


# --- risk and coverage -----------------------------------------------------------


def risk_coverage(certainty: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Return the error rate of the most certain predictions, for each coverage.

    Equal certainties are accepted together, so there is one row for each distinct value
    (El-Yaniv and Wiener 2010).

    Returns
    -------
    DataFrame
        ``threshold``, falling; ``coverage``, the share of rows at or above it; ``risk``, the
        share of those that is wrong.
    """
    sure, correct = paired_columns(certainty, right)
    order = np.argsort(-sure, kind="stable")
    accepted = np.arange(1, len(sure) + 1)
    wrong = np.cumsum(1 - correct[order])
    last = np.append(np.diff(sure[order]) != 0, True)
    columns = {
        "threshold": sure[order][last],
        "coverage": accepted[last] / len(sure),
        "risk": wrong[last] / accepted[last],
    }
    return pd.DataFrame(columns)


# --- in scope against outside ----------------------------------------------------


def auroc(inside: np.ndarray, outside: np.ndarray) -> Estimate:
    """Return the AUROC: the probability that an in-scope query is more certain than one outside.

    The variance is that of DeLong, DeLong and Clarke-Pearson 1988; the interval is computed on
    the logit scale, so that it stays between 0 and 1 (Pepe 2003, section 5.2).
    """
    first, second = _both(inside, outside)
    m, n = len(first), len(second)
    ranks = rankdata(np.concatenate([first, second]))
    above = (ranks[:m] - rankdata(first)) / n  # for each inside row: share outside below it
    below = 1 - (ranks[m:] - rankdata(second)) / m
    value, total = float(above.mean()), m + n
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    if value in (0.0, 1.0) or variance == 0:
        return Estimate(value, *wilson(value, min(m, n)), total)
    spread = Z * np.sqrt(variance) / (value * (1 - value))
    centre = np.log(value / (1 - value))
    return Estimate(value, float(expit(centre - spread)), float(expit(centre + spread)), total)


def threshold_accepting(inside: np.ndarray, accepted: float = ACCEPTED) -> float:
    """Return the highest threshold that at least ``accepted`` of in-scope rows reach."""
    ordered = np.sort(np.asarray(inside, dtype=float))
    return float(ordered[int(np.floor((1 - accepted) * len(ordered) + 1e-9))])


def _both(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(inside, dtype=float), np.asarray(outside, dtype=float)
    if not len(first) or not len(second):
        raise ValueError(f"need rows on both sides: {len(first)} inside, {len(second)} outside")
    return first, second


# --- thresholds ------------------------------------------------------------------


def cheapest_threshold(
    certainty: np.ndarray,
    right: np.ndarray,
    *,
    costs: Costs,
    weight: np.ndarray | None = None,
) -> float:
    """Return the threshold with the least cost on these rows (Chow 1970).

    It lies midway between two certainties; ``inf`` abstains always, ``-inf`` never. For a
    calibrated certainty it is about 1 - abstain / wrong.
    """
    sure, correct = paired_columns(certainty, right)
    share = np.ones(len(sure)) if weight is None else np.asarray(weight, dtype=float)
    order = np.argsort(-sure, kind="stable")
    gain = share * (costs.wrong * (1 - correct) - costs.abstain)  # of accepting, in cost
    total = np.concatenate([[0.0], np.cumsum(gain[order])])
    bounds = np.concatenate([[np.inf], sure[order], [-np.inf]])
    open_at = np.append(np.diff(bounds[1:]) != 0, True)  # no threshold separates equal ones
    possible = np.flatnonzero(np.concatenate([[True], open_at[:-1]]))
    best = int(possible[np.argmin(total[possible])])
    upper, lower = bounds[best], bounds[best + 1]
    if np.isinf(upper) or np.isinf(lower):
        return float(upper if np.isinf(upper) else lower)
    return float((upper + lower) / 2)


def fit_in_scope_probability(
    inside: np.ndarray, outside: np.ndarray, *, outside_share: float = 0.1
) -> InScopeProbability:
    """Fit the probability of being in scope as a logistic function of the OOD score.

    The frequency of queries outside cannot be estimated from a collected sample, so
    ``outside_share`` of traffic is an assumption. The slope is never negative.
    """
    first, second = _both(inside, outside)
    if not 0 < outside_share < 1:
        raise ValueError(f"outside_share {outside_share!r} is not between 0 and 1")
    rows = np.concatenate([first, second])[:, None]
    inside_row = np.repeat([1, 0], [len(first), len(second)])
    # Both classes have equal weight in the fit; the prior odds are added afterwards.
    fitted = LogisticRegression(C=100.0, class_weight="balanced").fit(rows, inside_row)
    slope = max(-float(fitted.coef_[0, 0]), 1e-6)
    shift = np.log((1 - outside_share) / outside_share)
    return InScopeProbability(float(fitted.intercept_[0] + shift) / slope, slope)


def fold_ood_scores(
    scorer: Any,
    frame: pd.DataFrame,
    outside: pd.DataFrame,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the out-of-fold OOD scores of rows inside and outside, shapes (n,) and (m,).

    No query is scored by a scorer that knew one of its fold or, outside, of its kind: kinds are
    left out in up to four parts. The score of a row inside is the mean over these parts.

    Parameters
    ----------
    scorer
        With ``fit(texts)``, ``score(texts)`` and ``exposed(texts, outside)``, as
        `models.wrappers.ood.OodScorer`.
    """
    kinds = sorted(outside["kind"].unique())
    parts = np.array_split(np.array(kinds, dtype=object), min(_PARTS, len(kinds)))
    inner, outer = np.zeros(len(frame)), np.full(len(outside), np.nan)
    for k in frame["fold"].unique():
        texts = frame.loc[frame["fold"] != k, "query"].tolist()
        fitted, held = scorer.fit(texts), (frame["fold"] == k).to_numpy()
        for part in parts:
            of_part, of_fold = outside["kind"].isin(part), outside["fold"] == k
            known = outside.loc[~of_part & ~of_fold, "query"].tolist()
            exposed = fitted.exposed(texts, known) if known else fitted
            inner[held] += exposed.score(frame.loc[held, "query"].tolist()) / len(parts)
            asked = (of_part & of_fold).to_numpy()
            outer[asked] = exposed.score(outside.loc[asked, "query"].tolist())
    return inner, outer


def recorded_scope_scores(
    frame: pd.DataFrame,
    oof: pd.DataFrame,
    outside: pd.DataFrame,
    answers: pd.DataFrame,
    *,
    ood_scores: tuple[np.ndarray, np.ndarray],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return confidence and OOD scores of rows inside and outside, from recorded answers.

    Parameters
    ----------
    outside : DataFrame
        Queries that belong to no label, with ``id``, ``kind`` and ``fold``. As for rows inside,
        the answer of the model of the query's own fold counts.
    oof
        Out-of-fold probabilities of the rows of ``frame``, in their order.
    answers
        Probabilities for ``outside`` with id and fold, from the models of all folds.
    ood_scores
        Of rows inside and outside, as `fold_ood_scores` returns them.

    Returns
    -------
    inside, outside : DataFrame
        ``fold``, ``confidence``, ``ood_score``, ``right``, in the rows' order; ``kind`` outside.

    Raises
    ------
    ValueError
        A row outside without an answer of its fold.
    """
    own = answers.merge(outside[["id", "fold"]], on=["id", "fold"])
    probas = probabilities(oof), probabilities(aligned(own, outside["id"]))
    tables = [
        pd.DataFrame(
            {"fold": part["fold"], "confidence": confidence_of(proba), "ood_score": scores}
        )
        for part, proba, scores in zip((frame, outside), probas, ood_scores, strict=True)
    ]
    tables[0]["right"] = predicted_labels(oof) == frame["intent"].to_numpy()
    tables[1]["right"], tables[1]["kind"] = False, outside["kind"]
    return tables[0], tables[1]


def cross_fitted_policy(
    inside: pd.DataFrame,
    outside: pd.DataFrame,
    *,
    costs: Costs,
    outside_share: float = 0.1,
    use_ood_score: bool = True,
) -> AbstentionPolicy:
    """Fit certainty and thresholds, and evaluate them on held-out folds and kinds.

    For each fold and each kind, the probability of being in scope and both thresholds are fitted
    on the other folds and the other kinds, and evaluated on that fold's rows inside and that
    fold's rows of that kind. Each row outside is evaluated once, each row inside once for each
    kind; of these the mean counts, or whether most accept it, so that an interval is over rows.

    Parameters
    ----------
    inside : DataFrame
        ``confidence`` (calibrated), ``ood_score``, ``right``, ``fold``; natural rows.
    outside : DataFrame
        ``confidence``, ``ood_score``, ``kind``, ``fold``.
    outside_share : float
        Assumed share of queries outside in traffic, the weight of their costs.
    use_ood_score : bool
        False makes confidence alone the certainty, as a baseline.

    Raises
    ------
    ValueError
        Fewer than two folds or two kinds, or a share outside 0 to 1.
    """
    folds, kinds = sorted(inside["fold"].unique()), sorted(outside["kind"].unique())
    if len(folds) < 2 or len(kinds) < 2:
        raise ValueError(f"need 2 folds and 2 kinds at least: {len(folds)}, {len(kinds)}")
    rows = pd.concat(
        [inside.assign(kind="", outside=False), outside.assign(right=False, outside=True)],
        ignore_index=True,
    )
    evaluated = []
    for fold, kind in itertools.product(folds, kinds):
        own, other_kind = rows["fold"] == fold, rows["kind"] != kind
        fitted = _fit(rows[~own & other_kind], costs, outside_share, use_ood_score)
        evaluated.append(_evaluated(rows[own & ~(rows["outside"] & other_kind)], fitted, costs))
    held = pd.concat(evaluated)
    within, without = held[~held["outside"]], held[held["outside"]]
    by_row = within.groupby(level=0)[["paid", "passed"]].mean()
    accepted = (by_row["passed"] >= 0.5).to_numpy()
    paid = (1 - outside_share) * by_row["paid"].mean() + outside_share * without["paid"].mean()
    in_scope, threshold, _ = _fit(rows, costs, outside_share, use_ood_score)
    by_kind = without.groupby("kind").agg(
        rows=("passed", "size"), passed=("passed", "mean"), passed_95=("passed_95", "mean")
    )
    by_kind = by_kind.assign(recall=1 - by_kind["passed"], recall_95=1 - by_kind["passed_95"])
    return AbstentionPolicy(
        in_scope,
        threshold,
        float(paid),
        share_of(accepted),
        share_of(1 - without["passed"].to_numpy()),
        share_of(1 - without["passed_95"].to_numpy()),
        by_kind[["rows", "recall", "recall_95"]].reset_index(),
        accepted,
    )


_Fitted = tuple[InScopeProbability | None, float, float]


def certainty_of(rows: pd.DataFrame, in_scope: InScopeProbability | None) -> np.ndarray:
    """Return the certainty of rows of `recorded_scope_scores`, shape (n,).

    Confidence times the probability of being in scope, or confidence alone.
    """
    confidence = rows["confidence"].to_numpy()
    if in_scope is None:
        return confidence
    return confidence * in_scope.of(rows["ood_score"].to_numpy())


def _fit(rows: pd.DataFrame, costs: Costs, share: float, use_ood_score: bool) -> _Fitted:
    """Return the probability of being in scope and the thresholds of least cost and of 95 %."""
    outside, in_scope = rows["outside"].to_numpy(), None
    if use_ood_score:
        scores = rows["ood_score"].to_numpy()
        in_scope = fit_in_scope_probability(scores[~outside], scores[outside], outside_share=share)
    certainty = certainty_of(rows, in_scope)
    weight = np.where(outside, share / outside.sum(), (1 - share) / (~outside).sum())
    right = rows["right"].to_numpy(float)
    threshold = cheapest_threshold(certainty, right, costs=costs, weight=weight)
    return in_scope, threshold, threshold_accepting(certainty[~outside])


def _evaluated(rows: pd.DataFrame, fitted: _Fitted, costs: Costs) -> pd.DataFrame:
    """Return what each row costs and whether it passes each threshold."""
    in_scope, threshold, threshold_95 = fitted
    certainty = certainty_of(rows, in_scope)
    wrong = costs.wrong * (1 - rows["right"].to_numpy(float))
    return rows[["kind", "outside"]].assign(
        paid=np.where(certainty >= threshold, wrong, costs.abstain),
        passed=(certainty >= threshold).astype(float),
        passed_95=(certainty >= threshold_95).astype(float),
    )
