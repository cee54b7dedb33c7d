"""Static int8 quantization of an encoder's ONNX graph.

Activations are quantized with fixed ranges from a calibration sample, so that predictions do not
depend on the other texts of a batch. A few channels with large outliers would leave few steps to
the others: part of their magnitude moves into the weights (Xiao et al. 2023, SmoothQuant), through
the preceding layer norms and attention at no cost. The largest outlier channels of feed-forward
layers are multiplied in floating point (Dettmers et al. 2022, LLM.int8). Weights are quantized for
inputs like those of the sample (`quantize.quantize_columns`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nivesh_lib.errors import ModelError
from nivesh_lib.models.compact.onnx_export import replace_items
from nivesh_lib.models.compact.onnx_session import OnnxSession
from nivesh_lib.models.compact.quantize import quantize_columns, quantize_rows

_LEVELS = 255.0  # of uint8: processors multiply unsigned activations with signed weights
_CONTRIB = "com.microsoft"  # domain of ONNX Runtime's own operators
_SMALLEST = 1e-9  # lower bound of ranges and weights of channels that are always 0
_MIN_RANGE = 1e-3  # of the largest range: channels that hardly vary in the sample may elsewhere
_MIGRATION = 0.8  # exponent of a channel's magnitude that moves into the weights
_OUTLIER = 25.0  # times the median magnitude: channels above are multiplied in floating point
_MARGIN = 50.0  # divided by the number of sampled tokens: relative widening of the ranges
_NORMS = ("LayerNormalization", "SkipLayerNormalization")
_CALIBRATION_BATCH = 100  # texts whose activations are held in memory at once


def int8_graph(model: Any, ids: Sequence[np.ndarray]) -> Any:
    """Quantize a graph of `onnx_export.float_graph` in place and return it.

    Parameters
    ----------
    model : onnx.ModelProto
        The float32 graph; it is changed.
    ids : sequence of int arrays
        Token ids of the calibration texts.

    Notes
    -----
    Products with weights run in int8: weights have one scale per column, activations one per
    channel and saturate outside the range of the sample. Token embeddings are int8 with one scale
    per token. The head's weights are int8 in the file only.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if _is_product(node, weights)]
    names = [node.input[0] for node in products]
    builder = _Int8Builder(model, products, activation_statistics(model, names, ids))
    for node in list(model.graph.node):
        if list(node.input[1:]) == ["ids"]:
            builder.embedding(node)
        elif node.op_type == "Attention":
            builder.attention(node)
        elif _is_product(node, weights):
            builder.product(node)
        elif node.op_type in _NORMS:
            builder.norm(node)
        elif node.op_type == "Gemm":
            builder.head(node)
        else:
            builder.nodes.append(node)
    replace_items(model.graph.node, builder.nodes)
    read = {name for node in builder.nodes for name in node.input}
    tensors = model.graph.initializer
    replace_items(tensors, (tensor for tensor in tensors if tensor.name in read))
    return model


def _is_product(node: Any, weights: set[str]) -> bool:
    return node.op_type in ("Attention", "MatMul") and node.input[1] in weights


