"""An ONNX graph of an encoder in eight bits, every step of it fixed when it is made.

What comes to a product is rounded to steps that a sample of texts has set, so that nothing is
measured while the graph answers and no answer depends on a text's neighbours. A few channels are
many times as large as the others, and would leave these few of the steps. Part of their size is
moved into the weights (Xiao et al. 2023, SmoothQuant), for which the layer norms and the attention
before them are changed, at no cost. What a feed-forward layer holds in the few channels that are
larger still is multiplied apart, in floating point (Dettmers et al. 2022, LLM.int8). Weights are
rounded for inputs like those of the sample (`rounding.rounded_columns`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nivesh_lib.errors import ModelError
from nivesh_lib.models.compact.onnx_export import set_nodes
from nivesh_lib.models.compact.onnx_session import Graph
from nivesh_lib.models.compact.quantize import rounded_columns, rounded_rows

_STEPS = 255.0  # of unsigned eight bits: processors multiply these with signed ones
_CONTRIB = "com.microsoft"  # operations of ONNX Runtime beside the standard's
_SMALLEST = 1e-9  # range or weight of a channel that is always 0
_STILL = 1e-3  # of the largest range: a channel that hardly moved in the sample may in other texts
_MOVED = 0.8  # share of a channel's size, as a power, that is moved into the weights
_APART = 25.0  # times the median of the channels' sizes: those above are multiplied apart
_ROOM = 50.0  # over the number of tokens seen: by how much wider than seen a channel may become
_NORMS = ("LayerNormalization", "SkipLayerNormalization")


def int8_graph(model: Any, ids: Sequence[np.ndarray]) -> Any:
    """Turn the graph of `onnx_graph.float_graph` into a smaller and faster one.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph, which is changed.
    ids : sequence of int arrays
        Word pieces of texts like those to come; they set the steps of what is multiplied and how
        the weights are rounded.

    Notes
    -----
    Products with weights are done in int8: the weights have one scale for each column, what they
    are multiplied with one for each channel; entries beyond those of the sample become the nearest
    that has a step. The table of word pieces is int8 with a scale for each piece. The head's few
    weights are int8 in the file only.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if _is_product(node, weights)]
    graph = _Graph(model, products, seen_inputs(model, [node.input[0] for node in products], ids))
    for node in list(model.graph.node):
        if list(node.input[1:]) == ["ids"]:
            graph.look_up(node)
        elif node.op_type == "Attention":
            graph.attention(node)
        elif _is_product(node, weights):
            graph.product(node)
        elif node.op_type in _NORMS:
            graph.norm(node)
        elif node.op_type == "Gemm":
            graph.head(node)
        else:
            graph.nodes.append(node)
    set_nodes(model, graph.nodes)
    _drop_unused(model.graph)
    return model


