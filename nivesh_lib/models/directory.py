"""The files of a model directory: this module alone resolves, measures and opens them."""

from __future__ import annotations

import json
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from nivesh_lib.errors import ModelError

MAX_JSON_BYTES = 32 * 2**20  # of a file that is read whole into Python objects
_MAX_HEADER_BYTES = 4 * 2**20  # of safetensors; a thousand tensors take a tenth of a megabyte


def model_file(directory: Path, name: str) -> Path:
    """Return the path of a regular file inside a model directory.

    The directory itself may be reached through a link; nothing below it may be one.

    Parameters
    ----------
    directory : path
        The model directory.
    name : str
        A relative POSIX path, without ``.`` and ``..``.

    Raises
    ------
    ModelError
        The name leads out of the directory, or to a link, or to no regular file.
    """
    path = _inside(directory, name)
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ModelError(f"{path}: not a regular file, so it is refused. Save the model again")
    return path


def member_directory(directory: Path, name: str) -> Path:
    """Return the path of a model directory inside another one; ``name`` as in `model_file`.

    Raises
    ------
    ModelError
        The name leads out of the directory, or to a link, or to no directory.
    """
    path = _inside(directory, name)
    if not path.is_dir():
        raise ModelError(f"{path}: not a directory, so it holds no model. Save the model again")
    return path


def read_bytes(directory: Path, name: str, *, limit: int | None = None) -> bytes:
    """Return the content of a file, of at most ``limit`` bytes; see `model_file`.

    Raises
    ------
    ModelError
        See `model_file`; or the file is larger.
    """
    path = model_file(directory, name)
    size = path.stat().st_size
    if limit is not None and size > limit:
        raise ModelError(
            f"{path}: has {size:,} bytes, at most {limit:,} are read. Save the model again"
        )
    return path.read_bytes()


def read_json(directory: Path, name: str) -> Any:
    """Return what a JSON file of at most `MAX_JSON_BYTES` holds; see `model_file`.

    Raises
    ------
    ModelError
        See `read_bytes`; or the file is no JSON, or nested too deeply.
    """
    try:
        return json.loads(read_bytes(directory, name, limit=MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{directory / name}: not JSON ({error}). Save the model again") from None


def read_tensors(directory: Path, name: str, *, framework: str = "numpy") -> dict[str, Any]:
    """Return the tensors of a safetensors file, as ``numpy`` arrays or those of ``pytorch``.

    Raises
    ------
    ModelError
        See `model_file`; or the file is no safetensors, or its header is too large.
    """
    from safetensors import SafetensorError, safe_open

    path = model_file(directory, name)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > _MAX_HEADER_BYTES:
        raise ModelError(f"{path}: its header is too large, {header:,} bytes. Save the model again")
    try:
        with safe_open(path, framework=framework) as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path}: not safetensors ({error}). Save the model again") from None


def _inside(directory: Path, name: str) -> Path:
    """Return the path of what a name leads to, below a directory and through no link."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    # "/".join differs for "", ".", "a//b", "a/", "./a" and absolute paths.
    if not parts or name != "/".join(parts) or ".." in parts:
        raise ModelError(f"{directory}: {name!r} is refused, it lies outside the model")
    path = directory
    for part in parts:
        path /= part
        try:
            mode = path.lstat().st_mode
        except (OSError, ValueError) as error:  # the latter: no name of any file
            why = getattr(error, "strerror", None) or str(error)
            raise ModelError(
                f"{directory}: {name!r} cannot be read ({why}). Copy the whole directory again"
            ) from None
        if stat.S_ISLNK(mode):
            raise ModelError(
                f"{path}: a link, which is refused inside a model. Put the file itself there"
            )
    return path
