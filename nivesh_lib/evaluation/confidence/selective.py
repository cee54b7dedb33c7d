"""When to hand a query over: what a certainty is worth, and where to draw the line.

A certainty is any score that is higher the safer it is to act on an answer. In-scope queries
have a true label; queries that belong to no label are outside, and acting on one is always wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm, rankdata
from sklearn.linear_model import LogisticRegression

from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned,
    predicted_labels,
    probabilities,
)
from nivesh_lib.evaluation.scores import share_of, wilson
from nivesh_lib.records.estimate import Estimate

ACCEPTED = 0.95  # share of in-scope queries that must be acted on


@dataclass(frozen=True)
class Costs:
    """What goes wrong costs, in any unit: a wrong route, and a query handed to a person."""

    wrong_route: float = 1.0
    hand_over: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.hand_over < self.wrong_route:
            raise ValueError(
                f"costs {self.hand_over:g} of a hand-over and {self.wrong_route:g} of a wrong "
                "route: handing over must cost something, and less than a wrong route"
            )


@dataclass(frozen=True)
class Familiarity:
    """A logistic function of surprise: 1 looks like the training rows, 0 like nothing in them."""

    midpoint: float
    steepness: float

    def of(self, surprise: np.ndarray) -> np.ndarray:
        """Return the familiarity of each row, shape (n,)."""
        return expit(self.steepness * (self.midpoint - np.asarray(surprise, dtype=float)))


@dataclass(frozen=True)
class Routing:
    """Where to draw the line, and what that does to rows that did not help to draw it.

    ``familiarity``, ``threshold`` (least cost) and ``threshold_95`` (95 % of in-scope rows
    accepted) come from all rows and belong into the model. The estimates are cross-fitted:
    ``cost`` for each query, ``acceptance`` of in-scope rows and ``recall`` of rows outside at the
    threshold of least cost; ``acceptance_95``, ``recall_95`` at the other. ``by_kind`` has one row
    for each kind outside, left out when its thresholds were chosen.
    """

    familiarity: Familiarity | None
    threshold: float
    threshold_95: float
    cost: float
    acceptance: Estimate
    recall: Estimate
    acceptance_95: Estimate
    recall_95: Estimate
    by_kind: pd.DataFrame

    def as_row(self) -> dict[str, float]:
        """Return thresholds, cost and estimates (with ``_low`` and ``_high``) as one flat row."""
        row = {"threshold": self.threshold, "threshold_95": self.threshold_95, "cost": self.cost}
        for name in ("acceptance", "recall", "acceptance_95", "recall_95"):
            row |= getattr(self, name).columns(name)
        return row


# --- risk and coverage -----------------------------------------------------------


def risk_coverage(certainty: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Return the share of wrong answers among the most certain ones, for each coverage.

    Equal certainties are accepted together, so there is one row for each distinct value
    (El-Yaniv and Wiener 2010).

    Returns
    -------
    DataFrame
        ``threshold``, falling; ``coverage``, the share of rows at or above it; ``risk``, the
        share of those that is wrong.
    """
    sure, correct = _checked(certainty, right)
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


