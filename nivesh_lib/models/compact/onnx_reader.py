"""Reader of ONNX files that refuses whatever an exported encoder does not hold.

The package ``onnx`` is not part of the core, and general readers of protocol buffers copy the
weights and give every field its own object: a small file would become gigabytes. Here each message
has a table of the few fields that it may have. Everything else is refused, so that ONNX Runtime
cannot read anything that was not checked: subgraphs, functions and external data among it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

# Fields of each message: number -> name and kind (i integer, f float, s text, b bytes, or another
# message); * marks those that may repeat. The names are those of onnx.proto.
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "model": {
        1: ("ir_version", "i"),
        2: ("producer_name", "s"),
        3: ("producer_version", "s"),
        7: ("graph", "graph"),
        8: ("opset_import", "opset*"),
    },
    "opset": {1: ("domain", "s"), 2: ("version", "i")},
    "graph": {
        1: ("node", "node*"),
        2: ("name", "s"),
        5: ("initializer", "tensor*"),
        10: ("doc_string", "s"),
        11: ("input", "value*"),
        12: ("output", "value*"),
    },
    "node": {
        1: ("input", "s*"),
        2: ("output", "s*"),
        3: ("name", "s"),
        4: ("op_type", "s"),
        5: ("attribute", "attribute*"),
        7: ("domain", "s"),
    },
    "attribute": {1: ("name", "s"), 2: ("f", "f"), 3: ("i", "i"), 20: ("type", "i")},
    "tensor": {
        1: ("dims", "i*"),
        2: ("data_type", "i"),
        7: ("int64_data", "i*"),
        8: ("name", "s"),
        9: ("raw_data", "b"),
    },
    "value": {1: ("name", "s"), 2: ("type", "type")},
    "type": {1: ("tensor_type", "tensor_type")},
    "tensor_type": {1: ("elem_type", "i"), 2: ("shape", "shape")},
    "shape": {1: ("dim", "dim*")},
    "dim": {1: ("dim_value", "i"), 2: ("dim_param", "s")},
}
_REFUSED = {
    ("attribute", 5): "a tensor of its own",
    ("attribute", 6): "a subgraph",
    ("attribute", 11): "subgraphs",
    ("graph", 15): "sparse weights",
    ("model", 25): "functions of its own",
    ("tensor", 13): "weights outside the file",
    ("tensor", 14): "weights outside the file",
}
_WIRE = {"i": 0, "f": 5}  # of the encoding; anything else has a length and is 2
_NOTHING = memoryview(b"")
_EMPTY = {"i": 0, "f": 0.0, "s": "", "b": _NOTHING}
_MAX_FIELDS = 20_000  # in the whole file; an encoder of 24 layers has about 10,000


def read_onnx(content: bytes) -> dict[str, Any]:
    """Return the model in an ``.onnx`` file as nested dicts; weights are views of ``content``.

    Singular fields that are absent are 0 or empty.

    Raises
    ------
    ValueError
        The file is damaged or holds something that no exported encoder has.
    """
    return _Reader().message(memoryview(content), "model")


class _Reader:
    def __init__(self) -> None:
        self._left = _MAX_FIELDS

    def message(self, data: memoryview, name: str) -> dict[str, Any]:
        """Return the fields of one message."""
        table = _MESSAGES[name]
        found: dict[str, Any] = {
            field: [] if kind.endswith("*") else _EMPTY.get(kind) for field, kind in table.values()
        }
        seen = set()
        for number, wire, value in self._fields(data):
            if number not in table:
                what = _REFUSED.get((name, number), f"field {number} of a message {name!r}")
                raise ValueError(f"it holds {what}, which no exported model has")
            field, kind = table[number]
            if wire != _WIRE.get(kind[0], 2) and not (kind == "i*" and wire == 2):
                raise ValueError(f"field {field!r} of a message {name!r} has a wrong encoding")
            if kind == "i*":
                found[field] += [value] if isinstance(value, int) else self._packed(value)
            elif kind.endswith("*"):
                found[field].append(self._value(value, kind[:-1]))
            elif number in seen:  # other readers would merge both or take either
                raise ValueError(f"a message {name!r} has two fields {field!r}")
            else:
                found[field] = self._value(value, kind)
            seen.add(number)
        for field, kind in table.values():
            if found[field] is None:  # a message that is absent
                found[field] = self.message(_NOTHING, kind)
        return found

    def _value(self, value: Any, kind: str) -> Any:
        if kind in "ib":
            return value
        if kind == "f":
            return struct.unpack("<f", value)[0]
        if kind == "s":
            return str(value, "utf-8")
        return self.message(value, kind)

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int, Any]]:
        """Yield number, wire type and value of the fields of a message, in order."""
        at = 0
        while at < len(data):
            self._count()
            key, at = _varint(data, at)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = _varint(data, at)
                yield number, wire, _signed(value)
                continue
            size = {1: 8, 5: 4}.get(wire)
            if wire == 2:
                size, at = _varint(data, at)
            if size is None or size > len(data) - at:
                raise ValueError("the file is damaged or cut short")
            yield number, wire, data[at : at + size]
            at += size

    def _packed(self, data: memoryview) -> list[int]:
        numbers, at = [], 0
        while at < len(data):
            self._count()
            number, at = _varint(data, at)
            numbers.append(_signed(number))
        return numbers

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it has more than {_MAX_FIELDS:,} fields")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return an integer of seven bits a byte, lowest first, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise ValueError("the file is damaged or cut short")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
