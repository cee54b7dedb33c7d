"""Fairness: accuracy of segments, and counterfactual changes of who asks and how.

A difference between segments is judged by its interval, not by its point estimate: with few rows
a large observed gap can be chance, and a small one can hide a large true gap. The spread between
the best and the worst of k segments grows by chance with k, so each segment is compared with all
other rows, and the intervals are corrected for their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import binom
from statsmodels.stats.proportion import confint_proportions_2indep

from nivesh_lib.evaluation.intervals import MIN_ROWS, mean_of, paired_accuracy_difference, share_of
from nivesh_lib.evaluation.resampling.cross_validation import (
    confidence_of,
    predicted_labels,
    probabilities,
)
from nivesh_lib.evaluation.robustness.behaviour import changed
from nivesh_lib.evaluation.robustness.cases import (
    CASUAL,
    INTRODUCED,
    PERTURBATION,
    POLITE,
    answers_to,
)
from nivesh_lib.evaluation.scores import by_slice
from nivesh_lib.records.estimate import Estimate

MARGIN = 0.05  # the largest tolerated difference in accuracy between segments
_ALPHA = 0.05
_POWER = 0.8

# What differs between two texts -> their tests; "" is the unchanged text.
CONTROL = "another name (control)"
COUNTERFACTUALS = {
    CONTROL: (INTRODUCED, "person: another name"),
    "gender of the name": (INTRODUCED, "person: other gender"),
    "community of the name": (INTRODUCED, "person: other community"),
    "region": (INTRODUCED, "person: other region"),
    "small town or large city": (INTRODUCED, "person: large city"),
    "polite or casual": (POLITE, CASUAL),
    "style of amounts": ("", f"{PERTURBATION}amount spelling"),
}


# --- segments ----------------------------------------------------------------------------------


def segment_scores(
    frame: pd.DataFrame,
    oof: pd.DataFrame,
    masks: Mapping[str, np.ndarray],
    *,
    abstained: np.ndarray | None = None,
    n_boot: int = 1000,
    seed: int = 42,
) -> pd.DataFrame:
    """Return accuracy, macro-F1, calibration and abstention for each mask, with intervals.

    Parameters
    ----------
    frame, oof
        The same rows in the same order.
    masks
        Name -> rows, as `scores.masks_by_column` returns them; masks of fewer than
        ``MIN_ROWS`` rows are left out.
    abstained
        Which rows the model abstains from, shape (n,); without it the column is left out.

    Returns
    -------
    DataFrame
        The columns of `scores.by_slice`; ``confidence``, its mean; ``calibration``, that mean
        minus accuracy (above 0: overconfident), with an interval that is corrected for the number
        of masks; ``abstained``, a share of rows.
    """
    if frame["id"].tolist() != oof["id"].tolist():
        raise ValueError("frame and oof must hold the same ids in the same order; align them by id")
    true, predicted = frame["intent"].to_numpy(dtype=object), predicted_labels(oof)
    confidence = confidence_of(probabilities(oof))
    scores = by_slice(true, predicted, masks, n_boot=n_boot, seed=seed)
    right = predicted == true
    rows = []
    for name in scores["slice"] if len(scores) else ():
        mask = masks[name]
        gap = mean_of(confidence[mask] - right[mask], alpha=_ALPHA / len(scores))
        row = {"confidence": float(confidence[mask].mean()), **gap.columns("calibration")}
        if abstained is not None:
            row |= share_of(abstained[mask]).columns("abstained")
        rows.append(row)
    return pd.concat([scores, pd.DataFrame(rows)], axis=1)


# --- differences between segments --------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """A segment's accuracy minus that of all other rows.

    ``difference`` has the Holm-corrected interval and the segment's rows as n; ``verdict`` is
    gap, no gap or cannot tell.
    """

    segment: str
    difference: Estimate
    verdict: str


def accuracy_gaps(
    right: np.ndarray, masks: Mapping[str, np.ndarray], *, margin: float = MARGIN
) -> list[Gap]:
    """Judge each segment's accuracy against that of all other rows.

    Parameters
    ----------
    right
        Whether each answer was right, shape (n,).
    masks
        Name -> rows of the segment. Of two complementary masks only the smaller counts: they are
        one comparison. A mask needs ``MIN_ROWS`` rows inside and outside.
    margin
        The largest tolerated difference.

    Returns
    -------
    list of Gap
        "gap" where the whole interval lies beyond the margin on one side, "no gap" where it lies
        within, else "cannot tell". Intervals are Newcombe's (1998, method 10) at the level of
        Holm's (1979) step: the most significant of k gaps at 1 - 0.05/k, the next at
        1 - 0.05/(k-1), and from the first that is not significant on, all at its level. The
        probability of any false gap is thus at most 5 %. Differences are not adjusted for
        intents or language.
    """
    right = np.asarray(right, dtype=bool)
    chosen = _comparisons(masks)
    counts = {name: _two_by_two(right, mask) for name, mask in chosen.items()}
    alphas = _holm_alphas({name: _p_beyond(table, margin) for name, table in counts.items()})
    return [_gap(name, counts[name], alphas[name], margin) for name in chosen]


_Counts = tuple[int, int, int, int]  # right and all in the segment, right and all outside it


def _comparisons(masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    chosen: dict[str, np.ndarray] = {}
    for name, mask in masks.items():
        n, inside = len(mask), int(mask.sum())
        if min(inside, n - inside) < MIN_ROWS:
            continue
        twin = next((other for other in chosen if (chosen[other] == ~mask).all()), None)
        if twin is None:
            chosen[name] = mask
        elif inside < n - inside:
            del chosen[twin]
            chosen[name] = mask
    return chosen


def _two_by_two(right: np.ndarray, mask: np.ndarray) -> _Counts:
    return int(right[mask].sum()), int(mask.sum()), int(right[~mask].sum()), int((~mask).sum())


def _interval(counts: tuple[Any, Any, Any, Any], alpha: float) -> tuple[Any, Any]:
    """Return the ends of Newcombe's interval, of numbers or of arrays of counts."""
    low, high = confint_proportions_2indep(*counts, method="newcomb", compare="diff", alpha=alpha)
    return low, high


