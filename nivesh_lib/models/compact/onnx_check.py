"""Check of a saved ONNX graph before a session is made: its operators, and what they may cost.

Only operators that `onnx_export` and `onnx_int8` write are allowed; none has a subgraph. Since
broadcasting, lookups and attention can still multiply sizes, upper bounds of all shapes are
computed for given inputs, and with them the numbers of elements and of multiplications.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from nivesh_lib.errors import ModelError
from nivesh_lib.models.compact.onnx_reader import read_onnx

Shape = tuple[int, ...]

_BYTES = {1: 4, 2: 1, 3: 1, 7: 8}  # of an element: float32, uint8, int8, int64
_FLOAT, _INT64, _INTS = 1, 7, (6, 7)
_CAST_TO = (1, 6)  # float32, int32
_MAX_NODES = 2_000  # an encoder of 24 layers has 400
_MAX_RANK = 6
_MAX_ELEMENTS = 200_000_000  # of all intermediate values together; 0.8 GB in float32
_LONGEST = 4  # times as many for one text of the largest length
_MAX_MULTIPLICATIONS = 2**34  # beside one for each weight and token; a second or two


def check_onnx(path: Path, content: bytes, first: tuple[int, int], max_length: int) -> None:
    """Check that a graph is as exported, and affordable for the inputs that it will have.

    Parameters
    ----------
    path : path
        The file's, for messages.
    content : bytes
        The ``.onnx`` file.
    first : tuple of int
        Rows and length of the inputs that loading will ask.
    max_length : int
        Largest length of a later text.

    Raises
    ------
    ModelError
        The file is damaged, holds something that no exported graph has, or would need too much
        memory or time.
    """
    try:
        graph = read_onnx(content)["graph"]
        _check_graph(graph, *first, _MAX_ELEMENTS)
        _check_graph(graph, 1, max_length, _LONGEST * _MAX_ELEMENTS)
    except ValueError as error:
        raise ModelError(
            f"{path}: this graph is refused: {error}. Export the model again with OnnxClassifier.of"
        ) from None


def _check_graph(graph: dict[str, Any], rows: int, length: int, max_elements: int) -> None:
    if len(graph["node"]) > _MAX_NODES:
        raise ValueError(f"it has {len(graph['node']):,} nodes, {_MAX_NODES:,} are allowed")
    _check_ends(graph)
    values = _Values({"": (), "ids": (rows, length), "mask": (rows, length)})
    for tensor in graph["initializer"]:
        values.add_weights(tensor)
    spare = rows * length * sum(prod(tensor["dims"]) for tensor in graph["initializer"])
    for position, node in enumerate(graph["node"]):
        try:
            values.add_node(node)
            if values.multiplications > _MAX_MULTIPLICATIONS + spare:
                raise ValueError(f"{values.multiplications:.1e} multiplications up to here")
            if values.elements > max_elements:
                raise ValueError(f"the values up to here are {values.elements:.1e} numbers")
        except ValueError as error:
            named = f"node {position} ({_short(node['op_type'])} {_short(node['name'])})"
            raise ValueError(f"{named}: {error}") from None
    logits = values.shapes.get("logits", ())
    if len(logits) != 2 or logits[0] != rows:
        raise ValueError("its output is not one row for each text")


def _check_ends(graph: dict[str, Any]) -> None:
    """Check the graph's inputs and outputs."""
    kinds = [one["type"]["tensor_type"] for one in graph["input"] + graph["output"]]
    names = [[one["name"] for one in graph[side]] for side in ("input", "output")]
    if names != [["ids", "mask"], ["logits"]]:
        raise ValueError("its inputs are not ids and mask, or its output is not logits alone")
    if any(kind["elem_type"] not in _INTS for kind in kinds[:2]) or kinds[2]["elem_type"] != _FLOAT:
        raise ValueError("its inputs are not integers, or its output is not float32")


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}…")


