"""Quantization of weight tables to int8 with one scale per row or column."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

_MAX = 127  # largest int8 value
_DAMPING = 0.01  # share of a Gram matrix's mean diagonal that is added to make it invertible
_BLOCK = 64  # rows whose errors are propagated to the rows below in one product


def quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 values of the table's shape (rows, width) and float16 scales (rows, 1).

    The largest absolute entry of a row maps to 127. Products of int8 values and float16 scales are
    exact in float32, so that quantizing the result of `dequantize_rows` changes nothing.
    """
    peaks = np.abs(table).max(axis=1, keepdims=True, initial=0.0)
    scales = np.maximum(peaks / _MAX, np.finfo(np.float16).tiny).astype(np.float16)
    values = np.rint(table / scales.astype(np.float32))
    return np.clip(values, -_MAX, _MAX).astype(np.int8), scales


def dequantize_rows(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the table of quantized values and scales, (rows, width) float32."""
    return values.astype(np.float32) * scales.astype(np.float32)


def quantize_columns(table: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 values (inputs, outputs) and float32 scales (1, outputs) of a product's weights.

    Rows are quantized in sequence, and the error of each is propagated to the remaining rows: on
    inputs like the sample, the product changes less than with rounding to nearest (Frantar et al.
    2023, GPTQ).

    Parameters
    ----------
    table : array
        Weights, (inputs, outputs).
    gram : array
        Sum of ``x.T @ x`` over a sample of inputs ``x``, (inputs, inputs).
    """
    size = len(table)
    gram = gram.astype(np.float64)
    damping = _DAMPING * np.trace(gram) / size or 1.0
    # The upper triangular R with R.T @ R = inv(gram), without inverting the whole matrix.
    reversed_factor = np.linalg.cholesky((gram + damping * np.eye(size))[::-1, ::-1])
    factor = solve_triangular(reversed_factor[::-1, ::-1], np.eye(size)).astype(np.float32)
    peaks = np.abs(table).max(axis=0)
    scales = (np.maximum(peaks, np.finfo(np.float16).tiny) / _MAX).astype(np.float32)
    remaining = table.astype(np.float32)
    values = np.empty(table.shape, dtype=np.int8)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.empty((stop - start, table.shape[1]), dtype=np.float32)
        for row in range(start, stop):
            rounded = np.clip(np.rint(remaining[row] / scales), -_MAX, _MAX)
            values[row] = rounded
            errors[row - start] = (remaining[row] - rounded * scales) / factor[row, row]
            remaining[row:stop] -= np.outer(factor[row, row:stop], errors[row - start])
        remaining[stop:] -= factor[start:stop, stop:].T @ errors
    return values, scales[None]