def _p_beyond(counts: _Counts, margin: float) -> float:
    """Return the smallest alpha at which the interval lies wholly beyond the margin, at most 1."""

    def short_of(log_alpha: float) -> float:
        low, high = _interval(counts, float(np.exp(log_alpha)))
        return float(margin - max(low, -high))

    least = np.log(1e-12)
    if short_of(-1e-9) >= 0:  # the difference itself is within
        return 1.0
    if short_of(least) <= 0:
        return 1e-12
    return float(np.exp(brentq(short_of, least, -1e-9)))


def _holm_alphas(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the level at which each comparison is judged in Holm's procedure."""
    alphas, left, stopped = {}, len(p_values), False  # statsmodels corrects p-values, not levels
    for name in sorted(p_values, key=lambda name: p_values[name]):
        alphas[name] = _ALPHA / left
        stopped = stopped or p_values[name] > alphas[name]
        left -= not stopped
    return alphas


def _gap(name: str, counts: _Counts, alpha: float, margin: float) -> Gap:
    right_in, n_in, right_out, n_out = counts
    low, high = _interval(counts, alpha)
    verdict = (
        "gap"
        if low > margin or high < -margin
        else "no gap"
        if -margin <= low and high <= margin
        else "cannot tell"
    )
    difference = Estimate(right_in / n_in - right_out / n_out, float(low), float(high), n_in)
    return Gap(name, difference, verdict)


def detectable(
    right: np.ndarray, mask: np.ndarray, *, comparisons: int = 1, margin: float = MARGIN
) -> float:
    """Return the smallest true gap below the rest that `accuracy_gaps` would call one.

    It would be called a gap four times out of five: the whole interval, at the level of the first
    of Holm's steps, 0.05 / ``comparisons``, lies beyond ``margin``. Later steps are easier, so it
    may be found more often. The accuracy of the rest is taken to be the one found.

    Returns
    -------
    float
        NaN where even an accuracy of 0 would be missed more often.
    """
    _, n, right_out, n_out = _two_by_two(np.asarray(right, dtype=bool), mask)
    share, likely = right_out / n_out, (np.arange(100) + 0.5) / 100
    outside = binom.ppf(likely, n_out, share)

    def short_of(gap: float) -> float:
        inside = binom.ppf(likely, n, share - gap)[:, None]
        _, high = _interval((inside, n, outside, n_out), _ALPHA / comparisons)
        return float(_POWER - np.mean(high < -margin))

    if short_of(share) > 0:
        return float("nan")
    return float(brentq(short_of, 0.0, share, xtol=1e-4))


# --- counterfactual pairs ----------------------------------------------------------------------


def flip_rates(oof: pd.DataFrame, case_answers: pd.DataFrame) -> pd.DataFrame:
    """Return how often the predicted label changes when only the asker or the style does.

    Any change of a text may flip its label, so exchanging one first name for another of the same
    gender and community is the control.

    Returns
    -------
    DataFrame
        ``attribute``, ``rows``, ``flipped`` with its Wilson interval, and ``more``, the difference
        from the control, with an interval that is corrected (Bonferroni) for their number: Tango's
        where the control has the same rows, else Newcombe's, which ignores that some are shared
        and so is too wide; missing without a control.
    """
    flips = {name: _flips(oof, case_answers, pair) for name, pair in COUNTERFACTUALS.items()}
    flips = {name: flipped for name, flipped in flips.items() if len(flipped)}
    control, unknown = flips.get(CONTROL), Estimate(math.nan, math.nan, math.nan, 0)
    alpha = _ALPHA / max(1, len(flips) - 1)
    rows = []
    for name, flipped in flips.items():
        more = unknown
        if control is not None and name != CONTROL:
            more = _more_than(flipped, control, alpha)
        share = share_of(flipped.to_numpy())
        rows.append(
            {"attribute": name, "rows": share.n} | share.columns("flipped") | more.columns("more")
        )
    return pd.DataFrame(rows)


def _flips(oof: pd.DataFrame, case_answers: pd.DataFrame, pair: tuple[str, str]) -> pd.Series:
    """Return whether the predicted label changes, by id."""
    before, after = (answers_to(case_answers, name) if name else oof for name in pair)
    after = after[after["id"].isin(before["id"])]
    return pd.Series(changed(before, after), index=after["id"].to_numpy(), dtype=bool)


def _more_than(flipped: pd.Series, control: pd.Series, alpha: float) -> Estimate:
    if set(flipped.index) == set(control.index):
        same = control[flipped.index].to_numpy()
        return paired_accuracy_difference(flipped.to_numpy(), same, alpha=alpha)
    counts = (int(flipped.sum()), len(flipped), int(control.sum()), len(control))
    low, high = _interval(counts, alpha)
    return Estimate(float(flipped.mean() - control.mean()), float(low), float(high), len(flipped))
