"""Tables of numbers in eight bits: each row as integers and one scale."""

from __future__ import annotations

import numpy as np

_STEPS = 127  # of eight bits with a sign, on either side of 0


def rounded_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers, int8 of the table's shape (rows, width), and scales, float16 (rows, 1).

    The largest entry of a row becomes 127. A scale has so few digits that its products with the
    integers are exact, so that rounding what `from_rounded` returns changes nothing.
    """
    peaks = np.abs(table).max(axis=1, keepdims=True, initial=0.0)
    scales = np.maximum(peaks / _STEPS, np.finfo(np.float16).tiny).astype(np.float16)
    steps = np.rint(table / scales.astype(np.float32))
    return np.clip(steps, -_STEPS, _STEPS).astype(np.int8), scales


def from_rounded(steps: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the rounded table, (rows, width) float32."""
    return steps.astype(np.float32) * scales.astype(np.float32)