class _Values:
    """Upper bounds of the shapes of a graph's values, and what computing them costs."""

    def __init__(self, shapes: dict[str, Shape]) -> None:
        self.shapes = shapes
        self._integers: dict[str, list[int]] = {}  # in the file
        self._largest: dict[str, int] = {}  # upper bounds of integers computed from shapes
        self.elements = 0
        self.multiplications = 0

    def add_weights(self, tensor: dict[str, Any]) -> None:
        """Add a tensor of the file, whose size must be that of its data."""
        name, dims, data = tensor["name"], tensor["dims"], tensor["raw_data"]
        if tensor["data_type"] not in _BYTES or len(dims) > _MAX_RANK or min(dims, default=1) < 1:
            raise ValueError(f"the type or the sizes of weights {_short(name)} are not allowed")
        size = _BYTES[tensor["data_type"]]
        held = [len(data), size * len(tensor["int64_data"])]
        if sorted(held) != [0, size * prod(dims)]:
            raise ValueError(f"weights {_short(name)} are {max(held)} bytes, but claim {dims}")
        self._define(name, tuple(dims))
        if tensor["data_type"] == _INT64 and len(dims) < 2:
            self._integers[name] = tensor["int64_data"] or data.cast("q").tolist()

    def add_node(self, node: dict[str, Any]) -> None:
        """Add the outputs of a node whose inputs are known."""
        kind = ".".join(filter(None, [node["domain"], node["op_type"]]))
        if kind not in _OPERATORS:
            raise ValueError("no exported graph has this operator")
        operator = _OPERATORS[kind]
        if not 0 < len(node["output"]) <= operator.outputs:
            raise ValueError(f"it has {len(node['output'])} outputs")
        if len(node["input"]) != operator.inputs:
            raise ValueError(f"it has {len(node['input'])} inputs")
        unknown = [name for name in node["input"] if name not in self.shapes]
        if unknown:
            raise ValueError(f"no node before it makes {_short(unknown[0])}")
        call = _Call(
            [self.shapes[name] for name in node["input"]],
            _attributes(node, operator.attributes),
            [self._integers.get(name) for name in node["input"]],
            [self._largest.get(name) for name in node["input"]],
            len(node["output"]),
        )
        shape = operator.bound(call)
        if len(shape) > _MAX_RANK:
            raise ValueError(f"its output has {len(shape)} axes")
        for name in node["output"]:
            self._define(name, shape)
            if call.largest is not None:
                self._largest[name] = call.largest
        self.elements += len(node["output"]) * prod(shape) + call.scratch
        self.multiplications += call.multiplications

    def _define(self, name: str, shape: Shape) -> None:
        if name in self.shapes:
            raise ValueError(f"{_short(name)} is made twice")
        self.shapes[name] = shape


def _attributes(node: dict[str, Any], allowed: Sequence[str]) -> dict[str, int]:
    """Return the integer attributes of a node."""
    found: dict[str, int] = {}
    for attribute in node["attribute"]:
        name, kind = attribute["name"], attribute["type"]
        if name not in allowed or name in found or kind != (1 if name in _FLOATS else 2):
            raise ValueError(f"its attribute {_short(name)} is not allowed")
        found[name] = attribute["i"]
    return found


@dataclass
class _Call:
    """The inputs of a node, and the cost of its output beside the output itself."""

    shapes: list[Shape]
    attributes: dict[str, int]
    integers: list[list[int] | None]  # of inputs that are in the file
    limits: list[int | None]  # of the integers in inputs that are computed from shapes
    n_outputs: int
    largest: int | None = None  # limit of the integers in the output
    scratch: int = 0
    multiplications: int = 0

    def axes(self, position: int, rank: int) -> list[int]:
        """Return the axes that input ``position`` lists, from 0 to ``rank`` - 1, ascending."""
        listed = self.integers[position]
        if listed is None or not all(-rank <= axis < rank for axis in listed):
            raise ValueError("its axes are not constants of the file, or out of range")
        return sorted(axis % rank for axis in listed)

    def axis(self, shape: Shape) -> int:
        """Return the attribute ``axis`` for an input of this shape."""
        axis = self.attributes.get("axis", 0)
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"its axis {axis} is out of range")
        return axis % len(shape)


def _broadcast(call: _Call) -> Shape:
    return _common(call.shapes)


def _common(shapes: Sequence[Shape]) -> Shape:
    """Return the shape that holds all shapes when their last axes are aligned."""
    rank = max(map(len, shapes))
    aligned = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(map(max, zip(*aligned, strict=True)))


def _shape(call: _Call) -> Shape:
    call.largest = max(call.shapes[0], default=0)
    return (len(call.shapes[0]),)


def _first(call: _Call) -> Shape:
    return call.shapes[0]


def _cast(call: _Call) -> Shape:
    if call.attributes.get("to") not in _CAST_TO:
        raise ValueError("it casts to another type than float32 or int32")
    return call.shapes[0]


def _gather(call: _Call) -> Shape:
    table, indices = call.shapes
    call.largest = call.limits[0]
    axis = call.axis(table)
    return table[:axis] + indices + table[axis + 1 :]