@dataclass(frozen=True)
class _Quantizer:
    """Quantization of an activation to uint8: ``round((x - centre) * factor) + zero_point``.

    ``centre`` and ``factor`` are (width,); the channels ``outliers`` have factor 0 and are
    multiplied in floating point.
    """

    centre: np.ndarray
    factor: np.ndarray
    zero_point: int
    outliers: np.ndarray

    @classmethod
    def of(cls, statistics: ChannelStatistics, table: np.ndarray, *, folded: bool) -> _Quantizer:
        """Choose the quantization of the input of a product.

        Parameters
        ----------
        statistics : ChannelStatistics
            Of the input on the calibration sample.
        table : array
            The weights, (width, outputs).
        folded : bool
            Whether the preceding node can centre and scale its output. Then no channel is an
            outlier, since their magnitude is mostly a large centre.
        """
        lows, highs = statistics.lows, statistics.highs
        weight_peaks = np.maximum(np.abs(table).max(axis=1), _SMALLEST)
        outliers = np.empty(0, dtype=np.int64)
        centre = (lows + highs) / 2 if folded else np.zeros_like(lows)
        if not folded:
            magnitudes = (highs - lows) * weight_peaks
            outliers = np.flatnonzero(magnitudes > _OUTLIER * np.median(magnitudes))
        widening = 1 + _MARGIN / statistics.n
        lows, highs = widening * (lows - centre), widening * (highs - centre)
        peaks = np.maximum(highs, -lows)
        peaks = np.maximum(peaks, max(_MIN_RANGE * peaks.max(), _SMALLEST))
        factor = weight_peaks ** (1 - _MIGRATION) / peaks**_MIGRATION
        factor[outliers] = 0
        lowest, highest = min((factor * lows).min(), 0.0), (factor * highs).max()
        factor *= _LEVELS / max(highest - lowest, _SMALLEST)
        zero_point = round(_LEVELS * -lowest / max(highest - lowest, _SMALLEST))
        return cls(centre.astype(np.float32), factor.astype(np.float32), zero_point, outliers)

    def rescaled(self, table: np.ndarray) -> np.ndarray:
        """Return the weights for the quantized input; rows of outliers are 0."""
        factor = self.factor[:, None]
        return np.divide(table, factor, out=np.zeros_like(table), where=factor > 0)


