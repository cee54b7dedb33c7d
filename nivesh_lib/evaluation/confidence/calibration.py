"""Whether a confidence of 0.8 is right eight times in ten, and the temperature that mends it.

Probabilities come as a frame with one column for each label, as `crossval.probabilities` gives
them; labels as one column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from nivesh_lib.evaluation.scores import Column, _percentile, _resampled, share_of, wilson
from nivesh_lib.records.estimate import Estimate

N_BINS = 15  # Guo et al. 2017
BESIDE = 2  # bins on either side whose gaps help to tell the sign of a bin's own
LARGE = 0.08  # a calibration error that a temperature has to quarter
SMALLEST = 1e-12  # probability that a logarithm still takes
_LOG_TEMPERATURES = (-3.0, 3.0)  # 0.05 to 20


@dataclass(frozen=True)
class Calibration:
    """What a temperature does to out-of-fold probabilities.

    ``temperature`` is the one to save in the model; ``by_fold`` those that the other folds gave
    each fold; ``proba`` the probabilities after them. ``before`` and ``after`` are calibration
    errors over the rows that the temperature was fitted on, each row calibrated without its own
    fold. Where that did not help, ``helped`` is false and everything is as it was.
    """

    temperature: float
    by_fold: dict[int, float]
    proba: pd.DataFrame
    before: Estimate
    after: Estimate
    helped: bool

    @property
    def goal(self) -> float:
        """What the error may be afterwards: a quarter of one that is large, else no more."""
        return self.before.value / 4 if self.before.value >= LARGE else max(self.before.value, 0.0)

    def applied(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return answers of the folds' models, each at the temperature of its fold.

        Parameters
        ----------
        table
            ``id``, ``fold`` and a probability for each label.
        """
        labels = [name for name in table if name not in ("id", "fold")]
        mended = table.copy()
        for fold, temperature in self.by_fold.items():
            held = (table["fold"] == fold).to_numpy()
            if held.any() and temperature != 1:
                mended.loc[held, labels] = scaled(table.loc[held, labels].to_numpy(), temperature)
        return mended

    def __str__(self) -> str:
        if not self.helped:
            return f"temperature 1: no other one lowers the calibration error, {self.before}"
        return (
            f"temperature {self.temperature:.2f}: calibration error {self.before} before, "
            f"{self.after} after"
        )


def confidence_of(proba: pd.DataFrame) -> np.ndarray:
    """Return the probability of the most probable label for each row, shape (n,)."""
    return proba.max(axis=1).to_numpy()


def is_right(proba: pd.DataFrame, y: Column) -> np.ndarray:
    """Return whether the most probable label is the true one for each row, shape (n,)."""
    return proba.to_numpy().argmax(axis=1) == _columns_of(proba, y)


def _columns_of(proba: pd.DataFrame, y: Column) -> np.ndarray:
    found = proba.columns.get_indexer(pd.Index(np.asarray(y, dtype=object)))
    if len(found) != len(proba) or not len(found):
        raise ValueError(f"need a label for each row of probabilities: {len(proba)}, {len(found)}")
    if (found < 0).any():
        missing = np.asarray(y, dtype=object)[found < 0][0]
        raise ValueError(f"label {missing!r} has no column of probabilities")
    return found


# --- reliability -----------------------------------------------------------------


