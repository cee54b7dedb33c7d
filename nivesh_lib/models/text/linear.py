"""Softmax, and the weights of a fitted logistic regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a saved model needs its weights only
    from sklearn.linear_model import LogisticRegression


def linear_weights(linear: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (classes, features) and intercepts (classes,), float32, C order.

    scikit-learn keeps one row for two classes, that of the second class; the first gets zeros.
    """
    coef, intercept = linear.coef_, linear.intercept_
    if len(coef) == 1:
        coef, intercept = np.vstack([0 * coef, coef]), np.array([0.0, intercept[0]])
    # safetensors writes the memory as it lies, so the order must be C.
    return np.ascontiguousarray(coef, np.float32), np.ascontiguousarray(intercept, np.float32)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return probabilities along the last axis, float64."""
    scores = np.asarray(scores, dtype=np.float64)
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
