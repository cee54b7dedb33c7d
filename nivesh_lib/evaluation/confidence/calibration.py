"""Calibration: reliability, calibration error, Brier score and temperature scaling.

Probabilities are a frame with one column for each label, as `cross_validation.probabilities`
returns them; labels are one column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import norm

from nivesh_lib.evaluation.intervals import (
    bootstrap_rows,
    paired_columns,
    percentile_interval,
    wilson,
)
from nivesh_lib.evaluation.resampling.cross_validation import (
    confidence_of,
    label_positions,
    probabilities,
)
from nivesh_lib.evaluation.scores import Column, headline_mask
from nivesh_lib.records.estimate import Estimate

N_BINS = 15  # Guo et al. 2017
NEIGHBOURS = 2  # bins on either side whose gaps help to estimate the sign of a bin's own
LARGE = 0.08  # a calibration error, a quarter of which is acceptable
SMALLEST = 1e-12  # lower bound of probabilities in logarithms
_LOG_TEMPERATURES = (-3.0, 3.0)  # 0.05 to 20


@dataclass(frozen=True)
class Calibration:
    """Cross-fitted temperature scaling of out-of-fold probabilities.

    ``temperature`` is the one to save in the model; ``by_fold`` those fitted on the other folds
    of each fold; ``proba`` the probabilities scaled by these. ``before`` and ``after`` are
    calibration errors over the rows that the temperature was fitted on, each row calibrated
    without its own fold. Where scaling does not lower the error, ``helped`` is false and the
    temperatures are 1.
    """

    temperature: float
    by_fold: dict[int, float]
    proba: pd.DataFrame
    before: Estimate
    after: Estimate
    helped: bool

    @property
    def goal(self) -> float:
        """The largest acceptable error afterwards: a quarter of that before, or of a large one."""
        return max(self.before.value, LARGE) / 4

    def applied(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return probabilities of the folds' models, each scaled by the temperature of its fold.

        Parameters
        ----------
        table
            ``id``, ``fold`` and a probability for each label.
        """
        labels = [name for name in table if name not in ("id", "fold")]
        calibrated = table.copy()
        for fold, temperature in self.by_fold.items():
            held = (table["fold"] == fold).to_numpy()
            if held.any() and temperature != 1:
                values = table.loc[held, labels].to_numpy()
                calibrated.loc[held, labels] = scaled(values, temperature)
        return calibrated


def is_right(proba: pd.DataFrame, y: Column) -> np.ndarray:
    """Return whether the most probable label is the true one for each row, shape (n,)."""
    return proba.to_numpy().argmax(axis=1) == _columns_of(proba, y)


def _columns_of(proba: pd.DataFrame, y: Column) -> np.ndarray:
    if len(y) != len(proba) or not len(y):
        raise ValueError(f"need a label for each row of probabilities: {len(proba)}, {len(y)}")
    return label_positions(proba, y)


# --- reliability -----------------------------------------------------------------