def _drop_unused(graph: Any) -> None:
    """Leave out the weights that no node reads any more."""
    read = {name for node in graph.node for name in node.input}
    kept = [copy.deepcopy(tensor) for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _is_product(node: Any, weights: set[str]) -> bool:
    return node.op_type in ("Attention", "MatMul") and node.input[1] in weights


@dataclass(frozen=True)
class _Steps:
    """How a value becomes whole numbers: ``(x - centre) * factor + zero``, rounded.

    ``centre`` and ``factor`` are (width,); a channel that is multiplied ``apart`` has factor 0.
    """

    centre: np.ndarray
    factor: np.ndarray
    zero: int
    apart: np.ndarray

    @classmethod
    def of(cls, seen: Inputs, table: np.ndarray, *, folded: bool) -> _Steps:
        """Choose the steps of an input of a product with a table of weights.

        Parameters
        ----------
        seen : Inputs
            What came to the product.
        table : array
            The weights, (width, outputs).
        folded : bool
            Whether what writes the input can write it centred as well. Then no channel has to go
            apart: an outlier has mostly a large centre.
        """
        lows, highs = seen.lows, seen.highs
        out_of = np.maximum(np.abs(table).max(axis=1), _SMALLEST)
        apart = np.empty(0, dtype=np.int64)
        centre = (lows + highs) / 2 if folded else np.zeros_like(lows)
        if not folded:
            sizes = (highs - lows) * out_of
            apart = np.flatnonzero(sizes > _APART * np.median(sizes))
        room = 1 + _ROOM / seen.n
        lows, highs = room * (lows - centre), room * (highs - centre)
        peaks = np.maximum(highs, -lows)
        peaks = np.maximum(peaks, max(_STILL * peaks.max(), _SMALLEST))
        factor = out_of ** (1 - _MOVED) / peaks**_MOVED
        factor[apart] = 0
        lowest, highest = min((factor * lows).min(), 0.0), (factor * highs).max()
        factor *= _STEPS / max(highest - lowest, _SMALLEST)
        zero = round(_STEPS * -lowest / max(highest - lowest, _SMALLEST))
        return cls(centre.astype(np.float32), factor.astype(np.float32), zero, apart)

    def undone(self, table: np.ndarray) -> np.ndarray:
        """Return weights for the steps in place of the value, rows of channels apart all zero."""
        factor = self.factor[:, None]
        return np.divide(table, factor, out=np.zeros_like(table), where=factor > 0)


class _Graph:
    """The nodes of the new graph, as far as they are written."""

    def __init__(self, model: Any, products: Sequence[Any], seen: dict[str, Inputs]) -> None:
        self.nodes: list[Any] = []
        self._initializer = model.graph.initializer
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made_by = {node.output[0]: node for node in model.graph.node}
        self._used_by: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._used_by.setdefault(name, []).append(node)
        self._seen = {self._whole(name): found for name, found in seen.items()}
        self._steps = {}
        for node in products:
            name = self._whole(node.input[0])
            self._steps[name] = _Steps.of(
                self._seen[name], self._read(node.input[1]), folded=self._folds(name)
            )
        self._one = self._constant("one", np.float32(1))
        self._zeros: dict[int, str] = {}

    def _whole(self, name: str) -> str:
        """Return the value that a name stands for a part of: the first token has all its steps."""
        node = self._made_by[name]
        return str(node.input[0]) if node.op_type == "Gather" else name

    def _folds(self, name: str) -> bool:
        return self._made_by[name].op_type in (*_NORMS, "Attention")

    # --- weights and nodes -------------------------------------------------------------------

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self._initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _numbers(self, name: str, values: np.ndarray) -> str:
        return self._constant(name, values.astype(np.float32))

    def _read(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._weights[name]))

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    # --- products ----------------------------------------------------------------------------

    def product(self, node: Any) -> None:
        """Write a product with a weight of one column for each output.

        What a layer norm would add to it, its bias and the centre of what skips the layer, is
        added with it.
        """
        (source, weight), output = node.input, node.output[0]
        table = self._read(weight)
        steps = self._steps[self._whole(source)]
        bias = steps.centre @ table
        for user in self._used_by[output]:
            if user.op_type == "SkipLayerNormalization":
                bias = bias + self._read(user.input[4]) + self._skipped(user).centre
        most = f"{output}_most" if len(steps.apart) else output
        self._multiplied(self._integers(source), source, table, bias, most)
        if len(steps.apart):
            channels = self._constant(f"{output}_channels", steps.apart)
            few = self._node("Gather", [source, channels], f"{output}_few", axis=-1)
            held = self._numbers(f"{output}_few_weights", table[steps.apart])
            few = self._node("MatMul", [few, held], f"{output}_apart")
            self._node("Add", [most, few], output)

    def _skipped(self, norm: Any) -> _Steps:
        found, skipped = norm.input[:2]
        if self._made_by[found].op_type != "MatMul":
            raise ModelError(f"{found} is no product; check onnxruntime against requirements.lock")
        return self._steps[self._whole(skipped)]

    def _integers(self, source: str) -> str:
        steps = self._steps[self._whole(source)]
        scaled = source
        if not self._folds(self._whole(source)):
            factor = self._numbers(f"{source}_factor", steps.factor)
            scaled = self._node("Mul", [source, factor], f"{source}_scaled")
        if steps.zero not in self._zeros:
            self._zeros[steps.zero] = self._constant(f"zero_{steps.zero}", np.uint8(steps.zero))
        return self._node(
            "QuantizeLinear", [scaled, self._one, self._zeros[steps.zero]], f"{source}_steps"
        )

    def _multiplied(
        self, integers: str, source: str, table: np.ndarray, bias: np.ndarray, output: str
    ) -> None:
        name = self._whole(source)
        steps = self._steps[name]
        gram = self._seen[name].moved(steps.centre, steps.factor)
        columns, scales = rounded_columns(steps.undone(table), gram)
        put = [
            integers,
            self._constant(f"{output}_int8", columns),
            self._one,
            self._constant(f"{output}_scales", scales[0]),
            self._zeros[steps.zero],
            "",
            self._numbers(f"{output}_bias", bias),
        ]
        # One kernel multiplies, turns to floating point, scales the columns and adds the bias.
        self._node("MatMulIntegerToFloat", put, output, domain=_CONTRIB)

    def attention(self, node: Any) -> None:
        """Write queries, keys and values as one product, and attention in floating point.

        Values that are centred and scaled give the same of what they are mixed to. Where only the
        first token's is read, no other asks, and queries are a product of their own.
        """
        from onnx import helper

        source, weight, biases, mask = node.input
        output = node.output[0]
        table = self._read(weight).copy()
        bias = self._read(biases) + self._steps[self._whole(source)].centre @ table
        mixed = self._steps[output]
        width = len(mixed.factor)
        table[:, -width:] *= mixed.factor
        bias[-width:] = (bias[-width:] - mixed.centre) * mixed.factor
        integers = self._integers(source)
        parts = [f"{output}_{part}" for part in ("queries", "keys", "values")]
        together = parts
        if {user.op_type for user in self._used_by[output]} == {"Gather"}:
            first = self._node("Gather", [integers, "first_token"], f"{integers}_first", axis=1)
            self._multiplied(first, source, table[:, :width], bias[:width], parts[0])
            table, bias, together = table[:, width:], bias[width:], parts[1:]
        self._multiplied(integers, source, table, bias, f"{output}_all")
        self.nodes.append(helper.make_node("Split", [f"{output}_all"], together, axis=-1))
        (heads,) = [item.i for item in node.attribute if item.name == "num_heads"]
        inputs = [*parts, "", mask]
        self._node("MultiHeadAttention", inputs, output, num_heads=heads, domain=_CONTRIB)

    # --- the rest ----------------------------------------------------------------------------

    def norm(self, node: Any) -> None:
        """Write a layer norm that gives the steps of the product after it.

        An addition and a plain layer norm: ONNX Runtime's kernel for both takes twice as long.
        """
        output = node.output[0]
        (epsilon,) = [item.f for item in node.attribute if item.name == "epsilon"]
        total, names = node.input[0], node.input[1:3]
        if node.op_type == "SkipLayerNormalization":
            total, names = self._joined(node), node.input[2:4]
        scale, shift = self._read(names[0]), self._read(names[1])
        if output in self._steps:
            steps = self._steps[output]
            scale, shift = scale * steps.factor, (shift - steps.centre) * steps.factor
        held = [self._numbers(f"{output}_scale", scale), self._numbers(f"{output}_shift", shift)]
        self._node("LayerNormalization", [total, *held], output, axis=-1, epsilon=epsilon)

    def _joined(self, node: Any) -> str:
        """Write the sum of a product, which holds the centre, and of what skips it."""
        found, skipped = node.input[:2]
        back = self._numbers(f"{node.output[0]}_back", 1 / self._skipped(node).factor)
        skipped = self._node("Mul", [skipped, back], f"{node.output[0]}_skipped")
        return self._node("Add", [found, skipped], f"{node.output[0]}_sum")

    def look_up(self, node: Any) -> None:
        """Write the look-up of word pieces as one of int8 rows and one of their scales."""
        from onnx import TensorProto

        rows, scales = rounded_rows(self._read(node.input[0]))
        held = self._constant("rows", rows), self._numbers("scales", scales)
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
        table = self._read(name).copy()
        passed = np.diag(table).copy() if table.shape[0] == table.shape[1] else None
        if passed is not None:
            np.fill_diagonal(table, 0.0)
        rows, scales = rounded_rows(table)
        held = self._constant(f"{name}_int8", rows)
        units = self._numbers(f"{name}_scales", scales)
        found = self._node("Cast", [held], f"{name}_numbers", to=TensorProto.FLOAT)
        same = copy.deepcopy(node)
        same.input[1] = self._node("Mul", [found, units], f"{name}_found")
        self.nodes.append(same)
        if passed is not None:
            same.output[0] = f"{output}_rest"
            diagonal = self._constant(f"{name}_diagonal", passed)
            through = self._node("Mul", [node.input[0], diagonal], f"{output}_through")
            self._node("Add", [f"{output}_rest", through], output)


