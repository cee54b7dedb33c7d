"""A model directory: its files, which this module alone resolves, measures and opens, and its card.

A directory that somebody else wrote may hold links, devices, pipes, files of a terabyte or names
that lead elsewhere. All are refused before anything is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nivesh_lib.errors import ModelError
from nivesh_lib.files import sha256_file

MAX_MODEL_BYTES = 5 * 2**28  # of all files: an encoder of 330 million parameters
MAX_ENTRIES = 1_000  # files and folders
MAX_CARD_BYTES = 16 * 2**20  # of model.json; ten thousand classes take a quarter
MAX_JSON_BYTES = 32 * 2**20  # of any other file that is read whole into Python objects
MAX_CONTAINERS = 1_000_000  # lists and objects in a file of JSON
MAX_TENSOR_BYTES = 2**29  # of a file of tensors that numpy copies
MAX_DEPTH = 8  # of models inside each other
MAX_MEMBERS = 24  # models in a model directory, at any depth
_MAX_SHOWN = 500  # characters of a path in a message
_MAX_HEADER_BYTES = 4 * 2**20  # of safetensors; a thousand tensors take a tenth of a megabyte

# The registry: kind -> "module:Class".
MODELS = {
    "rules": "nivesh_lib.models.text.rules:RulesClassifier",
    "tfidf": "nivesh_lib.models.text.tfidf:TfidfClassifier",
    "lstm": "nivesh_lib.models.neural.lstm:LstmClassifier",
    "embedding": "nivesh_lib.models.neural.embedding:EmbeddingClassifier",
    "transformer": "nivesh_lib.models.neural.transformer:TransformerClassifier",
    "onnx": "nivesh_lib.models.compact.onnx_classifier:OnnxClassifier",
    "static": "nivesh_lib.models.compact.static:StaticClassifier",
    "ensemble": "nivesh_lib.models.wrappers.ensemble:EnsembleClassifier",
    "calibrated": "nivesh_lib.models.wrappers.selective:Calibrated",
    "abstaining": "nivesh_lib.models.wrappers.selective:Abstaining",
    "cascade": "nivesh_lib.models.wrappers.cascade:Cascade",
}
# Kinds of earlier releases that are no longer loaded -> what to use instead.
_REMOVED = {
    "onnx_tfidf": "train a tfidf model again; it is faster",
    "quantized": "train a transformer again and export it with OnnxClassifier.of (int8)",
    "remembering": "load the model in its folder 'model'",
}
FORMAT = 1
_SAFE_SUFFIXES = {".json", ".safetensors", ".onnx", ".txt"}


def model_file(directory: Path, name: str, *, links: bool = False) -> Path:
    """Return the path of a regular file inside a model directory.

    The directory itself may be reached through a link; nothing below it may be one.

    Parameters
    ----------
    directory : path
        The model directory.
    name : str
        A relative POSIX path, without ``.`` and ``..``.
    links : bool
        Follow links to regular files: of the backbones that a person names, those in the model
        hub's cache are made of links.

    Raises
    ------
    ModelError
        The name leads out of the directory, or to a link, or to no regular file.
    """
    path, status = _inside(directory, name, links=links)
    refuse_special(path, status)
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{shown(path)}: a folder, where a file is expected. Save the model again")
    return path


def member_directory(directory: Path, name: str) -> Path:
    """Return the path of a model directory inside another one; ``name`` as in `model_file`.

    Raises
    ------
    ModelError
        The name leads out of the directory, or to a link, or to no directory.
    """
    path, status = _inside(directory, name)
    if not stat.S_ISDIR(status.st_mode):
        raise ModelError(f"{shown(path)}: no folder, so it holds no model. Save the model again")
    return path


def model_files(directory: Path) -> dict[str, int]:
    """Return the relative POSIX path and the size of every file below a model directory, sorted.

    Raises
    ------
    ModelError
        Something in it is a link, device or pipe, or there is too much in it.
    OSError
        A folder cannot be listed.
    """
    sizes: dict[str, int] = {}
    folders, entries = [""], 0
    while folders:
        folder = folders.pop()
        with os.scandir(directory / folder) as found:
            for entry in found:
                name, status = f"{folder}{entry.name}", entry.stat(follow_symlinks=False)
                refuse_special(directory / name, status)
                if stat.S_ISDIR(status.st_mode):
                    folders.append(f"{name}/")
                else:
                    sizes[name] = status.st_size
                entries += 1
                if entries > MAX_ENTRIES:
                    raise ModelError(
                        f"{directory}: holds more than {MAX_ENTRIES:,} files and folders; no "
                        "model does. Pass a directory that `save` wrote"
                    )
    size = sum(sizes.values())
    if size > MAX_MODEL_BYTES:
        raise ModelError(
            f"{directory}: its files have {size:,} bytes, and a model at most {MAX_MODEL_BYTES:,}. "
            "Take a smaller backbone or fewer members"
        )
    return dict(sorted(sizes.items()))


def read_bytes(
    directory: Path, name: str, *, limit: int = MAX_JSON_BYTES, links: bool = False
) -> bytes:
    """Return the content of a file of at most ``limit`` bytes; ``links`` as in `model_file`.

    Raises
    ------
    ModelError
        See `model_file`; or the file is larger.
    """
    path = model_file(directory, name, links=links)
    refuse_long(path, limit)
    return path.read_bytes()


def read_json(
    directory: Path, name: str, *, limit: int = MAX_JSON_BYTES, links: bool = False
) -> Any:
    """Return what a JSON file of at most ``limit`` bytes holds; ``links`` as in `model_file`.

    Raises
    ------
    ModelError
        See `read_bytes`; or the file is no JSON, or nested too deeply.
    """
    try:
        return parsed(read_bytes(directory, name, limit=limit, links=links))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{shown(directory / name)}: not JSON ({error}). Save the model again"
        ) from None


def parsed(content: bytes) -> Any:
    """Return the value of JSON.

    Raises
    ------
    ValueError
        It is no JSON, or has more lists and objects than `MAX_CONTAINERS`: a byte of each takes a
        hundred in memory.
    RecursionError
        It is nested too deeply.
    """
    if content.count(b"[") + content.count(b"{") > MAX_CONTAINERS:
        raise ValueError(f"more than {MAX_CONTAINERS:,} lists and objects")
    return json.loads(content)


def read_tensors(directory: Path, name: str) -> dict[str, Any]:
    """Return the tensors of a safetensors file as NumPy arrays.

    Raises
    ------
    ModelError
        See `tensor_shapes`; or the file is larger than `MAX_TENSOR_BYTES`.
    """
    refuse_long(model_file(directory, name), MAX_TENSOR_BYTES)
    return {key: read_tensor(directory, name, key) for key in tensor_shapes(directory, name)}


def read_tensor(directory: Path, name: str, key: str, *, framework: str = "numpy") -> Any:
    """Return one tensor of a safetensors file, which may be a link, as ``numpy`` or ``pt`` array.

    Raises
    ------
    ModelError
        See `model_file`; or the file is no safetensors.
    """
    from safetensors import SafetensorError, safe_open

    path = model_file(directory, name, links=True)
    try:
        with safe_open(path, framework=framework) as tensors:
            return tensors.get_tensor(key)
    except SafetensorError as error:
        raise ModelError(
            f"{shown(path)}: not safetensors ({error}). Save the model again"
        ) from None


def tensor_shapes(directory: Path, name: str, *, links: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a safetensors file; ``links`` as in `model_file`.

    Raises
    ------
    ModelError
        See `model_file`; or the file is no safetensors, or its header is too long.
    """
    path = model_file(directory, name, links=links)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        header = json.loads(text)
        return {
            str(key): tuple(map(int, tensor["shape"]))
            for key, tensor in header.items()
            if key != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(f"{shown(path)}: not safetensors. Save the model again") from None


def refuse_long(path: Path, limit: int = MAX_JSON_BYTES) -> None:
    """Raise ModelError where a file has more than ``limit`` bytes."""
    size = path.stat().st_size
    if size > limit:
        raise ModelError(
            f"{shown(path)}: has {size:,} bytes, at most {limit:,} are read. Save the model again"
        )


def refuse_special(path: Path, status: os.stat_result) -> None:
    """Raise ModelError for what is neither a regular file nor a folder."""
    if stat.S_ISLNK(status.st_mode):
        raise ModelError(
            f"{shown(path)}: a link, which is refused inside a model. Put the file itself there"
        )
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ModelError(
            f"{shown(path)}: a device or pipe, refused inside a model. Save the model again"
        )


def shown(path: Path) -> str:
    """Return a path for a message: in one line, without escape sequences, and not endless."""
    text = str(path) if str(path).isprintable() else ascii(str(path))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _inside(directory: Path, name: str, *, links: bool = False) -> tuple[Path, os.stat_result]:
    """Return the path of what a name leads to below a directory, and its status."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    # "/".join differs for "", ".", "a//b", "a/", "./a" and absolute paths.
    if not parts or name != "/".join(parts) or ".." in parts:
        raise ModelError(f"{directory}: {name!a} is refused, it lies outside the model")
    path = directory
    try:
        for part in parts:
            path /= part
            status = path.stat() if links else path.lstat()
            if not links and stat.S_ISLNK(status.st_mode):
                refuse_special(path, status)
    except FileNotFoundError:
        raise ModelError(
            f"{shown(directory / name)} is missing. Copy the whole directory again"
        ) from None
    except (OSError, ValueError) as error:  # the latter: no name of any file
        why = getattr(error, "strerror", None) or str(error)
        raise ModelError(
            f"{shown(path)}: cannot be read ({why}). Copy the whole directory again"
        ) from None
    return path, status


# --- the card -----------------------------------------------------------------------------------


def card_sha256(card: Mapping[str, Any], *left_out: str) -> str:
    """Return the SHA-256 of a card without its own checksum and without keys ``left_out``."""
    content = {key: card[key] for key in card if key not in ("sha256", *left_out)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def model_hash(model: Mapping[str, Any] | Path | str) -> str:
    """Return the identity of a saved model, a SHA-256.

    It covers ``model.json``, and with it the hashes of all files, except ``about``: the same
    weights trained in another run are the same model.

    Parameters
    ----------
    model : mapping or path
        A card that `read_card` or `base.load_with_card` returned, or a model directory.

    Raises
    ------
    ModelError
        See `read_card`.
    """
    card = model if isinstance(model, Mapping) else read_card(model)
    return card_sha256(card, "about")


def read_card(directory: Path | str) -> dict[str, Any]:
    """Return ``model.json`` of a model directory after verifying every file's hash.

    Raises
    ------
    ModelError
        The directory is missing, incomplete or altered, its kind is unknown or no longer
        supported, or it holds something that could run code when loaded, a link, or too much.
    """
    folder = Path(directory)
    card = unchecked_card(folder)
    _check_files(folder, card["files"])
    return card


def unchecked_card(folder: Path) -> dict[str, Any]:
    """Return ``model.json`` after checking it alone, without the files that it lists."""
    path = folder / "model.json"
    if not path.exists() and not path.is_symlink():
        raise ModelError(f"{folder}: no model.json here. Pass a directory that `save` wrote")
    content = read_bytes(folder, path.name, limit=MAX_CARD_BYTES)
    try:
        card = parsed(content)
        kind, files, recorded = str(card["kind"]), dict(card["files"]), card["sha256"]
        actual = card_sha256(card)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a model description ({error}). Save it again") from None
    if kind in _REMOVED:
        raise ModelError(
            f"{folder}: models of kind {kind!r} are no longer supported; {_REMOVED[kind]}"
        )
    if card.get("format") != FORMAT or kind not in MODELS:
        raise ModelError(
            f"{path}: kind {kind!r} in format {card.get('format')!r} is not known here"
        )
    if recorded != actual:
        raise ModelError(f"{path}: changed since it was saved. Save the model again")
    return card | {"files": files}


def _check_files(folder: Path, files: dict[str, str]) -> None:
    try:
        present = set(model_files(folder)) - {"model.json"}
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror})") from error
    check_members(folder, present)
    for name in sorted(present | set(files)):
        where = shown(folder / name)
        if PurePosixPath(name).suffix not in _SAFE_SUFFIXES:
            raise ModelError(f"{where}: this kind of file is refused, it could run code")
        path = model_file(folder, name)  # says what is wrong with the name
        if name not in files:
            raise ModelError(f"{where}: not listed in model.json. Remove it or save again")
        try:
            same = sha256_file(path) == files[name]
        except OSError as error:
            raise ModelError(f"{where}: cannot be read ({error.strerror})") from error
        if not same:
            raise ModelError(f"{where}: changed since it was saved. Save the model again")


def check_members(folder: Path, names: Iterable[str]) -> None:
    """Raise ModelError where a model holds more models, or deeper ones, than any that we make."""
    members = [PurePosixPath(name).parts for name in names if name.endswith("/model.json")]
    deepest = max((len(parts) - 1 for parts in members), default=0)
    if deepest > MAX_DEPTH or len(members) > MAX_MEMBERS:
        raise ModelError(
            f"{folder}: holds {len(members)} models, up to {deepest} inside each other; at most "
            f"{MAX_MEMBERS} and {MAX_DEPTH} are loaded. Load one of them alone"
        )
