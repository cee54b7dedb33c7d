from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from nivesh_lib.models.text.linear import linear_weights, softmax

X = np.random.default_rng(0).normal(size=(60, 4))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_weights_answer_as_scikit_learn_does_and_lie_in_c_order(classes, order):
    linear = LogisticRegression().fit(X, np.arange(60) % classes)
    expected = linear.predict_proba(X)
    linear.coef_ = np.asarray(linear.coef_, order=order)
    coef, intercept = linear_weights(linear)
    assert coef.shape == (classes, 4) and coef.flags.c_contiguous
    np.testing.assert_allclose(softmax(X @ coef.T + intercept), expected, rtol=1e-4)


def test_large_scores_do_not_overflow():
    np.testing.assert_array_equal(softmax(np.array([[1e4, 0.0]], np.float32)), [[1.0, 0.0]])
