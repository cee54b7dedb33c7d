"""How many more rows one model gets right than another that answers nearly the same."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from nivesh_lib.evaluation.metrics import Estimate

_Z = float(norm.ppf(0.975))  # two-sided 95 %


def more_right(right: np.ndarray, other_right: np.ndarray) -> Estimate:
    """Return the difference in accuracy of two models on the same rows, ``right`` minus the other.

    The interval is the score interval of Tango (1998). A model and its optimised copy differ on a
    handful of rows, if on any, and a bootstrap that draws from a handful tells too little: of two
    models that are right on the same rows it would say that they always will be. Here such an
    interval has the width of Wilson's.

    Parameters
    ----------
    right, other_right : array (n,)
        Whether each row was answered right.

    Raises
    ------
    ValueError
        No rows, or lengths that differ.
    """
    one, other = np.asarray(right, dtype=bool), np.asarray(other_right, dtype=bool)
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        raise ValueError(f"need two equally long, non-empty columns: {one.shape}, {other.shape}")
    won, lost, n = int((one & ~other).sum()), int((other & ~one).sum()), len(one)
    return Estimate((won - lost) / n, -_reach(lost, won, n), _reach(won, lost, n), n)


def points(difference: float) -> str:
    """Return a difference of shares in signed points: ``−1.2``, ``+0.3``, ``0.0``."""
    told = f"{100 * difference:+.1f}".replace("-", "−")
    return told[1:] if float(told[1:]) == 0 else told


def _reach(won: int, lost: int, n: int) -> float:
    """Return the upper end of the interval: the greatest difference that fits what was seen.

    Under a difference d, the share of rows lost is the root q of 2nq² + bq + c = 0 (its maximum
    likelihood), and won - lost has the variance n (2q + d (1 - d)).
    """
    point = (won - lost) / n

    def beyond(d: float) -> float:
        b, c = -(won + lost) + d * (2 * n - won + lost), -lost * d * (1 - d)
        q = (np.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        return won - lost - n * d + _Z * np.sqrt(max(n * (2 * q + d * (1 - d)), 0.0))

    start = point + 1e-9  # at the point itself the variance may be 0, and so the equation hold
    if start >= 1 or beyond(1.0) >= 0:
        return 1.0
    return float(brentq(beyond, start, 1.0))
