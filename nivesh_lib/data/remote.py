"""Data files at a path or a URL: reading and uploading their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nivesh_lib.errors import DataError, MissingExtra, NiveshError
from nivesh_lib.files import read_file

_PACKAGES = {
    "s3": "nivesh-workbench[s3]",
    "gs": "nivesh-workbench[gcs]",
    "gcs": "nivesh-workbench[gcs]",
}


def read_bytes(place: str) -> bytes:
    """Return the bytes of a file by path or URL (``s3://``, ``gs://``, ``file://``, …).

    Raises
    ------
    DataError
        The file cannot be read, or the scheme is unknown.
    MissingExtra
        The package of this kind of store is not installed.
    """
    try:
        if "://" not in place:
            return read_file(Path(place))
        files, path = _store(place)
        return bytes(files.cat_file(path))
    except NiveshError:
        raise
    except Exception as error:  # every remote store has exceptions of its own
        raise DataError(f"{place} cannot be read ({type(error).__name__}: {error}).") from error


def upload(place: str, raw: bytes, *, replace: bool = False) -> None:
    """Write a file to a URL; only with ``replace``, a file with other bytes is overwritten.

    Raises
    ------
    DataError
        The file exists with other bytes, cannot be written, or the scheme is unknown.
    MissingExtra
        The package of this kind of store is not installed.
    """
    try:
        files, path = _store(place)
        # The same bytes are the upload of a publish that was killed afterwards.
        if files.exists(path) and not replace and files.cat_file(path) != raw:
            raise DataError(f"{place} exists and is never edited; publish the next version.")
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        files.pipe_file(path, raw)
    except NiveshError:
        raise
    except Exception as error:
        raise DataError(f"{place} cannot be written ({type(error).__name__}: {error}).") from error


def _store(place: str) -> Any:
    """Return the file system of a URL and the path in it."""
    from fsspec.core import url_to_fs

    scheme = place.split("://")[0]
    try:
        return url_to_fs(place)
    except ImportError as error:
        package = _PACKAGES.get(scheme, f"fsspec[{scheme}]")
        raise MissingExtra(f"{place} needs a package: pip install '{package}'") from error
    except ValueError as error:
        raise DataError(f"{place}: {scheme}:// is no known kind of store.") from error
