"""Where the errors are, and what would be gained there: what to work on first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.metrics import _percentile, share_of
from nivesh_lib.evaluation.slices import MIN_ROWS


def shares_of_errors(
    right: np.ndarray, groups: Mapping[str, np.ndarray], *, n_boot: int = 2000, seed: int = 42
) -> pd.DataFrame:
    """Return how many of the errors each group holds and what mending it would give, most first.

    A group that is large holds many errors without being harder than the rest. ``gain`` is the
    accuracy that would be won if it were right as often as all other rows: the attributable
    fraction of epidemiology (Levin 1953) on the scale of accuracy. It is the most that mending
    the group alone can give. Groups overlap, so that gains do not add up.

    Parameters
    ----------
    right
        Whether each answer was right, shape (n,).
    groups
        Name -> rows. Those with fewer than 20 rows in them or outside are left out; so are
        groups of which not one row is wrong.

    Returns
    -------
    DataFrame
        group, rows, wrong; ``share`` of all errors with ``share_low`` and ``share_high``
        (Wilson); ``error_rate`` in the group and ``rest_error_rate`` outside it; ``gain`` with
        ``gain_low`` and ``gain_high`` (percentile bootstrap over rows).
    """
    wrong = ~np.asarray(right, dtype=bool)
    rng, n, rows = np.random.default_rng(seed), len(wrong), []
    for name, mask in groups.items():
        inside = int(mask.sum())
        if min(inside, n - inside) < MIN_ROWS or not (wrong & mask).any():
            continue
        share = share_of(mask[wrong])
        cells = [wrong & mask, ~wrong & mask, wrong & ~mask, ~wrong & ~mask]
        counts = np.array([cell.sum() for cell in cells])
        # Drawing rows with replacement draws the four counts from a multinomial.
        low, high = _percentile(_gain(rng.multinomial(n, counts / n, size=n_boot)))
        rows.append(
            {
                "group": name,
                "rows": inside,
                "wrong": int(counts[0]),
                "share": share.value,
                "share_low": share.low,
                "share_high": share.high,
                "error_rate": float(counts[0] / inside),
                "rest_error_rate": float(counts[2] / (n - inside)),
                "gain": float(_gain(counts[None, :])[0]),
                "gain_low": low,
                "gain_high": high,
            }
        )
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.sort_values("gain", ascending=False, kind="stable", ignore_index=True)


_COLUMNS = [
    *("group", "rows", "wrong", "share", "share_low", "share_high"),
    *("error_rate", "rest_error_rate", "gain", "gain_low", "gain_high"),
]


def _gain(counts: np.ndarray) -> np.ndarray:
    """Return the accuracy won, of counts (draws, 4): wrong and right inside, the same outside."""
    wrong, right, wrong_outside, right_outside = counts.T
    rest = wrong_outside / np.maximum(wrong_outside + right_outside, 1)
    return np.asarray((wrong - (wrong + right) * rest) / counts.sum(axis=1))
