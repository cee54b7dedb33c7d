"""Bytes: read from any place, written whole or not at all, whatever kills the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from nivesh_lib.errors import DataError, MissingExtra, NiveshError

_PACKAGES = {
    "s3": "nivesh-workbench[s3]",
    "gs": "nivesh-workbench[gcs]",
    "gcs": "nivesh-workbench[gcs]",
}


def read_bytes(place: str) -> bytes:
    """Read a file by path or URL (``s3://``, ``gs://``, ``file://``, ``memory://``, …)."""
    try:
        if "://" not in place:
            return Path(place).read_bytes()
        files, path = _store(place)
        return bytes(files.cat_file(path))
    except NiveshError:
        raise
    except Exception as error:  # every remote store has exceptions of its own
        raise DataError(f"{place} cannot be read ({type(error).__name__}: {error}).") from error


def upload(place: str, raw: bytes, *, replace: bool = False) -> None:
    """Write a file to a URL."""
    try:
        files, path = _store(place)
        # The same bytes are what a publish that was killed had uploaded.
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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one writer; the lock leaves no file and ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextlib.contextmanager
def new_file(target: Path, *, replace: bool = False) -> Iterator[TextIO]:
    """Open a text file that appears under its name when the block ends, and only if it ends well.

    Raises
    ------
    DataError
        There is such a file and ``replace`` is off, its folder cannot be written, or the disk is
        full.
    """
    if target.is_symlink():
        if not target.exists():
            raise DataError(f"{target} is a link that leads nowhere; name another file.")
        target = target.resolve()  # a rename would put a file in the place of the link
    if target.exists() and not target.is_file():  # a rename would put a file in its place
        raise DataError(f"{target} is no regular file; name another one.")
    if target.exists() and not replace:
        raise DataError(f"{target} exists; name another file or add --overwrite.")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}.") from error
    try:
        with file:
            yield file
        _sync(partial)
        if replace:
            partial.replace(target)
        else:
            _put_new(partial, target)
        _sync(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # which names no file
            raise DataError(f"{target} cannot be written: {error.strerror}.") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _put_new(partial: Path, target: Path) -> None:
    """Give a file its name, unless another has taken it meanwhile; then nothing is lost."""
    try:
        os.link(partial, target)
    except FileExistsError:
        kept = target.with_name(f"{target.name}.{os.getpid()}")
        partial.replace(kept)
        raise DataError(f"{target} appeared meanwhile and stays; this went to {kept}.") from None
    except OSError:  # a file system without links
        partial.replace(target)


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder with these files: written beside it, synced, then renamed.

    A folder that is there is replaced. The caller holds the lock.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".new-{target.name}-", dir=target.parent))
    old = target.with_name(f".old-{target.name}")
    try:
        temporary.chmod(0o755)
        for name, raw in files.items():
            (temporary / name).write_bytes(raw)
            _sync(temporary / name)
        _sync(temporary)
        if target.exists():  # killed between the renames, clear_leftovers puts it back
            target.rename(old)
        temporary.rename(target)
        _sync(target.parent)
    finally:
        clear_leftovers(target.parent)


def clear_leftovers(folder: Path) -> None:
    """Undo what a killed ``write_folder`` left behind. The caller holds the lock."""
    for old in folder.glob(".old-*"):
        target = old.with_name(old.name.removeprefix(".old-"))
        if not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    for new in folder.glob(".new-*"):
        shutil.rmtree(new, ignore_errors=True)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
