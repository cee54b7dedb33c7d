"""An ONNX graph of an encoder in eight bits, each token with a scale of its own.

ONNX Runtime's own dynamic quantisation takes one scale for a whole input. In an encoder a few
tokens, the first and the last, are many times as large as the others, which then keep few of their
steps; and in a batch a text's answer would depend on its neighbours. With a scale for each token
(Yao et al. 2022, ZeroQuant) both are gone, for a few more small operations.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from nivesh_lib.models.onnx_graph import set_nodes
from nivesh_lib.models.rounding import rounded_rows

_STEPS = 127.0
_ZERO = 128  # of unsigned eight bits: processors multiply these with signed ones
_SMALLEST = 1e-9  # largest entry of a token that is all zeros


def int8_graph(model: Any) -> Any:
    """Turn the graph of `onnx_graph.float_graph` into a smaller and faster one.

    Products with weights are done in int8: the weights have one scale for each column, what they
    are multiplied with one for each token, found while the graph runs. The table of word pieces is
    int8 with a scale for each piece. The head's few weights are int8 in the file only.
    """
    graph = _Graph(model)
    for node in list(model.graph.node):
        if list(node.input[1:]) == ["ids"]:
            graph.look_up(node)
        elif node.op_type == "MatMul" and node.input[1] in graph.weights:
            graph.product(node.input[0], node.input[1], node.output[0])
        elif node.op_type == "Attention":
            graph.attention(node)
        elif node.op_type == "Gemm":
            graph.head(node)
        else:
            graph.nodes.append(node)
    set_nodes(model, graph.nodes)
    return model


class _Graph:
    """The nodes of the new graph, as far as they are written."""

    def __init__(self, model: Any) -> None:
        self.nodes: list[Any] = []
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._initializer = model.graph.initializer
        self._rounded: dict[str, tuple[str, str]] = {}  # input -> its integers, its peaks
        self._steps = self._constant("steps", np.float32(_STEPS))
        self._shift = self._constant("shift", np.float32(_ZERO))
        self._least = self._constant("least", np.float32(_SMALLEST))
        self._zero = self._constant("zero", np.uint8(_ZERO))

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

    def _integers(self, source: str) -> tuple[str, str]:
        """Write an input's integers and the peak of each token; the same for all who read it."""
        from onnx import TensorProto

        if source not in self._rounded:
            name = f"rounded_{len(self._rounded)}"
            sizes = self._node("Abs", [source], f"{name}_sizes")
            peaks = self._node("ReduceMax", [sizes], f"{name}_largest", axes=[-1], keepdims=1)
            peaks = self._node("Max", [peaks, self._least], f"{name}_peaks")
            factors = self._node("Div", [self._steps, peaks], f"{name}_factors")
            scaled = self._node("Mul", [source, factors], f"{name}_scaled")
            shifted = self._node("Add", [scaled, self._shift], f"{name}_shifted")
            whole = self._node("Round", [shifted], f"{name}_whole")
            integers = self._node("Cast", [whole], name, to=TensorProto.UINT8)
            self._rounded[source] = integers, peaks
        return self._rounded[source]

    def product(self, source: str, weight: str, output: str) -> None:
        """Write a product with a weight of one column for each output."""
        from onnx import TensorProto

        table = self._take(weight)
        peaks = np.maximum(np.abs(table).max(axis=0, keepdims=True), _SMALLEST)
        columns = np.rint(table * (_STEPS / peaks)).astype(np.int8)
        held = self._constant(f"{weight}_int8", columns)
        scales = self._constant(f"{weight}_scales", (peaks / _STEPS**2).astype(np.float32))
        integers, largest = self._integers(source)
        sums = self._node("MatMulInteger", [integers, held, self._zero], f"{output}_sums")
        found = self._node("Cast", [sums], f"{output}_found", to=TensorProto.FLOAT)
        found = self._node("Mul", [found, largest], f"{output}_tokens")
        self._node("Mul", [found, scales], output)

    def attention(self, node: Any) -> None:
        """Write queries, keys and values as one product, and attention in floating point."""
        from onnx import helper

        output = node.output[0]
        self.product(node.input[0], node.input[1], f"{output}_all")
        parts = [f"{output}_{part}" for part in ("queries", "keys", "values")]
        self.nodes.append(helper.make_node("Split", [f"{output}_all"], parts, axis=-1))
        (heads,) = [item.i for item in node.attribute if item.name == "num_heads"]
        biased = [*parts, *node.input[2:4]]
        domain = "com.microsoft"
        self._node("MultiHeadAttention", biased, output, num_heads=heads, domain=domain)

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
