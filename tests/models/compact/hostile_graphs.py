"""ONNX files that would run or allocate without end, read other files or mislead a reader.

`GRAPHS` maps a name to a function that returns the file's bytes. `hostile_model` puts one into a
model directory with matching checksums, as an attacker would.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from nivesh_lib.files import sha256_file
from nivesh_lib.models.directory import card_sha256

FROZEN = Path(__file__).parents[2] / "frozen" / "models"
INTS, FLOATS = TensorProto.INT64, TensorProto.FLOAT
HUGE = 10**12


def hostile_model(directory: Path, content: bytes, precision: str = "int8") -> Path:
    """Write the frozen model with ``content`` in place of its graph; return the directory."""
    shutil.copytree(FROZEN / ("onnx" if precision == "int8" else "onnx_fp32"), directory)
    (directory / "model.onnx").write_bytes(content)
    card = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    card["files"]["model.onnx"] = sha256_file(directory / "model.onnx")
    card["sha256"] = card_sha256(card)
    (directory / "model.json").write_text(json.dumps(card), encoding="utf-8")
    return directory


def value(name, kind=FLOATS, shape=("rows", "length")):
    return helper.make_tensor_value_info(name, kind, shape)


def node(kind, inputs, output="logits", **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def model(nodes, weights=(), *, inputs=None, outputs=None, **options) -> bytes:
    held = [numpy_helper.from_array(np.array(array), name) for name, array in dict(weights).items()]
    graph = helper.make_graph(
        nodes,
        "hostile",
        inputs or [value("ids", TensorProto.INT32), value("mask", TensorProto.INT32)],
        outputs or [value("logits", FLOATS, ("rows", 3))],
        held,
    )
    versions = [("", 17), ("com.microsoft", 1), ("strange.domain", 1)]
    options["opset_imports"] = [helper.make_opsetid(*version) for version in versions]
    return helper.make_model(graph, ir_version=8, **options).SerializeToString()


def body(*nodes, name="body", inputs=(), outputs=()):
    return helper.make_graph(list(nodes), name, list(inputs), list(outputs))


# --- loops and branches ----------------------------------------------------------


def loop() -> bytes:
    inner = body(
        node("Identity", ["go"], "still"),
        node("Add", ["sum", "sum"], "next"),
        inputs=[value("n", INTS, ()), value("go", 9, ()), value("sum", FLOATS, ())],
        outputs=[value("still", 9, ()), value("next", FLOATS, ())],
    )
    weights = {"often": np.int64(2**62), "yes": np.array(True), "start": np.float32(1)}
    return model([node("Loop", ["often", "yes", "start"], body=inner)], weights)


def branch(depth: int = 1) -> bytes:
    inner = body(node("Identity", ["one"], "x0"), outputs=[value("x0", FLOATS, ())])
    for level in range(1, depth):
        nested = node("If", ["yes"], f"x{level}", then_branch=inner, else_branch=inner)
        inner = body(nested, outputs=[value(f"x{level}", FLOATS, ())])
        if len(inner.SerializeToString()) > 2**20:
            break
    whole = node("If", ["yes"], then_branch=inner, else_branch=inner)
    return model([whole], {"yes": np.array(True), "one": np.float32(1)})


def scan() -> bytes:
    inner = body(
        node("Add", ["state", "item"], "next"),
        inputs=[value("state", FLOATS, ()), value("item", FLOATS, ())],
        outputs=[value("next", FLOATS, ())],
    )
    weights = {"start": np.float32(0), "items": np.zeros(9, np.float32)}
    return model([node("Scan", ["start", "items"], body=inner, num_scan_inputs=1)], weights)


def groups_in_groups() -> bytes:
    return b"\x0b" * 100_000 + b"\x0c" * 100_000  # starts and ends of an old kind of field


# --- sizes from values -----------------------------------------------------------


def sized(kind: str, *inputs: str, **weights: object) -> Callable[[], bytes]:
    return lambda: model([node(kind, list(inputs))], weights)


def cast(*names: str) -> list:
    return [node("Cast", [name], f"{name}_float", to=FLOATS) for name in names]


def concat_chain() -> bytes:
    steps = [node("Concat", [f"x{n}", f"x{n}"], f"x{n + 1}", axis=0) for n in range(40)]
    return model([node("Cast", ["ids"], "x0", to=FLOATS), *steps, node("Tanh", ["x40"])])


def outer_sums() -> bytes:
    nodes = [
        node("Unsqueeze", ["large", "last"], "column"),
        node("Add", ["large", "column"], "square"),
        node("Unsqueeze", ["square", "last"], "deep"),
        node("Add", ["square", "deep"]),
    ]
    return model(nodes, {"large": np.zeros(20_000, np.float32), "last": np.array([-1])})


def outer_product() -> bytes:
    weights = {"column": np.zeros((300_000, 1), np.float32), "row": np.zeros((1, 300_000), "f4")}
    return model([node("MatMul", ["column", "row"])], weights)


def repeated_lookup() -> bytes:
    steps = [node("Gather", [f"x{n}", "many"], f"x{n + 1}", axis=n) for n in range(3)]
    weights = {"x0": np.zeros((2, 2, 2), np.float32), "many": np.zeros(10_000, np.int64)}
    return model([*steps, node("Tanh", ["x3"])], weights)


def lengthening_lookup() -> bytes:
    """Each lookup by ids adds the two axes of the ids."""
    steps = [node("Gather", [f"x{n}", "ids"], f"x{n + 1}") for n in range(5)]
    return model([*steps, node("Tanh", ["x5"])], {"x0": np.zeros((200, 2), np.float32)})


def powers_of_the_length(power: int = 6) -> bytes:
    """Each sum has one axis more, of the texts' length; the output looks like any other."""
    nodes = [*cast("mask"), node("Unsqueeze", ["mask_float", "end"], "y1")]
    for n in range(1, power - 1):
        nodes += [
            node("Add", [f"y{n}", "mask_float"], f"x{n}"),
            node("Unsqueeze", [f"x{n}", "end"], f"y{n + 1}"),
        ]
    nodes += [
        node("ReduceSum", [f"x{power - 2}", "axes"], "sum", keepdims=0),
        node("Gather", ["mask_float", "first"], "column", axis=1),
        node("Mul", ["column", "three"], "scores"),
        node("Add", ["scores", "sum"]),
    ]
    axes, three = np.arange(power), np.zeros(3, np.float32)
    weights = {"end": np.array([-1]), "axes": axes, "first": np.array([0]), "three": three}
    return model(nodes, weights)


