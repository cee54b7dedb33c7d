from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.compact.quantize import dequantize_rows, quantize_columns, quantize_rows


@pytest.fixture(params=[1e-9, 1e-3, 1.0, 1e4])
def table(request):
    return np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32) * request.param


def test_an_entry_is_off_by_half_a_step_of_its_row_at_most(table):
    steps, scales = quantize_rows(table)
    assert steps.dtype == np.int8 and scales.dtype == np.float16
    wrong = np.abs(dequantize_rows(steps, scales) - table)
    assert (wrong <= 0.5001 * scales.astype(np.float32) + 0.001 * np.abs(table)).all()


def test_rounding_again_changes_nothing(table):
    once = quantize_rows(table)
    twice = quantize_rows(dequantize_rows(*once))
    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_array_equal(once[1], twice[1])


def test_a_row_of_zeros_stays_one():
    assert not dequantize_rows(*quantize_rows(np.zeros((2, 3), np.float32))).any()


def _inputs():
    """ChannelStatistics of which a few directions hold nearly all, as those of an encoder do."""
    rng = np.random.default_rng(1)
    return (rng.normal(size=(500, 8)) @ rng.normal(size=(8, 150))).astype(np.float32)


def test_columns_are_rounded_for_the_inputs_that_were_seen():
    inputs = _inputs()
    weights = np.random.default_rng(2).normal(size=(150, 20)).astype(np.float32)
    steps, scales = quantize_columns(weights, inputs.T @ inputs)
    nearest = np.rint(weights / scales) * scales

    def wrong(rounded):
        return np.sqrt(np.mean((inputs @ rounded - inputs @ weights) ** 2))

    assert steps.dtype == np.int8 and scales.shape == (1, 20)
    assert wrong(steps * scales) < wrong(nearest) / 3


def test_columns_on_inputs_without_any_likeness_are_rounded_to_the_nearest():
    weights = np.random.default_rng(2).normal(size=(100, 20)).astype(np.float32)
    steps, scales = quantize_columns(weights, np.eye(100, dtype=np.float32))
    np.testing.assert_array_equal(steps, np.rint(weights / scales))


def test_columns_of_zeros_and_inputs_never_seen_are_no_trouble():
    weights = np.zeros((4, 3), np.float32)
    weights[:, 0] = [1, 2, 3, 4]
    steps, scales = quantize_columns(weights, np.zeros((4, 4), np.float32))
    np.testing.assert_allclose(steps * scales, weights, atol=0.02)
