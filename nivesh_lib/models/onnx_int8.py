"""An ONNX graph of an encoder in eight bits, each token with a scale of its own.

ONNX Runtime's own dynamic quantisation takes one scale for a whole input. In an encoder a few
tokens, the first and the last, are many times as large as the others, which then keep few of their
steps; and in a batch a text's answer would depend on its neighbours. With a scale for each token
(Yao et al. 2022, ZeroQuant) both are gone, for a few more small operations. A few channels are as
much too large for the others of a token; a sample of texts tells which, and part of their size is
moved into the weights (Xiao et al. 2023, SmoothQuant), which are then rounded for inputs like
those of the sample (`rounding.rounded_columns`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from nivesh_lib.models.onnx_graph import set_nodes
from nivesh_lib.models.onnx_inputs import Inputs, seen_inputs
from nivesh_lib.models.rounding import rounded_columns, rounded_rows

_STEPS = 127.0  # on either side of 0
_ALL_STEPS = 255.0  # from 0 upwards
_ZERO = 128  # of unsigned eight bits: processors multiply these with signed ones
_CONTRIB = "com.microsoft"  # operations of ONNX Runtime beside the standard's
_SMALLEST = 1e-9  # largest entry of a token that is all zeros
_LOWEST = 0.17  # GELU is nowhere below -0.17, so that nearly all of its steps can lie above 0
_MOVED = 0.8  # share of a channel's size, as a power, that is moved into the weights


def int8_graph(model: Any, ids: Sequence[np.ndarray]) -> Any:
    """Turn the graph of `onnx_graph.float_graph` into a smaller and faster one.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph, which is changed.
    ids : sequence of int arrays
        Word pieces of texts like those to come; they set how the weights are rounded, no more.

    Notes
    -----
    Products with weights are done in int8: the weights have one scale for each column, what they
    are multiplied with one for each token, found while the graph runs. The table of word pieces is
    int8 with a scale for each piece. The head's few weights are int8 in the file only.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if _is_product(node, weights)]
    graph = _Graph(model, seen_inputs(model, [node.input[0] for node in products], ids))
    for node in list(model.graph.node):
        if list(node.input[1:]) == ["ids"]:
            graph.look_up(node)
        elif node.op_type == "Attention":
            graph.attention(node)
        elif _is_product(node, weights):
            graph.product(node.input[0], node.input[1], node.output[0])
        elif node.op_type == "Gemm":
            graph.head(node)
        else:
            graph.nodes.append(node)
    set_nodes(model, graph.nodes)
    return model


def _is_product(node: Any, weights: set[str]) -> bool:
    return node.op_type in ("Attention", "MatMul") and node.input[1] in weights