def long_attention() -> bytes:
    nodes = [node("MultiHeadAttention", ["x", "x", "x", "", ""], num_heads=2, domain=MS)]
    return model(nodes, {"x": np.zeros((1, 200_000, 2), np.float32)})


def many_heads() -> bytes:
    nodes = [node("MultiHeadAttention", ["x", "x", "x", "", ""], num_heads=2**40, domain=MS)]
    return model(nodes, {"x": np.zeros((1, 50, 2), np.float32)})


def repeated_products() -> bytes:
    steps = [node("MatMul", [f"x{n}", "w"], f"x{n + 1}") for n in range(1_900)]
    weights = {"x0": np.zeros((1_000, 500), np.float32), "w": np.zeros((500, 500), np.float32)}
    return model([*steps, node("Tanh", ["x1900"])], weights)


MS = "com.microsoft"

# --- what lies elsewhere ----------------------------------------------------------


def external(location: str) -> Callable[[], bytes]:
    def build() -> bytes:
        tensor = TensorProto(name="w", dims=[16], data_type=FLOATS, data_location=1)
        tensor.external_data.add(key="location", value=location)
        content = model([node("Tanh", ["w"])])
        return changed(content, lambda found: found.graph.initializer.append(tensor))

    return build


def changed(content: bytes, change: Callable) -> bytes:
    from onnx import load_from_string

    found = load_from_string(content)
    change(found)
    return found.SerializeToString()


def function_that_calls_itself() -> bytes:
    versions = [helper.make_opsetid("strange.domain", 1)]
    again = node("Again", ["x"], "y", domain="strange.domain")
    function = helper.make_function("strange.domain", "Again", ["x"], ["y"], [again], versions)
    return model(
        [*cast("ids"), node("Again", ["ids_float"], domain="strange.domain")],
        {},
        functions=[function],
    )


def custom_operator() -> bytes:
    return model([node("RunShell", ["ids"], domain="strange.domain")])


def constant() -> bytes:
    tensor = TensorProto(dims=[HUGE], data_type=FLOATS)
    return model([node("Constant", [], value=tensor)])


# --- wrong sizes and damaged files ------------------------------------------------


def claimed(*dims: int) -> Callable[[], bytes]:
    def build() -> bytes:
        tensor = TensorProto(name="w", dims=dims, data_type=FLOATS, raw_data=b"\0" * 64)
        content = model([node("Tanh", ["w"])])
        return changed(content, lambda found: found.graph.initializer.append(tensor))

    return build


