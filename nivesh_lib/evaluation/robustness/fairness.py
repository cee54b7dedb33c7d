"""Fairness: accuracy of segments, and counterfactual changes of who asks and how.

A difference between segments is judged by its interval, not by its point estimate: with few rows
a large observed gap can be chance, and a small one can hide a large true gap. The spread between
the best and the worst of k segments grows by chance with k, so each segment is compared with all
other rows, and the intervals are corrected for their number.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, count
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap, fisher_exact
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep

from nivesh_lib.evaluation.intervals import share_of, wilson
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
from nivesh_lib.evaluation.scores import METRICS, MIN_ROWS, by_slice
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
        minus accuracy (above 0: overconfident); ``abstained``, a share of rows.
    """
    true, predicted, confidence = _labels_and_confidence(frame, oof)
    scores = by_slice(true, predicted, masks, n_boot=n_boot, seed=seed)
    right = predicted == true
    rows = []
    for name in scores["slice"] if len(scores) else ():
        mask = masks[name]
        gap = _mean(confidence[mask] - right[mask], n_boot=n_boot, seed=seed)
        row = {"confidence": float(confidence[mask].mean()), **gap.columns("calibration")}
        if abstained is not None:
            row |= share_of(abstained[mask]).columns("abstained")
        rows.append(row)
    return pd.concat([scores, pd.DataFrame(rows)], axis=1)