class _Int8Builder:
    """Builder of the quantized graph's nodes."""

    def __init__(
        self, model: Any, products: Sequence[Any], statistics: dict[str, ChannelStatistics]
    ) -> None:
        self.nodes: list[Any] = []
        self._initializer = model.graph.initializer
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producer = {node.output[0]: node for node in model.graph.node}
        self._consumers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._statistics = {self._source(name): found for name, found in statistics.items()}
        self._quantizers = {}
        for node in products:
            name = self._source(node.input[0])
            self._quantizers[name] = _Quantizer.of(
                self._statistics[name], self._read(node.input[1]), folded=self._is_folded(name)
            )
        self._one = self._constant("one", np.float32(1))
        self._zero_points: dict[int, str] = {}

    def _source(self, name: str) -> str:
        """Return the value of all tokens, where ``name`` is that of the first one only."""
        node = self._producer[name]
        return str(node.input[0]) if node.op_type == "Gather" else name

    def _is_folded(self, name: str) -> bool:
        return self._producer[name].op_type in (*_NORMS, "Attention")

    # --- weights and nodes -------------------------------------------------------------------

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self._initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _floats(self, name: str, values: np.ndarray) -> str:
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
        """Add a product with a weight matrix (width, outputs).

        Its bias includes what a following layer norm would add: that norm's own bias and the
        centre of the residual connection.
        """
        (source, weight), output = node.input, node.output[0]
        table = self._read(weight)
        quantizer = self._quantizers[self._source(source)]
        bias = quantizer.centre @ table
        for consumer in self._consumers[output]:
            if consumer.op_type == "SkipLayerNormalization":
                bias = bias + self._read(consumer.input[4]) + self._residual(consumer).centre
        has_outliers = len(quantizer.outliers) > 0
        product = f"{output}_most" if has_outliers else output
        self._int8_product(self._quantized(source), source, table, bias, product)
        if has_outliers:
            channels = self._constant(f"{output}_channels", quantizer.outliers)
            few = self._node("Gather", [source, channels], f"{output}_few", axis=-1)
            weights = self._floats(f"{output}_few_weights", table[quantizer.outliers])
            few = self._node("MatMul", [few, weights], f"{output}_apart")
            self._node("Add", [product, few], output)

    def _residual(self, norm: Any) -> _Quantizer:
        product, residual = norm.input[:2]
        if self._producer[product].op_type != "MatMul":
            raise ModelError(
                f"{product} is no product; check onnxruntime against requirements.lock"
            )
        return self._quantizers[self._source(residual)]

    def _quantized(self, source: str) -> str:
        quantizer = self._quantizers[self._source(source)]
        scaled, zero = source, quantizer.zero_point
        if not self._is_folded(self._source(source)):
            factor = self._floats(f"{source}_factor", quantizer.factor)
            scaled = self._node("Mul", [source, factor], f"{source}_scaled")
        if zero not in self._zero_points:
            self._zero_points[zero] = self._constant(f"zero_{zero}", np.uint8(zero))
        inputs = [scaled, self._one, self._zero_points[zero]]
        return self._node("QuantizeLinear", inputs, f"{source}_steps")

    def _int8_product(
        self, quantized: str, source: str, table: np.ndarray, bias: np.ndarray, output: str
    ) -> None:
        name = self._source(source)
        quantizer = self._quantizers[name]
        gram = self._statistics[name].gram(quantizer.centre, quantizer.factor)
        columns, scales = quantize_columns(quantizer.rescaled(table), gram)
        inputs = [
            quantized,
            self._constant(f"{output}_int8", columns),
            self._one,
            self._constant(f"{output}_scales", scales[0]),
            self._zero_points[quantizer.zero_point],
            "",
            self._floats(f"{output}_bias", bias),
        ]
        # One kernel multiplies, converts to float, scales the columns and adds the bias.
        self._node("MatMulIntegerToFloat", inputs, output, domain=_CONTRIB)

    def attention(self, node: Any) -> None:
        """Add one int8 product for queries, keys and values, and attention in floating point.

        Centring and scaling the values centres and scales the attention's output. If only the
        first token's output is read, its query alone is computed, as a product of its own.
        """
        from onnx import helper

        source, weight, biases, mask = node.input
        output = node.output[0]
        table = self._read(weight).copy()
        bias = self._read(biases) + self._quantizers[self._source(source)].centre @ table
        after = self._quantizers[output]
        width = len(after.factor)
        table[:, -width:] *= after.factor
        bias[-width:] = (bias[-width:] - after.centre) * after.factor
        quantized = self._quantized(source)
        parts = [f"{output}_{part}" for part in ("queries", "keys", "values")]
        together = parts
        if {consumer.op_type for consumer in self._consumers[output]} == {"Gather"}:
            first = self._node("Gather", [quantized, "first_token"], f"{quantized}_first", axis=1)
            self._int8_product(first, source, table[:, :width], bias[:width], parts[0])
            table, bias, together = table[:, width:], bias[width:], parts[1:]
        self._int8_product(quantized, source, table, bias, f"{output}_all")
        self.nodes.append(helper.make_node("Split", [f"{output}_all"], together, axis=-1))
        (heads,) = [item.i for item in node.attribute if item.name == "num_heads"]
        inputs = [*parts, "", mask]
        self._node("MultiHeadAttention", inputs, output, num_heads=heads, domain=_CONTRIB)

    # --- other nodes -------------------------------------------------------------------------

    def norm(self, node: Any) -> None:
        """Add a layer norm whose output is centred and scaled for the following product.

        A residual connection becomes an addition: ONNX Runtime's fused kernel is half as fast.
        """
        output = node.output[0]
        (epsilon,) = [item.f for item in node.attribute if item.name == "epsilon"]
        total, names = node.input[0], node.input[1:3]
        if node.op_type == "SkipLayerNormalization":
            total, names = self._residual_sum(node), node.input[2:4]
        scale, shift = self._read(names[0]), self._read(names[1])
        if output in self._quantizers:
            after = self._quantizers[output]
            scale, shift = scale * after.factor, (shift - after.centre) * after.factor
        held = [self._floats(f"{output}_scale", scale), self._floats(f"{output}_shift", shift)]
        self._node("LayerNormalization", [total, *held], output, axis=-1, epsilon=epsilon)

    def _residual_sum(self, node: Any) -> str:
        """Add the sum of a product, whose bias holds the centre, and the residual."""
        product, residual = node.input[:2]
        back = self._floats(f"{node.output[0]}_back", 1 / self._residual(node).factor)
        residual = self._node("Mul", [residual, back], f"{node.output[0]}_skipped")
        return self._node("Add", [product, residual], f"{node.output[0]}_sum")

    def embedding(self, node: Any) -> None:
        """Add the lookup of int8 token embeddings and their scales."""
        from onnx import TensorProto

        rows, scales = quantize_rows(self._read(node.input[0]))
        held = self._constant("rows", rows), self._floats("scales", scales)
        found = self._node("Gather", [held[0], "ids"], "rows_of_ids")
        numbers = self._node("Cast", [found], "numbers_of_ids", to=TensorProto.FLOAT)
        factors = self._node("Gather", [held[1], "ids"], "scales_of_ids")
        self._node("Mul", [numbers, factors], node.output[0])

    def head(self, node: Any) -> None:
        """Add a layer of the head, with weights that are int8 in the file only.

        The diagonal of a square layer is stored apart in float32: that of an identity pooler
        (`TransformerClassifier`) would leave no int8 steps to the other weights.
        """
        from onnx import TensorProto

        name, output = node.input[1], node.output[0]
        table = self._read(name).copy()
        diagonal = np.diag(table).copy() if table.shape[0] == table.shape[1] else None
        if diagonal is not None:
            np.fill_diagonal(table, 0.0)
        rows, scales = quantize_rows(table)
        held = self._constant(f"{name}_int8", rows)
        units = self._floats(f"{name}_scales", scales)
        found = self._node("Cast", [held], f"{name}_numbers", to=TensorProto.FLOAT)
        same = copy.deepcopy(node)
        same.input[1] = self._node("Mul", [found, units], f"{name}_found")
        self.nodes.append(same)
        if diagonal is not None:
            same.output[0] = f"{output}_rest"
            factors = self._constant(f"{name}_diagonal", diagonal)
            through = self._node("Mul", [node.input[0], factors], f"{output}_through")
            self._node("Add", [f"{output}_rest", through], output)


