from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models.compact import onnx_int8
from nivesh_lib.models.compact.onnx_classifier import OnnxClassifier
from nivesh_lib.models.compact.onnx_int8 import ChannelStatistics, _Quantizer, activation_statistics
from tests.models.conftest import LABELS, QUERIES, TEXTS, logit_gap, small_model

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(400, 32)).astype(np.float32)
TABLE = RNG.normal(size=(32, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return small_model("transformer").fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def outlier(fitted):
    """A model with a neuron in each layer that is hundreds of times as large as the others."""
    strange = copy.deepcopy(fitted)
    for layer in strange._network.model.base_model.encoder.layer:
        layer.intermediate.dense.weight.data[3] *= 1000
        layer.output.dense.weight.data[:, 3] /= 5
    return strange


def quantizer_of(tokens, *, folded=True):
    return _Quantizer.of(ChannelStatistics.of(tokens), TABLE, folded=folded)


def quantized(quantizer, tokens):
    return np.clip(
        np.rint((tokens - quantizer.centre) * quantizer.factor) + quantizer.zero_point, 0, 255
    )


def test_what_was_seen_has_steps_and_some_room_around_it():
    found = quantized(quantizer_of(TOKENS), TOKENS)
    assert 0 < found.min() < 20
    assert 235 < found.max() < 255


@pytest.mark.parametrize("folded", [True, False])
def test_the_fewer_tokens_were_seen_the_more_room_is_left(folded):
    few, many = quantizer_of(TOKENS[:20], folded=folded), quantizer_of(TOKENS, folded=folded)
    assert quantized(few, TOKENS[:20]).max() < 170
    assert quantized(many, TOKENS).max() > 235


def test_a_channel_far_from_0_is_centred_where_that_costs_nothing():
    shifted = TOKENS + 50 * (np.arange(32) == 5)
    centred = quantizer_of(shifted)
    assert centred.centre[5] == pytest.approx(50, abs=1)
    assert len(np.unique(quantized(centred, shifted)[:, 5])) > 100


def test_channels_that_would_leave_the_others_no_steps_go_apart():
    large = np.maximum(TOKENS, 0)
    large[:, 7] *= 1000
    quantizer = quantizer_of(large, folded=False)
    assert quantizer.outliers.tolist() == [7]
    assert quantizer.factor[7] == 0
    assert not quantizer.rescaled(TABLE)[7].any()
    assert np.delete(quantized(quantizer, large), 7, axis=1).max() > 200
    assert not len(quantizer_of(np.maximum(TOKENS, 0), folded=False).outliers)


def test_channels_that_never_change_are_no_trouble():
    still = TOKENS.copy()
    still[:, 2] = 3.0
    quantizer = quantizer_of(still)
    np.testing.assert_allclose(quantized(quantizer, still)[:, 2], quantizer.zero_point)
    assert quantizer.factor[2] < 1000 * np.delete(quantizer.factor, 2).max()


def test_a_sample_without_any_variety_is_no_trouble(fitted):
    for texts in (["?"], ["tax"], ["tax"] * 30):
        assert logit_gap(fitted, OnnxClassifier.of(fitted, texts=texts), texts) < 0.1


def test_texts_that_are_all_empty_are_refused(fitted):
    with pytest.raises(ValueError, match="texts that are not empty"):
        OnnxClassifier.of(fitted, texts=["", " "])


def test_neurons_that_dwarf_the_others_are_multiplied_in_floating_point(outlier):
    small = OnnxClassifier.of(outlier, texts=TEXTS)
    names = {node.output[0] for node in onnx.load_from_string(small._session.content).graph.node}
    assert sum(name.endswith("_apart") for name in names) == 2
    assert logit_gap(outlier, small, QUERIES) < 0.1


def test_nothing_is_measured_while_the_graph_answers(fitted):
    small = OnnxClassifier.of(fitted, texts=TEXTS)
    kinds = {node.op_type for node in onnx.load_from_string(small._session.content).graph.node}
    assert "MatMulIntegerToFloat" in kinds
    assert not kinds & {"DynamicQuantizeLinear", "ReduceMax", "Attention", "SkipLayerNormalization"}


def test_the_last_layer_computes_the_first_token_s_query_only(fitted):
    small = OnnxClassifier.of(fitted, texts=TEXTS)
    nodes = onnx.load_from_string(small._session.content).graph.node
    splits = [len(node.output) for node in nodes if node.op_type == "Split"]
    layers = len(fitted._network.model.base_model.encoder.layer)
    assert splits == [3] * (layers - 1) + [2]  # queries, keys and values; then not the queries


def test_a_text_with_what_no_sample_had_is_still_answered_much_the_same(fitted):
    strange = ["", "[MASK] [MASK]", "loan " * 200, "₹₹₹ ??? !!!", "ek do teen char"]
    small = OnnxClassifier.of(fitted, texts=TEXTS)
    assert logit_gap(fitted, small, strange) < 0.3


def test_layers_with_the_same_weights_may_share_them(fitted):
    same = copy.deepcopy(fitted)
    for layer in same._network.model.base_model.encoder.layer:
        layer.output.dense.weight.data.zero_()
    assert logit_gap(same, OnnxClassifier.of(same, texts=TEXTS), QUERIES) < 0.1


def test_weights_that_give_no_numbers_are_refused(fitted):
    broken = copy.deepcopy(fitted)
    broken._network.model.base_model.encoder.layer[0].output.dense.weight.data[0, 0] = np.nan
    with pytest.raises(ModelError, match="Fit the model again"):
        OnnxClassifier.of(broken, texts=TEXTS)


IDS = [np.array(row, dtype=np.int32) for row in ([0, 2], [1, 1, 3], [2], [3, 0, 1])]
SMALL_TABLE = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


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
    table = numpy_helper.from_array(SMALL_TABLE, "table")
    graph = helper.make_graph(nodes, "small", puts, outputs, [table, weight])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


@pytest.mark.parametrize("texts", [1, 3, 100])
def test_all_tokens_of_all_texts_are_seen(graph, monkeypatch, texts):
    monkeypatch.setattr(onnx_int8, "_CALIBRATION_BATCH", texts)
    tokens = SMALL_TABLE[np.concatenate(IDS)]
    seen = activation_statistics(graph, ["found", "found"], IDS)
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
    moved = (SMALL_TABLE - centre) * factor
    found = ChannelStatistics.of(SMALL_TABLE).gram(centre, factor)
    np.testing.assert_allclose(found, moved.T @ moved, rtol=1e-4, atol=1e-4)


def test_what_varies_little_around_a_large_value_is_not_lost():
    tokens = (1000 + 0.01 * SMALL_TABLE).astype(np.float32)
    found = ChannelStatistics.of(tokens[:2]) + ChannelStatistics.of(tokens[2:])
    exact = np.float64(tokens) - np.float64(tokens).mean(axis=0)
    moved = found.gram(np.full(5, 1000, np.float32), np.full(5, 100, np.float32))
    centred = (np.float64(tokens) - 1000) * 100
    np.testing.assert_allclose(found.scatter, exact.T @ exact, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(moved, centred.T @ centred, rtol=0.05, atol=0.02)


def test_the_graph_stays_as_it_is(graph):
    before = graph.SerializeToString()
    activation_statistics(graph, ["found"], IDS)
    assert graph.SerializeToString() == before
