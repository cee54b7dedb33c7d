from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models.compact.onnx_check import check_onnx
from nivesh_lib.models.compact.onnx_reader import read_onnx
from tests.models.compact import hostile_graphs

# Loads every directory that it is given; prints for each what it said and the seconds that it took.
LOAD_ALL = """
import json, resource, sys, time
from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import load_model
told = []
for directory in sys.argv[1:]:
    start = time.monotonic()
    try:
        said = f"loaded {load_model(directory)!r}"
    except ModelError as error:
        said = str(error)
    told.append([said, time.monotonic() - start])
print(json.dumps([told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def test_every_hostile_graph_is_refused_at_once_and_in_little_memory(tmp_path):
    names = list(hostile_graphs.GRAPHS)
    folders = [
        hostile_graphs.hostile_model(tmp_path / str(n), hostile_graphs.GRAPHS[name]())
        for n, name in enumerate(names)
    ]
    command = [sys.executable, "-c", LOAD_ALL, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    told, gigabytes = json.loads(done.stdout)
    for name, folder, (said, seconds) in zip(names, folders, told, strict=True):
        assert said.startswith(f"{folder / 'model.onnx'}: this graph is refused: "), (name, said)
        assert seconds < 5, name
    assert gigabytes < 2


def test_a_graph_for_short_texts_alone_is_refused():
    content = hostile_graphs.powers_of_the_length(5)
    check_onnx(Path("model.onnx"), content, (12, 20), 32)
    with pytest.raises(ModelError, match=r"node \d+ \('Add' ''\).*values up to here are 6.9e\+10"):
        check_onnx(Path("model.onnx"), content, (12, 20), 512)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_exported_graphs_pass_with_room_to_spare(precision):
    check_onnx(Path("model.onnx"), hostile_graphs.frozen(precision), (12, 500), 500)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_file_is_read_as_the_package_onnx_reads_it(precision):
    content = hostile_graphs.frozen(precision)
    found, expected = read_onnx(content)["graph"], onnx.load_from_string(content).graph
    assert [node["op_type"] for node in found["node"]] == [node.op_type for node in expected.node]
    for tensor, other in zip(found["initializer"], expected.initializer, strict=True):
        assert (tensor["name"], tensor["dims"]) == (other.name, list(other.dims))
        assert tensor["raw_data"] == other.raw_data
        assert tensor["int64_data"] == list(other.int64_data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x08", "damaged"),  # a number is missing
        (b"\x08" + b"\xff" * 10, "damaged"),  # a number without end
        (b"\x3a\x05\x0a", "damaged"),  # five bytes are promised, one is there
        (b"\x3b\x3c", "damaged"),  # a group
        (b"\x0d\0\0\0\0", "wrong encoding"),
        (b"\x08\x08\x08\x09", "two fields 'ir_version'"),
        (b"\xca\x01\x00", "functions of its own"),
        (b"\x12\x01\xff", "utf-8"),
    ],
)
def test_a_damaged_file_is_refused(content, message):
    with pytest.raises(ModelError, match=rf"model.onnx: this graph is refused.*{message}"):
        check_onnx(Path("model.onnx"), content, (1, 1), 1)