@dataclass(frozen=True)
class ChannelStatistics:
    """Per-channel statistics of ``n`` token activations ``x``, float32.

    ``lows``, ``highs`` and ``mean`` are (width,); ``scatter`` (width, width) is the sum of
    ``(x - mean).T @ (x - mean)``, about the mean for numerical stability.
    """

    lows: np.ndarray
    highs: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray
    n: int

    @classmethod
    def of(cls, tokens: np.ndarray) -> Self:
        """Return the statistics of activations (n, width)."""
        mean = tokens.mean(axis=0)
        centred = tokens - mean
        return cls(tokens.min(axis=0), tokens.max(axis=0), mean, centred.T @ centred, len(tokens))

    def __add__(self, other: ChannelStatistics) -> ChannelStatistics:
        """Return the statistics of the union of both samples (Chan et al. 1979)."""
        n, difference = self.n + other.n, other.mean - self.mean
        between = np.outer(difference, difference) * (self.n * other.n / n)
        return ChannelStatistics(
            np.minimum(self.lows, other.lows),
            np.maximum(self.highs, other.highs),
            self.mean + difference * (other.n / n),
            self.scatter + other.scatter + between,
            n,
        )

    def gram(self, centre: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Return the Gram matrix (width, width) of ``(x - centre) * factor``, both (width,)."""
        mean = (self.mean - centre) * factor
        return np.asarray(self.scatter * factor * factor[:, None] + self.n * np.outer(mean, mean))


def activation_statistics(
    model: Any, names: Iterable[str], ids: Sequence[np.ndarray]
) -> dict[str, ChannelStatistics]:
    """Run a graph of `onnx_export.float_graph` on texts; return statistics of inner values.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph, unchanged.
    names : iterable of str
        Values of the graph, float32 (rows, length, width).
    ids : sequence of int arrays
        Token ids of at least one text.

    Raises
    ------
    ModelError
        A value is infinite or NaN.
    """
    names = list(dict.fromkeys(names))
    session = OnnxSession(_with_outputs(model, names).SerializeToString())
    statistics: dict[str, ChannelStatistics] = {}
    for start in range(0, len(ids), _CALIBRATION_BATCH):
        rows = [np.asarray(row)[None] for row in ids[start : start + _CALIBRATION_BATCH]]
        values = [session.outputs(names, ids=row, mask=np.ones_like(row)) for row in rows]
        for name, found in zip(names, zip(*values, strict=True), strict=True):
            tokens = np.concatenate([value.reshape(-1, value.shape[-1]) for value in found])
            if not np.isfinite(tokens).all():
                raise ModelError(
                    f"{name} is not finite for a calibration text. Fit the model again"
                )
            new = ChannelStatistics.of(tokens)
            statistics[name] = statistics[name] + new if name in statistics else new
    return statistics


def _with_outputs(model: Any, names: Sequence[str]) -> Any:
    from onnx import TensorProto, helper

    extended = copy.deepcopy(model)
    extended.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return extended