def _checked(certainty: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sure, correct = np.asarray(certainty, dtype=float), np.asarray(right, dtype=float)
    if sure.shape != correct.shape or sure.ndim != 1 or not len(sure):
        raise ValueError(f"need two equally long, non-empty columns: {sure.shape}, {correct.shape}")
    return sure, correct


# --- in scope against outside ----------------------------------------------------


def separation(inside: np.ndarray, outside: np.ndarray) -> Estimate:
    """Return the chance that an in-scope query is more certain than one outside: AUROC.

    The variance is that of DeLong, DeLong and Clarke-Pearson 1988, the interval is taken on the
    logit scale so that it stays between 0 and 1 (Pepe 2003, section 5.2).
    """
    first, second = _both(inside, outside)
    m, n = len(first), len(second)
    everything = rankdata(np.concatenate([first, second]))
    above = (everything[:m] - rankdata(first)) / n  # for each inside row: share outside below it
    below = 1 - (everything[m:] - rankdata(second)) / m
    value, total = float(above.mean()), m + n
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    if value in (0.0, 1.0) or variance == 0:
        return Estimate(value, *wilson(value, min(m, n)), total)
    spread = norm.ppf(0.975) * np.sqrt(variance) / (value * (1 - value))
    centre = np.log(value / (1 - value))
    return Estimate(value, float(expit(centre - spread)), float(expit(centre + spread)), total)


def threshold_accepting(inside: np.ndarray, accepted: float = ACCEPTED) -> float:
    """Return the highest threshold at which at least ``accepted`` of in-scope rows pass."""
    ordered = np.sort(np.asarray(inside, dtype=float))
    return float(ordered[int(np.floor((1 - accepted) * len(ordered) + 1e-9))])


def _both(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(inside, dtype=float), np.asarray(outside, dtype=float)
    if not len(first) or not len(second):
        raise ValueError(f"need rows on both sides: {len(first)} inside, {len(second)} outside")
    return first, second


# --- the line --------------------------------------------------------------------


def cheapest_threshold(
    certainty: np.ndarray,
    right: np.ndarray,
    *,
    costs: Costs,
    weight: np.ndarray | None = None,
) -> float:
    """Return the threshold with the least cost on these rows (Chow 1970 for the rule).

    It lies half way between two certainties; ``inf`` hands everything over, ``-inf`` nothing.
    For a certainty that is the chance of being right it is about 1 - hand_over / wrong_route.
    """
    sure, correct = _checked(certainty, right)
    share = np.ones(len(sure)) if weight is None else np.asarray(weight, dtype=float)
    order = np.argsort(-sure, kind="stable")
    gain = share * (costs.wrong_route * (1 - correct) - costs.hand_over)  # of accepting, in cost
    total = np.concatenate([[0.0], np.cumsum(gain[order])])
    bounds = np.concatenate([[np.inf], sure[order], [-np.inf]])
    open_at = np.append(np.diff(bounds[1:]) != 0, True)  # between equal certainties is no line
    possible = np.flatnonzero(np.concatenate([[True], open_at[:-1]]))
    best = int(possible[np.argmin(total[possible])])
    upper, lower = bounds[best], bounds[best + 1]
    if np.isinf(upper) or np.isinf(lower):
        return float(upper if np.isinf(upper) else lower)
    return float((upper + lower) / 2)


def fit_familiarity(
    inside: np.ndarray, outside: np.ndarray, *, outside_share: float = 0.1
) -> Familiarity:
    """Return the chance of being in scope as a logistic function of surprise.

    How frequent queries outside are does not follow from how many were collected, so it is given:
    ``outside_share`` of traffic, an assumption. The slope never gets negative.
    """
    first, second = _both(inside, outside)
    if not 0 < outside_share < 1:
        raise ValueError(f"outside_share {outside_share!r} is not between 0 and 1")
    rows = np.concatenate([first, second])[:, None]
    inside_row = np.repeat([1, 0], [len(first), len(second)])
    # Both sides count the same in the fit; the odds of traffic shift it afterwards.
    fitted = LogisticRegression(C=100.0, class_weight="balanced").fit(rows, inside_row)
    slope = max(-float(fitted.coef_[0, 0]), 1e-6)
    shift = np.log((1 - outside_share) / outside_share)
    return Familiarity(float(fitted.intercept_[0] + shift) / slope, slope)


def fold_surprise(
    known: Any,
    frame: pd.DataFrame,
    outside: pd.DataFrame,
    *,
    text: str = "query",
    fold: str = "fold",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the surprise of each row to what was fitted without its fold, inside and outside.

    Parameters
    ----------
    known
        ``fit(texts)`` returns what has ``score(texts)``, as `models.wrappers.ood.OodScorer` does.
        It needs no labels, so that no classifier is fitted.
    """
    found = np.full(len(frame), np.nan), np.full(len(outside), np.nan)
    for k in frame[fold].unique():
        fitted = known.fit(frame.loc[frame[fold] != k, text].tolist())
        for values, part in zip(found, (frame, outside), strict=True):
            held = (part[fold] == k).to_numpy()
            values[held] = fitted.score(part.loc[held, text].tolist())
    return found


def recorded_scope_scores(
    frame: pd.DataFrame,
    oof: pd.DataFrame,
    outside: pd.DataFrame,
    answers: pd.DataFrame,
    *,
    surprise: tuple[np.ndarray, np.ndarray],
    label: str = "intent",
    fold: str = "fold",
    kind: str = "kind",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what the models of the folds say of rows inside and outside, from recorded answers.

    Parameters
    ----------
    outside : DataFrame
        Queries that belong to no label, with ``id``, ``kind`` and ``fold``: each counts once, as
        the model of its own fold answered it, as rows inside do.
    oof
        Out-of-fold probabilities of the rows of ``frame``, in their order.
    answers
        What the models of the folds said of ``outside``: id, fold and probabilities. Of several
        answers to a query that of its own fold counts.
    surprise
        Of rows inside and outside, as `fold_surprise` returns it.

    Returns
    -------
    inside, outside : DataFrame
        ``fold``, ``confidence``, ``surprise``, ``right``, in the rows' order; ``kind`` outside.

    Raises
    ------
    ValueError
        A row outside without an answer of its fold.
    """
    own = answers.merge(outside[["id", fold]].rename(columns={fold: "fold"}), on=["id", "fold"])
    told = probabilities(oof), probabilities(aligned(own, outside["id"]))
    tables = [
        pd.DataFrame(
            {"fold": part[fold], "confidence": proba.max(axis=1).to_numpy(), "surprise": strange}
        )
        for part, proba, strange in zip((frame, outside), told, surprise, strict=True)
    ]
    tables[0]["right"] = predicted_labels(oof) == frame[label].to_numpy()
    tables[1]["right"], tables[1]["kind"] = False, outside[kind]
    return tables[0], tables[1]


def cross_fitted_routing(
    inside: pd.DataFrame,
    outside: pd.DataFrame,
    *,
    costs: Costs,
    outside_share: float = 0.1,
    familiar: bool = True,
) -> Routing:
    """Choose score and thresholds, and judge them on folds and kinds that had no say.

    For each fold and each kind, the familiarity and both thresholds come from the other folds and
    the other kinds; they are tried on that fold's rows inside and that fold's rows of that kind.
    Each row outside is tried once, each row inside once for each kind; of those tries the mean
    counts, so that an interval has as many rows as there are.

    Parameters
    ----------
    inside : DataFrame
        ``confidence`` (calibrated), ``surprise``, ``right``, ``fold``; natural rows.
    outside : DataFrame
        ``confidence``, ``surprise``, ``kind``, ``fold``.
    outside_share : float
        How frequent queries outside are in traffic, an assumption; it weighs in the costs.
    familiar : bool
        False leaves the surprise out: plain confidence, to compare with.

    Raises
    ------
    ValueError
        Fewer than two folds or two kinds, or a share that is none.
    """
    folds, kinds = sorted(inside["fold"].unique()), sorted(outside["kind"].unique())
    if len(folds) < 2 or len(kinds) < 2:
        raise ValueError(f"need 2 folds and 2 kinds at least: {len(folds)}, {len(kinds)}")
    tries = []
    for fold in folds:
        own, own_outside = inside["fold"] == fold, outside["fold"] == fold
        for kind in kinds:
            this = outside["kind"] == kind
            line = _line(
                inside[~own], outside[~own_outside & ~this], costs, outside_share, familiar
            )
            tried = [inside[own], outside[own_outside & this]]
            tries += [_tried(rows, line, costs, kind, n) for n, rows in enumerate(tried)]
    rows = pd.concat(tries)
    within, without = (rows[rows["outside"] == n] for n in (0, 1))
    by_row = within.groupby(level=0)[["paid", "passed", "passed_95"]].mean()
    paid = (1 - outside_share) * by_row["paid"].mean() + outside_share * without["paid"].mean()
    familiarity, threshold, threshold_95 = _line(inside, outside, costs, outside_share, familiar)
    by_kind = without.groupby("kind").agg(
        rows=("passed", "size"), passed=("passed", "mean"), passed_95=("passed_95", "mean")
    )
    by_kind = by_kind.assign(recall=1 - by_kind["passed"], recall_95=1 - by_kind["passed_95"])
    return Routing(
        familiarity,
        threshold,
        threshold_95,
        float(paid),
        share_of(by_row["passed"].to_numpy()),
        share_of(1 - without["passed"].to_numpy()),
        share_of(by_row["passed_95"].to_numpy()),
        share_of(1 - without["passed_95"].to_numpy()),
        by_kind[["rows", "recall", "recall_95"]].reset_index(),
    )


_Line = tuple[Familiarity | None, float, float]


def certainty_of(rows: pd.DataFrame, familiarity: Familiarity | None) -> np.ndarray:
    """Return confidence times familiarity for rows of `recorded_scope_scores`, shape (n,)."""
    confidence = rows["confidence"].to_numpy()
    return (
        confidence
        if familiarity is None
        else confidence * familiarity.of(rows["surprise"].to_numpy())
    )


def _line(
    inside: pd.DataFrame, outside: pd.DataFrame, costs: Costs, share: float, familiar: bool
) -> _Line:
    """Return the familiarity and the thresholds of least cost and of 95 % acceptance."""
    surprise = inside["surprise"].to_numpy(), outside["surprise"].to_numpy()
    familiarity = fit_familiarity(*surprise, outside_share=share) if familiar else None
    first, second = (certainty_of(rows, familiarity) for rows in (inside, outside))
    weight = np.repeat([(1 - share) / len(first), share / len(second)], [len(first), len(second)])
    threshold = cheapest_threshold(
        np.concatenate([first, second]),
        np.concatenate([inside["right"].to_numpy(float), np.zeros(len(second))]),
        costs=costs,
        weight=weight,
    )
    return familiarity, threshold, threshold_accepting(first)


def _tried(rows: pd.DataFrame, line: _Line, costs: Costs, kind: str, outside: int) -> pd.DataFrame:
    familiarity, threshold, threshold_95 = line
    certainty = certainty_of(rows, familiarity)
    right = np.zeros(len(rows)) if outside else rows["right"].to_numpy(float)
    passed = certainty >= threshold
    return pd.DataFrame(
        {
            "paid": np.where(passed, costs.wrong_route * (1 - right), costs.hand_over),
            "passed": passed.astype(float),
            "passed_95": (certainty >= threshold_95).astype(float),
            "kind": kind,
            "outside": outside,
        },
        index=rows.index,
    )