class _Graph:
    """The nodes of the new graph, as far as they are written."""

    def __init__(self, model: Any, seen: dict[str, Inputs]) -> None:
        self._seen = seen
        self._made_by = {node.output[0]: node.op_type for node in model.graph.node}
        self.nodes: list[Any] = []
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._initializer = model.graph.initializer
        self._steps = self._constant("steps", np.float32(_STEPS))
        self._all_steps = self._constant("all_steps", np.float32(_ALL_STEPS))
        self._lowest = self._constant("lowest", np.float32(_LOWEST))
        self._shift = self._constant("shift", np.float32(_ZERO))
        self._least = self._constant("least", np.float32(_SMALLEST))
        self._zero = self._constant("zero", np.uint8(_ZERO))
        self._one = self._constant("one", np.float32(1))

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self._initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _take(self, name: str) -> np.ndarray:
        """Remove a weight from the graph and return it."""
        from onnx import numpy_helper

        tensor = self.weights.pop(name)
        self._initializer.remove(tensor)
        return np.asarray(numpy_helper.to_array(tensor))

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def product(self, source: str, weight: str, output: str) -> None:
        """Write a product with a weight of one column for each output."""
        table = self._take(weight)
        above = "Gelu" in self._made_by[source]
        if above:
            columns, scales = rounded_columns(table, self._seen[source].gram)
            integers, largest = self._integers_above(source)
        else:
            factors = self._factors(source, table)
            gram = self._seen[source].gram * factors * factors[:, None]
            columns, scales = rounded_columns(table / factors[:, None], gram)
            integers, largest = self._integers(source, factors)
        steps = _ALL_STEPS if above else _STEPS
        held = self._constant(f"{weight}_int8", columns)
        units = self._constant(f"{weight}_scales", (scales[0] / steps).astype(np.float32))
        # One kernel multiplies, turns to floating point and scales the columns.
        put = [integers, held, self._one, units, "" if above else self._zero]
        found = self._node("MatMulIntegerToFloat", put, f"{output}_found", domain=_CONTRIB)
        if above:
            found = self._node("Mul", [found, largest], f"{output}_raised")
            lift = _LOWEST * scales * columns.sum(axis=0, dtype=np.int64)
            lifted = self._constant(f"{weight}_lift", lift.astype(np.float32))
            self._node("Sub", [found, lifted], output)
        else:
            self._node("Mul", [found, largest], output)

    def _factors(self, source: str, table: np.ndarray) -> np.ndarray:
        """Return what each channel is multiplied with before it is rounded, (width,)."""
        into = np.maximum(self._seen[source].peaks, _SMALLEST)
        out_of = np.maximum(np.abs(table).max(axis=1), _SMALLEST)
        factors = out_of ** (1 - _MOVED) / into**_MOVED
        return np.asarray(factors / np.exp(np.log(factors).mean()))

    def _integers(self, source: str, factors: np.ndarray) -> tuple[str, str]:
        """Write the integers of an input whose channels are scaled, and the peak of each token."""
        name = f"{source}_rounded"
        held = self._constant(f"{name}_channels", factors.astype(np.float32))
        even = self._node("Mul", [source, held], f"{name}_even")
        sizes = self._node("Abs", [even], f"{name}_sizes")
        units, peaks = self._units(sizes, self._steps, name)
        scaled = self._node("Mul", [even, units], f"{name}_scaled")
        shifted = self._node("Add", [scaled, self._shift], f"{name}_shifted")
        return self._whole(shifted, name), peaks

    def _integers_above(self, source: str) -> tuple[str, str]:
        """Write the integers of what GELU gives, raised above 0, and the peak of each token."""
        name = f"{source}_rounded"
        raised = self._node("Add", [source, self._lowest], f"{name}_raised")
        units, peaks = self._units(raised, self._all_steps, name)
        scaled = self._node("Mul", [raised, units], f"{name}_scaled")
        return self._whole(scaled, name), peaks

    def _units(self, sizes: str, steps: str, name: str) -> tuple[str, str]:
        peaks = self._node("ReduceMax", [sizes], f"{name}_largest", axes=[-1], keepdims=1)
        peaks = self._node("Max", [peaks, self._least], f"{name}_peaks")
        return self._node("Div", [steps, peaks], f"{name}_units"), peaks

    def _whole(self, scaled: str, name: str) -> str:
        from onnx import TensorProto

        whole = self._node("Round", [scaled], f"{name}_whole")
        return self._node("Cast", [whole], name, to=TensorProto.UINT8)

    def attention(self, node: Any) -> None:
        """Write queries, keys and values as one product, and attention in floating point."""
        from onnx import helper

        output = node.output[0]
        self.product(node.input[0], node.input[1], f"{output}_all")
        parts = [f"{output}_{part}" for part in ("queries", "keys", "values")]
        self.nodes.append(helper.make_node("Split", [f"{output}_all"], parts, axis=-1))
        (heads,) = [item.i for item in node.attribute if item.name == "num_heads"]
        biased = [*parts, *node.input[2:4]]
        self._node("MultiHeadAttention", biased, output, num_heads=heads, domain=_CONTRIB)

    def look_up(self, node: Any) -> None:
        """Write the look-up of word pieces as one of int8 rows and one of their scales."""
        from onnx import TensorProto

        rows, scales = rounded_rows(self._take(node.input[0]))
        held = self._constant("rows", rows), self._constant("scales", scales.astype(np.float32))
        found = self._node("Gather", [held[0], "ids"], "rows_of_ids")
        numbers = self._node("Cast", [found], "numbers_of_ids", to=TensorProto.FLOAT)
        factors = self._node("Gather", [held[1], "ids"], "scales_of_ids")
        self._node("Mul", [numbers, factors], node.output[0])

    def head(self, node: Any) -> None:
        """Write a layer of the head, its weights in eight bits in the file only.

        A layer that passes its input through (`TransformerClassifier`'s ``direct``) has ones on the
        diagonal, beside which eight bits have no step for the rest: the diagonal goes apart.
        """
        from onnx import TensorProto

        name, output = node.input[1], node.output[0]
        table = self._take(name).copy()
        passed = np.diag(table).copy() if table.shape[0] == table.shape[1] else None
        if passed is not None:
            np.fill_diagonal(table, 0.0)
        rows, scales = rounded_rows(table)
        held = self._constant(f"{name}_int8", rows)
        units = self._constant(f"{name}_scales", scales.astype(np.float32))
        found = self._node("Cast", [held], f"{name}_numbers", to=TensorProto.FLOAT)
        same = copy.deepcopy(node)
        same.input[1] = self._node("Mul", [found, units], f"{name}_found")
        self.nodes.append(same)
        if passed is not None:
            same.output[0] = f"{output}_rest"
            diagonal = self._constant(f"{name}_diagonal", passed)
            through = self._node("Mul", [node.input[0], diagonal], f"{output}_through")
            self._node("Add", [f"{output}_rest", through], output)