def _labels_and_confidence(
    frame: pd.DataFrame, oof: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true labels, predicted labels and confidence, each of shape (n,)."""
    if frame["id"].tolist() != oof["id"].tolist():
        raise ValueError("frame and oof must hold the same ids in the same order; align them by id")
    true = frame["intent"].to_numpy(dtype=object)
    return true, predicted_labels(oof), confidence_of(probabilities(oof))


def _mean(values: np.ndarray, *, n_boot: int, seed: int) -> Estimate:
    """Return a mean with its percentile bootstrap interval."""
    value = float(values.mean())
    if np.ptp(values) == 0:  # all resamples are equal
        return Estimate(value, value, value, len(values))
    rng = np.random.default_rng(seed)
    drawn = bootstrap(
        (values,), np.mean, n_resamples=n_boot, method="percentile", rng=rng, vectorized=True
    )
    low, high = drawn.confidence_interval
    return Estimate(value, float(low), float(high), len(values))


def intersectional_scores(
    frame: pd.DataFrame, oof: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
    """Return the scores of each combination of values of several columns.

    A model can be accurate on each segment but not on an intersection of two (Fairlearn's
    MetricFrame).

    Returns
    -------
    DataFrame
        The columns; rows, accuracy with its Wilson interval (``_low``, ``_high``), and the other
        metrics. Combinations of fewer than ``MIN_ROWS`` rows are left out; empty where none is
        left, or where the frame lacks one of the columns.
    """
    true, predicted, _ = _labels_and_confidence(frame, oof)
    names = list(columns)
    scores = ["accuracy", "accuracy_low", "accuracy_high", *(m for m in METRICS if m != "accuracy")]
    whole = frame.reindex(columns=names).notna().all(axis=1).to_numpy()
    if not whole.any():
        return pd.DataFrame(columns=[*names, "rows", *scores])
    table = MetricFrame(
        metrics={"rows": count} | {name: metric.value for name, metric in METRICS.items()},
        y_true=true[whole],
        y_pred=predicted[whole],
        sensitive_features=frame.loc[whole, names].astype(str),
    ).by_group
    table = table[table["rows"] >= MIN_ROWS].astype({"rows": int}).reset_index()
    pairs = zip(table["accuracy"], table["rows"], strict=True)
    ends = np.array([wilson(float(share), int(n)) for share, n in pairs]).reshape(-1, 2)
    table[["accuracy_low", "accuracy_high"]] = ends
    return table[[*names, "rows", *scores]]


# --- differences between segments --------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """A segment's accuracy minus that of all other rows.

    ``difference`` has the Holm-corrected interval and the segment's rows as n; ``verdict`` is
    gap, no gap or cannot tell; ``detectable`` is the true difference that these numbers of rows
    detect with a power of 80 %, NaN where even an accuracy of 0 would not be detected.
    """

    segment: str
    difference: Estimate
    verdict: str
    detectable: float

    def mirrored(self) -> Gap:
        """Return the gap in the complementary share, such as of errors."""
        d = self.difference
        return replace(self, difference=Estimate(-d.value, -d.high, -d.low, d.n))


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


def _interval(counts: _Counts, alpha: float) -> tuple[float, float]:
    low, high = confint_proportions_2indep(*counts, method="newcomb", compare="diff", alpha=alpha)
    return float(low), float(high)


def _p_beyond(counts: _Counts, margin: float) -> float:
    """Return the smallest alpha at which the interval lies wholly beyond the margin, at most 1."""

    def short_of(log_alpha: float) -> float:
        low, high = _interval(counts, float(np.exp(log_alpha)))
        return margin - max(low, -high)

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
    difference = Estimate(right_in / n_in - right_out / n_out, low, high, n_in)
    return Gap(name, difference, verdict, detectable(right_out / n_out, n_in, n_out))


def detectable(accuracy: float, n: int, rest: int) -> float:
    """Return the smallest detectable difference of a segment below ``accuracy``.

    For a two-sided test at 5 % with 80 % power and ``n`` rows against ``rest``, by Cohen's (1988)
    arcsine effect size; NaN where the segment's accuracy would be below 0.
    """
    angle = np.arcsin(np.sqrt(accuracy)) - _effect(n, rest) / 2
    return float(accuracy - np.sin(angle) ** 2) if angle >= 0 else float("nan")


@functools.cache
def _effect(n: int, rest: int) -> float:
    found = NormalIndPower().solve_power(
        nobs1=n, ratio=rest / n, alpha=_ALPHA, power=_POWER, alternative="two-sided"
    )
    return float(found)


# --- counterfactual pairs ----------------------------------------------------------------------


def flip_rates(oof: pd.DataFrame, case_answers: pd.DataFrame) -> pd.DataFrame:
    """Return how often the predicted label changes when only the asker or the style does.

    Any change of a text may flip its label, so exchanging one first name for another of the same
    gender and community is the control.

    Returns
    -------
    DataFrame
        ``attribute``, ``rows``, ``flipped`` with its Wilson interval, and ``p_control``, the
        one-sided p-value of more flips than under the control, Holm-corrected: McNemar's exact
        test where the control has the same rows, else Fisher's, which ignores that some are
        shared and so errs on the side of no difference; missing without a control.
    """
    flips = {name: _flips(oof, case_answers, pair) for name, pair in COUNTERFACTUALS.items()}
    flips = {name: flipped for name, flipped in flips.items() if len(flipped)}
    p_values = _against_control(flips)
    shares = {name: share_of(flipped.to_numpy()) for name, flipped in flips.items()}
    return pd.DataFrame(
        {
            "attribute": name,
            "rows": share.n,
            **share.columns("flipped"),
            "p_control": p_values.get(name, float("nan")),
        }
        for name, share in shares.items()
    )


def _against_control(flips: Mapping[str, pd.Series]) -> dict[str, float]:
    others = [name for name in flips if name != CONTROL]
    if not others or CONTROL not in flips:
        return {}
    p_values = [_more_than(flips[name], flips[CONTROL]) for name in others]
    corrected = multipletests(p_values, method="holm")[1]
    return dict(zip(others, map(float, corrected), strict=True))


def _flips(oof: pd.DataFrame, case_answers: pd.DataFrame, pair: tuple[str, str]) -> pd.Series:
    """Return whether the predicted label changes, by id."""
    before, after = (answers_to(case_answers, name) if name else oof for name in pair)
    after = after[after["id"].isin(before["id"])]
    return pd.Series(changed(before, after), index=after["id"].to_numpy(), dtype=bool)


def _more_than(flipped: pd.Series, control: pd.Series) -> float:
    if set(flipped.index) != set(control.index):
        table = [[int(part.sum()), int((~part).sum())] for part in (flipped, control)]
        return float(fisher_exact(table, alternative="greater").pvalue)
    mine, theirs = flipped.to_numpy(), control[flipped.index].to_numpy()
    only, n = int((mine & ~theirs).sum()), int((mine != theirs).sum())
    return float(binomtest(only, n, alternative="greater").pvalue) if n else 1.0
