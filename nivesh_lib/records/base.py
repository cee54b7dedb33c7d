"""Records on disk: frozen, validated when they are read, with further fields kept as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nivesh_lib.errors import DataError
from nivesh_lib.files import read_file, write_text
from nivesh_lib.paths import relative

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """Base class. Fields that were not set are not written, so that files hold what is known."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    def changed(self, **fields: Any) -> Self:
        """Return a copy with other values of some fields."""
        return self.model_copy(update=fields)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return self.model_dump(exclude_unset=True)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises
    ------
    DataError
        It is missing, cannot be parsed, or is no object; ``what`` names what it should be.
    """
    try:
        value = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise damaged(path, what, "there is no such file" if missing else str(error)) from None
    if not isinstance(value, dict):
        raise damaged(path, what, "not an object")
    return value


def read_record(path: Path, kind: type[R], what: str) -> R:
    """Return the record in a JSON file; raises DataError like `read_json`."""
    return validated(path, kind, read_json(path, what), what)


def validated(path: Path, kind: type[R], value: dict[str, Any], what: str) -> R:
    """Return the record that was read from ``path``, or raise DataError with its first flaw."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise damaged(path, what, first_flaw(error)) from None


def first_flaw(error: ValidationError) -> str:
    """Return the first field that is wrong, and why."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def damaged(path: Path, what: str, why: str) -> DataError:
    """Return the error of a file that is missing, damaged or of an older version."""
    return DataError(
        f"{relative(path)}: not {what} ({why[:200]}). `nivesh run --force` makes it again"
    )


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; NumPy and pandas values and records become plain ones."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, default=_plain) + "\n")


def plain(value: Any) -> Any:
    """Return a value as it will be read back from JSON."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    for method in ("as_dict", "tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    return str(value)