def _bin_of(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the number of each row's bin; equal confidences share one."""
    inner = np.quantile(confidence, np.linspace(0, 1, n_bins + 1)[1:-1])
    found = np.searchsorted(np.unique(inner), confidence, side="right")
    return np.unique(found, return_inverse=True)[1]


def reliability_bins(
    confidence: np.ndarray, right: np.ndarray, *, n_bins: int = N_BINS
) -> pd.DataFrame:
    """Return mean confidence and accuracy in bins of equally many rows, as far as ties allow.

    Bins of equal mass, since bins of equal width can be almost empty (Nguyen and O'Connor 2015).

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
    confidence, right = paired_columns(confidence, right)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidence must lie between 0 and 1")
    return confidence, right


def calibration_error(
    confidence: np.ndarray, right: np.ndarray, *, n_boot: int = 2000, seed: int = 42
) -> Estimate:
    """Return the debiased expected calibration error of the top label, with an interval.

    The usual estimate, mean |accuracy - confidence| over bins (Guo et al. 2017), is biased
    upwards: 0.05 for a perfectly calibrated model with 800 rows in 15 bins (Bröcker 2012; Kumar,
    Liang and Ma 2019; Roelofs et al. 2022). Here the sign of a bin's gap is estimated from one
    half of its rows and the neighbouring bins, its size from the other half, averaged over all
    halvings in the normal limit. The estimate is zero on average for a perfectly calibrated
    model and unbiased for a clear gap; a gap about as large as its own noise, or one that changes
    sign from bin to bin, is underestimated. Single estimates can be negative.

    The interval comes from a bootstrap over rows with the bins held fixed. Resampling adds noise
    to the gaps, so the centred spread of the draws is used around the estimate, and not their
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
    bins = _bin_of(confidence, N_BINS)
    per_row = np.stack([np.ones(len(bins)), right - confidence, confidence * (1 - confidence)])
    width = int(bins.max()) + 1

    def sums(rows: np.ndarray) -> np.ndarray:
        """Return rows, gaps and variances summed in each bin, shape (3, draws, bins)."""
        at = (bins[rows] + np.arange(len(rows))[:, None] * width).ravel()
        drawn = [np.bincount(at, row[rows].ravel(), len(rows) * width) for row in per_row]
        return np.stack(drawn).reshape(3, len(rows), width)

    value = float(_debiased(sums(np.arange(len(bins))[None, :]))[0])
    draws = bootstrap_rows(len(bins), n_boot, seed)
    drawn = np.concatenate([_debiased(sums(rows)) for rows in draws])
    low, high = percentile_interval(drawn - drawn.mean())
    return Estimate(value, value - high, value - low, len(bins))


def _debiased(sums: np.ndarray) -> np.ndarray:
    """Return the sum over bins of sign * size, expected over halvings of the bins' rows.

    The halves of a bin whose gaps sum to g with variance v sum to (g + e)/2 and (g - e)/2,
    e ~ N(0, v). With m from the neighbouring bins, u = g + 2m and s = √v,
    E[sign(u + e) (g - e)] = g (2 Φ(u/s) - 1) - 2 s φ(u/s), which is zero on average under
    perfect calibration.
    """
    rows, gaps, variances = sums
    neighbours = np.zeros_like(gaps)
    for step in range(1, NEIGHBOURS + 1):
        neighbours[..., step:] += gaps[..., :-step]
        neighbours[..., :-step] += gaps[..., step:]
    noise = np.sqrt(variances) + 1e-12  # 0 in an empty bin
    ratio = np.clip((gaps + 2 * neighbours) / noise, -30, 30)
    terms = gaps * (2 * norm.cdf(ratio) - 1) - 2 * noise * norm.pdf(ratio)
    return terms.sum(axis=-1) / rows.sum(axis=-1)


# --- proper scores ---------------------------------------------------------------


def brier(proba: pd.DataFrame, y: Column) -> float:
    """Return the mean squared error over all labels, from 0 to 2 (Brier 1950)."""
    targets = np.eye(proba.shape[1])[_columns_of(proba, y)]
    return float(((proba.to_numpy() - targets) ** 2).sum(axis=1).mean())


# --- temperature -----------------------------------------------------------------


def scaled(proba: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities whose logarithms are divided by ``temperature``, of the same shape.

    Above 1 the confidence falls, below 1 it rises; the order of the labels stays (Guo et al.
    2017). It applies to probabilities, and so to models without logits too.
    """
    return softmax(np.log(np.clip(proba, SMALLEST, None)) / temperature, axis=1)


def fit_temperature(proba: pd.DataFrame, y: Column) -> float:
    """Return the temperature with the least negative log-likelihood, between 0.05 and 20."""
    values, columns = proba.to_numpy(), _columns_of(proba, y)

    def loss(log_temperature: float) -> float:
        true = scaled(values, np.exp(log_temperature))[np.arange(len(columns)), columns]
        return float(-np.log(np.clip(true, SMALLEST, None)).mean())

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
    """Calibrate each fold with the temperature fitted on the other folds.

    Parameters
    ----------
    oof_proba : DataFrame (n, n_labels)
        Out-of-fold probabilities.
    y : column (n,)
        True labels.
    folds : array (n,)
        Fold of each row.
    rows : mask (n,), optional
        Rows to fit and evaluate on, by default all; every row is calibrated. Pass
        `scores.headline_mask`: rows selected for being hard are wrong more often than traffic,
        and a temperature fitted on both makes the natural ones underconfident.

    Raises
    ------
    ValueError
        Fewer than two folds among ``rows``.
    """
    labels, fold_of = np.asarray(y, dtype=object), np.asarray(folds)
    used = np.ones(len(labels), dtype=bool) if rows is None else np.asarray(rows, dtype=bool)
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
    # Not below zero: of two errors that are both noise, the unscaled model's is as good.
    if max(after.value, 0.0) >= max(before.value, 0.0):
        unscaled = dict.fromkeys(by_fold, 1.0)
        return Calibration(1.0, unscaled, oof_proba.copy(), before, before, helped=False)
    temperature = fit_temperature(oof_proba[used], labels[used])
    return Calibration(temperature, by_fold, calibrated, before, after, helped=True)


def cross_fitted(
    oof: Mapping[str, pd.DataFrame], frame: pd.DataFrame, *, n_boot: int = 2000, seed: int = 42
) -> dict[str, Calibration]:
    """Return model -> `cross_fitted_temperature` on the rows that headline scores use.

    Parameters
    ----------
    oof
        Model -> ``id``, ``fold`` and a probability for each label, in the order of ``frame``.
    frame
        ``intent`` and ``selection`` of each row.
    """
    rows = headline_mask(frame)
    return {
        name: cross_fitted_temperature(
            probabilities(one), frame["intent"], one["fold"].to_numpy(),
            rows=rows, n_boot=n_boot, seed=seed,
        )
        for name, one in oof.items()
    }  # fmt: skip


def calibration_table(
    calibrations: Mapping[str, Calibration],
    oof: Mapping[str, pd.DataFrame],
    frame: pd.DataFrame,
    *,
    bar: float | None = None,
) -> pd.DataFrame:
    """Return the effect of calibration on each model, one row each.

    Parameters
    ----------
    oof, frame
        As in `cross_fitted`; ``oof`` may have more models.
    bar : float, optional
        The least confidence at which the model answers.

    Returns
    -------
    DataFrame
        model, temperature, ``ece_before`` and ``ece_after`` (each with ``_low`` and ``_high``),
        ``brier_before`` and ``brier_after``; with a bar ``answered_…``, the share of queries
        answered, and ``right_…``, the accuracy of these, missing where none is answered.
    """
    rows = headline_mask(frame)
    table, labels = [], frame["intent"].to_numpy(dtype=object)[rows]
    for name, one in calibrations.items():
        row: dict[str, Any] = {"model": name, "temperature": one.temperature}
        row |= one.before.columns("ece_before") | one.after.columns("ece_after")
        probas = {"before": probabilities(oof[name])[rows], "after": one.proba[rows]}
        row |= {f"brier_{when}": brier(proba, labels) for when, proba in probas.items()}
        for when, proba in probas.items() if bar is not None else ():
            accepted = confidence_of(proba) >= bar
            right = is_right(proba, labels)[accepted]
            row[f"answered_{when}"] = float(accepted.mean())
            row[f"right_{when}"] = float(right.mean()) if len(right) else float("nan")
        table.append(row)
    return pd.DataFrame(table)