def _slice(call: _Call) -> Shape:
    """Return the shape of the first rows, up to a number computed from a shape, or of the whole."""
    sizes, end = list(call.shapes[0]), call.limits[2]
    if end is not None and call.integers[4] == [1]:
        for axis in call.axes(3, len(sizes)):
            sizes[axis] = min(sizes[axis], end)
    return tuple(sizes)


def _split(call: _Call) -> Shape:
    (whole,) = call.shapes
    axis = call.axis(whole)
    return (*whole[:axis], -(-whole[axis] // call.n_outputs), *whole[axis + 1 :])


def _unsqueeze(call: _Call) -> Shape:
    sizes = list(call.shapes[0])
    call.largest = call.limits[0]
    for axis in call.axes(1, len(sizes) + len(call.integers[1] or ())):
        sizes.insert(axis, 1)
    return tuple(sizes)


def _reduce(call: _Call) -> Shape:
    whole = call.shapes[0]
    axes = call.axes(1, len(whole))
    if call.attributes.get("keepdims", 1):
        return tuple(1 if axis in axes else size for axis, size in enumerate(whole))
    return tuple(size for axis, size in enumerate(whole) if axis not in axes)


def _product(call: _Call) -> Shape:
    one, two = call.shapes[:2]
    if min(len(one), len(two)) < 2:
        raise ValueError("its inputs are no matrices")
    shape = (*_common([one[:-2], two[:-2]]), one[-2], two[-1])
    call.multiplications = prod(shape) * max(one[-1], two[-2])
    return shape


def _gemm(call: _Call) -> Shape:
    for position, name in enumerate(("transA", "transB")):
        if call.attributes.get(name, 0):
            call.shapes[position] = call.shapes[position][::-1]
    return _product(call)


def _attention(call: _Call) -> Shape:
    """Return the shape of attention with a product for queries, keys and values."""
    inputs, weights = call.shapes[:2]
    _product(call)
    products = call.multiplications
    call.shapes[:3] = [(*inputs[:-1], -(-weights[-1] // 3))] * 3
    shape = _heads(call)
    call.multiplications += products
    return shape


def _heads(call: _Call) -> Shape:
    """Return the shape of attention of given queries, keys and values."""
    queries, keys, values = call.shapes[:3]
    if {len(queries), len(keys), len(values)} != {3}:
        raise ValueError("its inputs do not have three axes")
    rows, width = max(queries[0], keys[0]), max(queries[2], keys[2], values[2])
    pairs = rows * queries[1] * max(keys[1], values[1])
    scores = pairs * max(call.attributes.get("num_heads", 1), 1)
    call.scratch = scores + sum(map(prod, call.shapes[:3]))
    call.multiplications = 2 * pairs * width
    return (rows, queries[1], width)


@dataclass(frozen=True)
class _Operator:
    """What nodes of one kind may look like, and the upper bound of their outputs' shape."""

    bound: Callable[[_Call], Shape]
    inputs: int
    attributes: tuple[str, ...] = ()
    outputs: int = 1


_FLOATS = ("alpha", "beta", "epsilon")  # attributes that are no integers
_OPERATORS = {
    "Add": _Operator(_broadcast, 2),
    "Cast": _Operator(_cast, 1, ("to",)),
    "Gather": _Operator(_gather, 2, ("axis",)),
    "Gemm": _Operator(_gemm, 3, ("alpha", "beta", "transA", "transB")),
    "LayerNormalization": _Operator(_broadcast, 3, ("axis", "epsilon", "stash_type")),
    "MatMul": _Operator(_product, 2),
    "Mul": _Operator(_broadcast, 2),
    "QuantizeLinear": _Operator(_broadcast, 3),
    "ReduceSum": _Operator(_reduce, 2, ("keepdims",)),
    "Relu": _Operator(_first, 1),
    "Shape": _Operator(_shape, 1, ("start",)),
    "Sigmoid": _Operator(_first, 1),
    "Slice": _Operator(_slice, 5),
    "Split": _Operator(_split, 1, ("axis",), outputs=3),
    "Tanh": _Operator(_first, 1),
    "Unsqueeze": _Operator(_unsqueeze, 2),
    "com.microsoft.Attention": _Operator(_attention, 4, ("num_heads",)),
    "com.microsoft.BiasGelu": _Operator(_broadcast, 2),
    "com.microsoft.FastGelu": _Operator(_broadcast, 2),
    "com.microsoft.MatMulIntegerToFloat": _Operator(_product, 7),
    "com.microsoft.MultiHeadAttention": _Operator(_heads, 5, ("num_heads",)),
    "com.microsoft.SkipLayerNormalization": _Operator(_broadcast, 5, ("epsilon",)),
}