def sparse() -> bytes:
    content = model(cast("ids"))
    return changed(
        content, lambda found: found.graph.sparse_initializer.add(dims=[HUGE]).values.dims.append(0)
    )


def many_nodes() -> bytes:
    one = node("Tanh", ["logits"], "y").SerializeToString()
    graph = (b"\x0a" + bytes([len(one)]) + one) * 1_000_000
    return b"\x3a" + _varint(len(graph)) + graph


def many_weights() -> bytes:
    graph = b"\x2a\x00" * 20_000_000
    return b"\x3a" + _varint(len(graph)) + graph


def many_sizes() -> bytes:
    tensor = b"\x0a" + _varint(30_000_000) + b"\x01" * 30_000_000
    graph = b"\x2a" + _varint(len(tensor)) + tensor
    return b"\x3a" + _varint(len(graph)) + graph


def _varint(number: int) -> bytes:
    low = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(byte | 128 for byte in low[:-1]), low[-1]])


def frozen(precision: str = "int8") -> bytes:
    folder = "onnx" if precision == "int8" else "onnx_fp32"
    return (FROZEN / folder / "model.onnx").read_bytes()


def two_graphs() -> bytes:
    return frozen() + loop()


def truncated() -> bytes:
    return frozen()[:-3000]


def garbage() -> bytes:
    return random.Random(0).randbytes(1_000_000)


def other_inputs() -> bytes:
    return model([node("Tanh", ["x"])], inputs=[value("x", FLOATS, (HUGE, HUGE))])


def another_output() -> bytes:
    return changed(frozen(), lambda found: found.graph.output.append(value("rows_of_ids")))


def circle() -> bytes:
    return model([node("Tanh", ["b"], "a"), node("Tanh", ["a"], "b"), node("Tanh", ["b"])])


def optional_output() -> bytes:
    """A layer norm that also returns what it saved, twice under one name."""
    found = helper.make_node("Tanh", ["ids"], ["logits", "logits"])
    return model([found])


def tensor_in_an_attribute() -> bytes:
    extra = AttributeProto(name="axis", type=2, i=0)
    extra.t.CopyFrom(TensorProto(dims=[HUGE], data_type=FLOATS))
    return changed(frozen(), lambda found: found.graph.node[1].attribute.append(extra))


GRAPHS: dict[str, Callable[[], bytes]] = {
    "loop": loop,
    "branch": branch,
    "branches in branches": lambda: branch(60),
    "scan": scan,
    "groups in groups": groups_in_groups,
    "constant of a shape": sized("ConstantOfShape", "n", n=np.array([HUGE])),
    "expand": sized("Expand", "x", "n", x=np.float32(1), n=np.array([HUGE])),
    "tile": sized("Tile", "x", "n", x=np.ones(9, np.float32), n=np.array([HUGE])),
    "range": sized("Range", "a", "b", "c", a=np.int64(0), b=np.int64(HUGE), c=np.int64(1)),
    "pad": sized("Pad", "x", "n", x=np.ones(9, np.float32), n=np.array([0, HUGE])),
    "one-hot": sized("OneHot", "ids", "n", "x", n=np.array(HUGE), x=np.ones(2, np.float32)),
    "resize": sized("Resize", "x", "", "n", x=np.ones(9, np.float32), n=np.array([1e12], "f4")),
    "concat chain": concat_chain,
    "outer sums": outer_sums,
    "outer product": outer_product,
    "repeated lookup": repeated_lookup,
    "lengthening lookup": lengthening_lookup,
    "powers of the length": powers_of_the_length,
    "long attention": long_attention,
    "many heads": many_heads,
    "repeated products": repeated_products,
    "weights above": external("../../secret.bin"),
    "weights at an absolute path": external("/dev/zero"),
    "function that calls itself": function_that_calls_itself,
    "custom operator": custom_operator,
    "constant": constant,
    "tensor in an attribute": tensor_in_an_attribute,
    "claimed size": claimed(HUGE),
    "negative size": claimed(-4, -4),
    "overflowing size": claimed(2**62, 4, 2**62),
    "sparse weights": sparse,
    "a million nodes": many_nodes,
    "20 million weights": many_weights,
    "30 million sizes": many_sizes,
    "two graphs": two_graphs,
    "truncated": truncated,
    "garbage": garbage,
    "empty": bytes,
    "other inputs": other_inputs,
    "another output": another_output,
    "circle": circle,
    "output twice": optional_output,
}