def _bin_of(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the number of each row's bin; equal confidences share one."""
    inner = np.quantile(confidence, np.linspace(0, 1, n_bins + 1)[1:-1])
    found = np.searchsorted(np.unique(inner), confidence, side="right")
    return np.unique(found, return_inverse=True)[1]


def reliability_bins(
    confidence: np.ndarray, right: np.ndarray, *, n_bins: int = N_BINS
) -> pd.DataFrame:
    """Return mean confidence and share right in bins of as equal a number of rows as ties allow.

    Equal mass, since bins of equal width leave some with hardly a row (Nguyen and O'Connor 2015).

    Returns
    -------
    DataFrame
        ``confidence``, ``accuracy``, its 95 % interval ``low`` and ``high`` (Wilson), ``rows``.
    """
    confidence, right = _checked(confidence, right)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": right, "rows": 1})
    grouped = frame.groupby(_bin_of(confidence, n_bins))
    table = grouped.agg({"confidence": "mean", "accuracy": "mean", "rows": "sum"})
    pairs = zip(table["accuracy"], table["rows"], strict=True)
    bounds = [wilson(float(share), int(rows)) for share, rows in pairs]
    table[["low", "high"]] = np.array(bounds)
    return table[["confidence", "accuracy", "low", "high", "rows"]].reset_index(drop=True)


def _checked(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sure, correct = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    if sure.shape != correct.shape or sure.ndim != 1 or not len(sure):
        raise ValueError(f"need two equally long, non-empty columns: {sure.shape}, {correct.shape}")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidence must lie between 0 and 1")
    return sure, correct


def calibration_error(
    confidence: np.ndarray,
    right: np.ndarray,
    *,
    n_bins: int = N_BINS,
    n_boot: int = 2000,
    seed: int = 42,
) -> Estimate:
    """Return the expected calibration error of the top label, without its bias, and an interval.

    The usual estimate, mean |accuracy - confidence| over bins (Guo et al. 2017), is above zero
    for a perfect model, by chance alone: 0.05 with 800 rows in 15 bins (Bröcker 2012; Kumar,
    Liang and Ma 2019; Roelofs et al. 2022). Here the sign of a bin's gap is told by one half of
    its rows and the bins beside it, its size by the other half, averaged over all halvings in
    the normal limit. A perfect model gets zero on average and a clear gap its full size; a gap
    about as large as its own noise, or one that changes sign from bin to bin, gets less. Single
    estimates can fall below zero, as they must to be right on average.

    The interval comes from a bootstrap over rows with the bins held fixed. Resamples add noise
    of their own to the gaps, so their spread is used, around the estimate, and not their
    percentiles (Davison and Hinkley 1997, section 5.2).

    Parameters
    ----------
    confidence : array (n,)
        Probability of the predicted label.
    right : array (n,)
        Whether that label is the true one.

    Raises
    ------
    ValueError
        No rows, lengths that differ, or a confidence outside 0 to 1.
    """
    confidence, right = _checked(confidence, right)
    bins = _bin_of(confidence, n_bins)
    per_row = np.stack([np.ones(len(bins)), right - confidence, confidence * (1 - confidence)])
    width = int(bins.max()) + 1

    def sums(rows: np.ndarray) -> np.ndarray:
        """Return rows, gaps and variances summed in each bin, shape (3, draws, bins)."""
        at = (bins[rows] + np.arange(len(rows))[:, None] * width).ravel()
        drawn = [np.bincount(at, row[rows].ravel(), len(rows) * width) for row in per_row]
        return np.stack(drawn).reshape(3, len(rows), width)

    value = float(_debiased(sums(np.arange(len(bins))[None, :]))[0])
    draws = _resampled(len(bins), 1, n_boot, seed)
    drawn = np.concatenate([_debiased(sums(rows)) for rows in draws])
    low, high = _percentile(drawn - drawn.mean())
    return Estimate(value, value - high, value - low, len(bins))


def _debiased(sums: np.ndarray) -> np.ndarray:
    """Return the sum over bins of sign * size, expected over halvings of the bins' rows.

    The halves of a bin whose gaps sum to g with variance v sum to (g + e)/2 and (g - e)/2,
    e ~ N(0, v). With m from the bins beside it, u = g + 2m and s = √v,
    E[sign(u + e) (g - e)] = g (2 Φ(u/s) - 1) - 2 s φ(u/s); calibrated, that is zero on average.
    """
    rows, gaps, variances = sums
    beside = np.zeros_like(gaps)
    for step in range(1, BESIDE + 1):
        beside[..., step:] += gaps[..., :-step]
        beside[..., :-step] += gaps[..., step:]
    noise = np.sqrt(variances) + 1e-12  # an empty bin has none
    ratio = np.clip((gaps + 2 * beside) / noise, -30, 30)
    terms = gaps * (2 * norm.cdf(ratio) - 1) - 2 * noise * norm.pdf(ratio)
    return terms.sum(axis=-1) / rows.sum(axis=-1)


# --- proper scores ---------------------------------------------------------------


def brier(proba: pd.DataFrame, y: Column, *, n_boot: int = 2000, seed: int = 42) -> Estimate:
    """Return the mean squared error over all labels, from 0 to 2 (Brier 1950)."""
    targets = np.eye(proba.shape[1])[_columns_of(proba, y)]
    return _mean(((proba.to_numpy() - targets) ** 2).sum(axis=1), n_boot, seed)


def _losses(proba: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return -np.log(np.clip(proba[np.arange(len(columns)), columns], SMALLEST, None))


def _mean(values: np.ndarray, n_boot: int, seed: int) -> Estimate:
    draws = _resampled(len(values), 1, n_boot, seed)
    low, high = _percentile(np.concatenate([values[rows].mean(axis=1) for rows in draws]))
    return Estimate(float(values.mean()), low, high, len(values))


# --- temperature -----------------------------------------------------------------


def scaled(proba: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities whose logarithms were divided by ``temperature``, shape as given.

    Above 1 answers become less sure, below 1 surer; their order stays (Guo et al. 2017). It acts
    on probabilities, so that it serves models without logits too.
    """
    logits = np.log(np.clip(proba, SMALLEST, None)) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def fit_temperature(proba: pd.DataFrame, y: Column) -> float:
    """Return the temperature with the least negative log-likelihood, between 0.05 and 20."""
    values, columns = proba.to_numpy(), _columns_of(proba, y)

    def loss(log_temperature: float) -> float:
        return float(_losses(scaled(values, np.exp(log_temperature)), columns).mean())

    best = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
    return float(np.exp(best.x))


def cross_fitted_temperature(
    oof_proba: pd.DataFrame,
    y: Column,
    folds: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    n_boot: int = 2000,
    seed: int = 42,
) -> Calibration:
    """Calibrate each fold with the temperature that the other folds give.

    Parameters
    ----------
    oof_proba : DataFrame (n, n_labels)
        Out-of-fold probabilities.
    y : column (n,)
        True labels.
    folds : array (n,)
        Fold of each row.
    rows : mask (n,), optional
        Rows to fit and judge on, by default all; every row is calibrated. Pass the rows of
        `slices.headline_mask`: rows selected for being hard are wrong more often than traffic
        is, and a temperature that serves both answers the natural ones too timidly.

    Raises
    ------
    ValueError
        Fewer than two folds among ``rows``, or columns of other lengths.
    """
    labels, fold_of = np.asarray(y, dtype=object), np.asarray(folds)
    used = np.ones(len(labels), dtype=bool) if rows is None else np.asarray(rows, dtype=bool)
    if not len(oof_proba) == len(labels) == len(fold_of) == len(used):
        raise ValueError("oof_proba, y, folds and rows must have a row for each other's")
    present = np.unique(fold_of)
    if len(np.unique(fold_of[used])) < 2:
        raise ValueError("the rows lie in fewer than 2 folds; there is nothing to cross-fit with")
    by_fold, calibrated = {}, oof_proba.copy()
    for fold in present:
        held, other = fold_of == fold, used & (fold_of != fold)
        by_fold[int(fold)] = fit_temperature(oof_proba[other], labels[other])
        calibrated[held] = scaled(oof_proba[held].to_numpy(), by_fold[int(fold)])

    def error(proba: pd.DataFrame) -> Estimate:
        chosen, right = proba[used], is_right(oof_proba[used], labels[used])
        return calibration_error(confidence_of(chosen), right, n_boot=n_boot, seed=seed)

    before, after = error(oof_proba), error(calibrated)
    # Never below zero: of two errors that are both noise, the untouched model's is as good.
    if max(after.value, 0.0) >= max(before.value, 0.0):
        as_it_was = dict.fromkeys(by_fold, 1.0)
        return Calibration(1.0, as_it_was, oof_proba.copy(), before, before, helped=False)
    temperature = fit_temperature(oof_proba[used], labels[used])
    return Calibration(temperature, by_fold, calibrated, before, after, helped=True)


def answered(confidence: np.ndarray, right: np.ndarray, bar: float) -> dict[str, Estimate]:
    """Return the share of queries answered at a bar of confidence, and of answers that are right.

    Returns
    -------
    dict
        ``answered``, and ``right`` where anything is answered; Wilson intervals.
    """
    sure, correct = _checked(confidence, right)
    acted = sure >= bar
    found = {"answered": share_of(acted)}
    return found | ({"right": share_of(correct[acted])} if acted.any() else {})


def calibration_table(
    calibrations: Mapping[str, Calibration],
    before: Mapping[str, pd.DataFrame],
    y: Column,
    *,
    rows: np.ndarray,
    bar: float | None = None,
    n_boot: int = 2000,
    seed: int = 42,
) -> pd.DataFrame:
    """Return what calibration does to each model, one row each.

    Parameters
    ----------
    before
        Model -> out-of-fold probabilities (n, n_labels) as they were.
    y : column (n,)
        True labels.
    rows : mask (n,)
        Rows to judge on, those that the temperatures were fitted on.
    bar : float, optional
        A confidence from which on queries are answered.

    Returns
    -------
    DataFrame
        model, temperature, ``ece_before`` and ``ece_after`` (each with ``_low`` and ``_high``),
        ``brier_before`` and ``brier_after``; with a bar ``answered_…``, the share of queries, and
        ``right_…``, the share of those that is right, missing where none is answered.
    """
    table = []
    labels = np.asarray(y, dtype=object)[rows]
    for name, one in calibrations.items():
        row: dict[str, Any] = {"model": name, "temperature": one.temperature}
        told = {"before": (before[name], one.before), "after": (one.proba, one.after)}
        for when, (_, error) in told.items():
            row |= error.columns(f"ece_{when}")
        for when, (proba, _) in told.items():
            row[f"brier_{when}"] = brier(proba[rows], labels, n_boot=n_boot, seed=seed).value
        for when, (proba, _) in told.items():
            if bar is None:
                continue
            acted = answered(confidence_of(proba[rows]), is_right(proba[rows], labels), bar)
            row[f"answered_{when}"] = acted["answered"].value
            row[f"right_{when}"] = acted["right"].value if "right" in acted else float("nan")
        table.append(row)
    return pd.DataFrame(table)
