from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models import onnx_inputs
from nivesh_lib.models.onnx_inputs import Inputs, seen_inputs

IDS = [np.array(row, dtype=np.int32) for row in ([0, 2], [1, 1, 3], [2], [3, 0, 1])]
TABLE = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


@pytest.fixture
def graph():
    """Ids are looked up in a table and multiplied with a weight; the mask is not needed."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["found"]),
        helper.make_node("MatMul", ["found", "weight"], ["logits"]),
    ]
    weight = numpy_helper.from_array(np.ones((5, 2), np.float32), "weight")
    puts = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["rows", "length"])
        for name in ("ids", "mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    table = numpy_helper.from_array(TABLE, "table")
    told = helper.make_graph(nodes, "small", puts, outputs, [table, weight])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(told, opset_imports=[opset], ir_version=8)


@pytest.mark.parametrize("texts", [1, 3, 100])
def test_all_tokens_of_all_texts_are_seen(graph, monkeypatch, texts):
    monkeypatch.setattr(onnx_inputs, "_TEXTS", texts)
    tokens = TABLE[np.concatenate(IDS)]
    seen = seen_inputs(graph, ["found", "found"], IDS)
    assert list(seen) == ["found"]
    found = seen["found"]
    assert found.n == len(tokens) == 9
    np.testing.assert_array_equal(
        [found.lows, found.highs], [tokens.min(axis=0), tokens.max(axis=0)]
    )
    np.testing.assert_allclose(found.mean, tokens.mean(axis=0), rtol=1e-4, atol=1e-5)
    apart = tokens - tokens.mean(axis=0)
    np.testing.assert_allclose(found.scatter, apart.T @ apart, rtol=1e-4, atol=1e-5)


def test_tokens_are_centred_and_scaled_after_they_were_added_up():
    centre, factor = np.arange(5.0), np.array([1.0, 0.5, 2.0, 0.0, 3.0])
    moved = (TABLE - centre) * factor
    found = Inputs.of(TABLE).moved(centre, factor)
    np.testing.assert_allclose(found, moved.T @ moved, rtol=1e-4, atol=1e-4)


def test_what_varies_little_around_a_large_value_is_not_lost():
    tokens = (1000 + 0.01 * TABLE).astype(np.float32)
    found = Inputs.of(tokens[:2]) + Inputs.of(tokens[2:])
    exact = np.float64(tokens) - np.float64(tokens).mean(axis=0)
    moved = found.moved(np.full(5, 1000, np.float32), np.full(5, 100, np.float32))
    centred = (np.float64(tokens) - 1000) * 100
    np.testing.assert_allclose(found.scatter, exact.T @ exact, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(moved, centred.T @ centred, rtol=0.05, atol=0.02)


def test_the_graph_stays_as_it_is(graph):
    before = graph.SerializeToString()
    seen_inputs(graph, ["found"], IDS)
    assert graph.SerializeToString() == before
