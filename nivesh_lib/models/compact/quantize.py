"""Tables of numbers in eight bits: each row as integers and one scale."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

_STEPS = 127  # of eight bits with a sign, on either side of 0
_DAMPING = 0.01  # of the mean diagonal of a Gram matrix, added so that it has an inverse
_BLOCK = 64  # rows whose errors are passed on to the rows below in one product


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


def rounded_columns(table: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers, int8 (inputs, outputs), and scales, float32 (1, outputs), of a product.

    The rows are rounded one after the other, and what a row loses is made good, as far as can be,
    by the rows that are still to come: on inputs like those seen, the product stays nearer to what
    it was than by rounding each number to the nearest (Frantar et al. 2023, GPTQ).

    Parameters
    ----------
    table : array
        Weights, (inputs, outputs).
    gram : array
        Sum of ``x.T @ x`` over inputs ``x`` that were seen, (inputs, inputs).
    """
    size = len(table)
    gram = gram.astype(np.float64)
    damping = _DAMPING * np.trace(gram) / size or 1.0
    # The upper triangle whose R.T @ R is the inverse, without inverting the whole matrix.
    backwards = np.linalg.cholesky((gram + damping * np.eye(size))[::-1, ::-1])
    passes = solve_triangular(backwards[::-1, ::-1], np.eye(size)).astype(np.float32)
    peaks = np.abs(table).max(axis=0)
    scales = (np.maximum(peaks, np.finfo(np.float16).tiny) / _STEPS).astype(np.float32)
    left = table.astype(np.float32)
    steps = np.empty(table.shape, dtype=np.int8)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        lost = np.empty((stop - start, table.shape[1]), dtype=np.float32)
        for row in range(start, stop):
            whole = np.clip(np.rint(left[row] / scales), -_STEPS, _STEPS)
            steps[row] = whole
            lost[row - start] = (left[row] - whole * scales) / passes[row, row]
            left[row:stop] -= np.outer(passes[row, row:stop], lost[row - start])
        left[stop:] -= passes[start:stop, stop:].T @ lost
    return steps, scales[None]