_TEXTS = 100  # whose inputs are held at once


@dataclass(frozen=True)
class Inputs:
    """The ``n`` tokens ``x`` that came to a product.

    ``lows``, ``highs`` and ``mean`` (width,) are of the entries of each channel; ``scatter``
    (width, width) is the sum of ``(x - mean).T @ (x - mean)``: about the mean, since entries that
    vary little around a large one would be lost in the square of it. All float32.
    """

    lows: np.ndarray
    highs: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray
    n: int

    @classmethod
    def of(cls, tokens: np.ndarray) -> Self:
        """Return what there is to say of some tokens, (n, width)."""
        mean = tokens.mean(axis=0)
        apart = tokens - mean
        return cls(tokens.min(axis=0), tokens.max(axis=0), mean, apart.T @ apart, len(tokens))

    def __add__(self, other: Inputs) -> Inputs:
        """Return what there is to say of the tokens of both (Chan et al. 1979)."""
        n, apart = self.n + other.n, other.mean - self.mean
        return Inputs(
            np.minimum(self.lows, other.lows),
            np.maximum(self.highs, other.highs),
            self.mean + apart * (other.n / n),
            self.scatter + other.scatter + np.outer(apart, apart) * (self.n * other.n / n),
            n,
        )

    def moved(self, centre: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Return the Gram matrix of ``(x - centre) * factor``, both (width,)."""
        apart = (self.mean - centre) * factor
        return np.asarray(self.scatter * factor * factor[:, None] + self.n * np.outer(apart, apart))


def seen_inputs(model: Any, names: Iterable[str], ids: Sequence[np.ndarray]) -> dict[str, Inputs]:
    """Run a graph of `onnx_graph.float_graph` on texts and return what came to its products.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph, which stays as it is.
    names : iterable of str
        The values inside that are wanted, float32 of (rows, length, width).
    ids : sequence of int arrays
        Word pieces of each text; at least one text.

    Raises
    ------
    ModelError
        A value is infinite or none.
    """
    names = list(dict.fromkeys(names))
    session = Graph(_with_outputs(model, names).SerializeToString())
    seen: dict[str, Inputs] = {}
    for start in range(0, len(ids), _TEXTS):
        alone = [np.asarray(row)[None] for row in ids[start : start + _TEXTS]]
        values = [session.named(names, ids=row, mask=np.ones_like(row)) for row in alone]
        for name, given in zip(names, zip(*values, strict=True), strict=True):
            tokens = np.concatenate([value.reshape(-1, value.shape[-1]) for value in given])
            if not np.isfinite(tokens).all():
                raise ModelError(f"{name}: its weights give no numbers. Fit the model again")
            found = Inputs.of(tokens)
            seen[name] = seen[name] + found if name in seen else found
    return seen


def _with_outputs(model: Any, names: Sequence[str]) -> Any:
    from onnx import TensorProto, helper

    told = copy.deepcopy(model)
    told.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return told
