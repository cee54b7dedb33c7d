"""JSON records that runs leave behind: whoever reads one takes it whole and sound, or not at all.

Run directories outlive the code that wrote them and can be edited by hand, so that
a file may parse and still hold something else.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from nivesh_lib.errors import DataError
from nivesh_lib.files import read_file

NUMBER = int | float


def fits(value: Any, shape: Any) -> bool:
    """Return whether a value of JSON or TOML has a shape.

    A shape is a type, ``[shape of each item]``, ``{"*": shape of each value}``, or
    ``{key: shape}``, where a key that ends in ``?`` may be absent and all other keys of
    the value are free.

    Examples
    --------
    >>> fits({"step": "a", "files": ["x"]}, {"step": str, "files": [str], "why?": str})
    True
    """
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if not isinstance(shape, dict):
        return isinstance(value, shape)
    if not isinstance(value, dict):
        return False
    if "*" in shape:
        return all(fits(item, shape["*"]) for item in value.values())
    return all(
        fits(value[name], inner) if (name := key.removesuffix("?")) in value else key != name
        for key, inner in shape.items()
    )


def read_object(path: Path, shape: Any = dict) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None where there is none of that shape."""
    try:
        value = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return None
    return value if fits(value, shape) and isinstance(value, dict) else None


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file that a person writes, none where there is no such file.

    Raises
    ------
    DataError
        The file is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Mend the TOML") from None
