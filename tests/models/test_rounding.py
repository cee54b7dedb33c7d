from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.rounding import from_rounded, rounded_rows


@pytest.fixture(params=[1e-9, 1e-3, 1.0, 1e4])
def table(request):
    return np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32) * request.param


def test_an_entry_is_off_by_half_a_step_of_its_row_at_most(table):
    steps, scales = rounded_rows(table)
    assert steps.dtype == np.int8 and scales.dtype == np.float16
    wrong = np.abs(from_rounded(steps, scales) - table)
    assert (wrong <= 0.5001 * scales.astype(np.float32) + 0.001 * np.abs(table)).all()


def test_rounding_again_changes_nothing(table):
    once = rounded_rows(table)
    twice = rounded_rows(from_rounded(*once))
    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_array_equal(once[1], twice[1])


def test_a_row_of_zeros_stays_one():
    assert not from_rounded(*rounded_rows(np.zeros((2, 3), np.float32))).any()
