"""Folders in the model hub's format: what is checked before transformers reads one.

transformers runs code that such a folder names, follows paths in it, and allocates what its
numbers ask for. Saved models and the backbones that a person names are checked alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nivesh_lib.errors import ModelError
from nivesh_lib.models.directory import (
    model_file,
    read_json,
    refuse_long,
    refuse_special,
    tensor_shapes,
)

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # of weights in several files
_SETTINGS = (CONFIG, "tokenizer_config.json")
_MAX_SETTINGS_BYTES = 4 * 2**20
_ADAPTER = "adapter_config.json"  # names a model elsewhere
# Keys of settings that name code or files.
_REFUSED_KEYS = {
    "auto_map": "names code to run",
    "transformers_weights": "names another file of weights",
    "quantization_config": "asks for weights of another format",
}
# Text encoders, all of one shape: embeddings, a stack of equal layers, and a head.
# fmt: off
_MODEL_TYPES = {
    "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta",
    "deberta-v2", "distilbert", "electra", "ernie", "eurobert", "flaubert", "ibert",
    "jina_embeddings_v3", "longformer", "megatron-bert", "mobilebert", "modernbert", "mpnet",
    "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roformer",
    "splinter", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}
# fmt: on
# Largest numbers of a config.json by what their names contain; the last is for all others.
_LARGEST = (
    (re.compile("layers|groups?(_|$)|networks|blocks|langs"), 128),
    (re.compile("position"), 16_384),
    (re.compile(""), 2**20),
)
_SPARE_PARAMETERS = 2**22  # of new heads and poolers, which a checkpoint need not hold
# Steps of tokenizer.json, each of which may make a text longer, and the lengths of their texts and
# lists: the inserted text of a replacement, a table of characters, and all others.
_STEPS = ("normalizer", "pre_tokenizer", "post_processor")
_MAX_STEPS = 8
_MAX_LENGTHS = {"content": 1, "prepend": 1, "precompiled_charsmap": 2**20}
_MAX_LENGTH = 1_000
_MAX_ADDED_TOKENS = 10_000


def check_checkpoint(folder: Path) -> None:
    """Check the files of a folder that transformers is about to read.

    Raises
    ------
    ModelError
        One is missing, too long or no regular file, names code or files, is of an unknown
        architecture, or has numbers out of range.
    """
    for path in folder.iterdir():
        if path.exists():
            refuse_special(path, path.stat())
        if path.name == _ADAPTER:
            raise ModelError(f"{path}: refused, it names another model. Merge both and save again")
        if path.name.startswith(("tokenizer", "special_tokens", "added_tokens", "vocab", "merges")):
            refuse_long(path)
    model_file(folder, CONFIG, links=True)
    weight_names(folder)
    for name in _SETTINGS:
        if (folder / name).exists():
            settings = read_json(folder, name, limit=_MAX_SETTINGS_BYTES, links=True)
            _check_settings(folder / name, settings)
    if (folder / "tokenizer.json").exists():
        content = read_json(folder, "tokenizer.json", links=True)
        check_tokenizer(content, str(folder / "tokenizer.json"))


def weight_names(folder: Path) -> list[str]:
    """Return the names of the files of weights: one, or those that an index lists.

    Raises
    ------
    ModelError
        There is none, or the index is damaged or lists something outside the folder.
    """
    names = [WEIGHTS]
    if (folder / INDEX).exists():
        index = read_json(folder, INDEX, links=True)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not places:
            raise ModelError(f"{folder / INDEX}: no index of weights. Save the model again")
        names = sorted(set(map(str, places.values())))
    for name in names:
        model_file(folder, name, links=True)
    return names


def _check_settings(path: Path, settings: Any) -> None:
    """Check the content of ``config.json`` or ``tokenizer_config.json``."""
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: not a JSON object. Save the model again")
    # Labels may have any name.
    named = {key: settings[key] for key in settings if key not in ("label2id", "id2label")}
    for key, value in _items(named):
        if key in _REFUSED_KEYS and value is not None:
            raise ModelError(
                f"{path}: {key} {_REFUSED_KEYS[key]}, which is refused. Use a model that "
                "transformers itself knows, with its own weights"
            )
    if path.name != CONFIG:
        return
    if str(settings.get("model_type")) not in _MODEL_TYPES:
        raise ModelError(
            f"{path}: model_type {settings.get('model_type')!r} is no text encoder that is loaded "
            f"here; there are: {', '.join(sorted(_MODEL_TYPES))}"
        )
    for key, value in _items(named):
        largest = next(bound for pattern, bound in _LARGEST if pattern.search(key))
        if isinstance(value, int) and abs(value) > largest:
            raise ModelError(
                f"{path}: {key} {value} is out of range, at most {largest:,}. Save the model again"
            )


def check_tokenizer(content: Any, place: str = "tokenizer.json") -> None:
    """Check the content of ``tokenizer.json``: a few steps could make a short text fill memory.

    Raises
    ------
    ModelError
        It has more steps than tokenizers of encoders have, or one that makes texts much longer.
        The message names its ``place``.
    """
    if not isinstance(content, dict) or len(content.get("added_tokens") or ()) > _MAX_ADDED_TOKENS:
        raise ModelError(f"{place}: no JSON object, or too many tokens. Save the model again")
    for part in _STEPS:
        steps = 0
        for key, value in _items(content.get(part)):
            steps += key == "type"
            if steps > _MAX_STEPS:
                raise ModelError(f"{place}: more than {_MAX_STEPS} steps of {part} are refused")
            longest = _MAX_LENGTHS.get(key, _MAX_LENGTH)
            if isinstance(value, str | list | dict) and len(value) > longest:
                raise ModelError(
                    f"{place}: {part} has an entry of length {len(value):,}, which is refused "
                    f"over {longest:,}"
                )


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value, at any depth; those of a list have the key of the list."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting += [(str(name), part) for name, part in value.items()]
        elif isinstance(value, list):
            waiting += [(key, part) for part in value]


def check_size(folder: Path, config: Any) -> None:
    """Compare the parameters that a configuration asks for with those of the file of weights.

    Raises
    ------
    ModelError
        It asks for several times as many: transformers would allocate and initialise them all.
    """
    import torch
    from transformers import AutoModel

    files = [tensor_shapes(folder, name, links=True) for name in weight_names(folder)]
    held = sum(math.prod(shape) for shapes in files for shape in shapes.values())
    with torch.device("meta"):  # allocates nothing
        model = AutoModel.from_config(config, trust_remote_code=False, attn_implementation="eager")
    asked = sum(parameter.numel() for parameter in model.parameters())
    if asked > 2 * held + _SPARE_PARAMETERS:
        raise ModelError(
            f"{folder}: {CONFIG} asks for {asked:,} parameters and its weights are {held:,}. "
            "Save the model again"
        )
