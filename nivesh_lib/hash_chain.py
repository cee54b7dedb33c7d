"""Append-only files of JSON lines, each chained to a line above it by that line's SHA-256.

Each line holds, as ``previous``, the SHA-256 of a line above it, which is also that line's ``id``:
a line that was edited, removed or moved no longer fits the lines below. Lines removed at the end
leave no such trace, so every line that is committed in git must be there too. Each line says as
``git`` with which commit the file was compared before it was appended, or why with none.

Two branches may both have appended. Their lines follow the same one, and ``.gitattributes`` makes
git keep both when they are merged.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import DataError
from nivesh_lib.files import locked, sync, write_errors
from nivesh_lib.records.schema import fits
from nivesh_lib.reproducibility import committed, git_standing

START = "0" * 64  # ``previous`` of the first line
_LARGEST = 64 * 2**20  # bytes: more is none of these files
Entry = dict[str, Any]


def _nothing(entry: Entry, above: list[Entry]) -> str:
    return ""


@dataclass(frozen=True)
class HashChain:
    """A chained file. ``noun`` names it in errors, ``kept`` says what stays when it is restored.

    ``shapes`` are those of the entries of each kind, as `records.schema.fits` takes them;
    ``objection`` says why an entry cannot stand below those above it, or nothing; it ends with a
    full stop where it says what to do, too.
    """

    path: Path
    noun: str
    shapes: Mapping[str, Any]
    kept: str
    objection: Callable[[Entry, list[Entry]], str] = _nothing

    def read(self) -> list[Entry]:
        """Return the verified entries, oldest first, each with its ``id``.

        Raises
        ------
        DataError
            A line was edited, removed, moved or cut short, or the file cannot be read or is none
            of its own.
        """
        try:
            # The lock: not while a line is half written.
            with self._opened(os.O_RDONLY) as file, locked(self.path, shared=True):
                raw = file.readall()
        except FileNotFoundError:
            raw = b""
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}.") from error
        return self.verified(raw)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the verified file for one writer; the lock ends with the process.

        Raises
        ------
        DataError
            As `read`, or the file cannot be written.
        """
        with write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._opened(os.O_RDWR | os.O_APPEND | os.O_CREAT)
        with file, locked(self.path):
            yield Writer(self, file)

    def verified(self, raw: bytes) -> list[Entry]:
        """Return the entries in the bytes of the file, or raise DataError with the first flaw."""
        entries: list[Entry] = []
        seen = {START}
        lines = raw.removesuffix(b"\n").split(b"\n") if raw else []
        for number, line in enumerate(lines, start=1):
            place = f"{self.path}, line {number}"
            entry = self.parsed(place, line)
            why = self.objection(entry, entries)
            if entry["previous"] not in seen:
                why = "does not follow from the lines above it, so one was edited, removed or moved"
            elif entry["id"] in seen:
                why = "is there twice"
            if why:
                remedy = "" if why.endswith(".") else f". {self._restore()}"
                raise DataError(f"{place}: {why}{remedy}")
            seen.add(entry["id"])
            entries.append(entry)
        self._check_committed(seen)
        return entries

    def _opened(self, flags: int) -> io.FileIO:
        """Open the file, which is a regular one of one name, without waiting for anything."""
        if self.path.is_symlink():
            raise self._none("a link")
        number = os.open(self.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        file = os.fstat(number)
        kinds = {
            "no regular file": not stat.S_ISREG(file.st_mode),
            "one of several names of a file": file.st_nlink > 1,  # another one may be written to
            f"too large for a {self.noun}": file.st_size > _LARGEST,
        }
        if found := [kind for kind, holds in kinds.items() if holds]:
            os.close(number)
            raise self._none(found[0])
        return io.FileIO(number, "r+" if flags & os.O_RDWR else "r")

    def _none(self, kind: str) -> DataError:
        return DataError(
            f"{self.path} cannot be written or read: it is {kind}. Put a file with its lines in "
            f"its place, such as the committed one: `git checkout -- {paths.relative(self.path)}`."
        )

    def parsed(self, place: str, line: bytes) -> Entry:
        """Return the entry in a line, or raise DataError, which names its place."""
        entry: Any = None
        try:
            # As text, since bytes may be taken for UTF-16; no line ends in a carriage return.
            if b"\r" not in line:
                entry = json.loads(line.decode())
        except (ValueError, RecursionError):
            pass  # it is none
        known = fits(entry, {"kind": str, "previous": str}) and entry["kind"] in self.shapes
        if not known or not fits(entry, self.shapes[entry["kind"]]):
            raise DataError(
                f"{place}: is no entry of the {self.noun}, edited or cut short. Look at it with "
                "`git diff` and restore it with git; a piece of a line at the end may be deleted."
            )
        return {**entry, "id": _sha256(line)}

    def _check_committed(self, ids: set[str]) -> None:
        lines = committed(self.path).splitlines()
        gone = [number for number, line in enumerate(lines, start=1) if _sha256(line) not in ids]
        if gone:
            raise DataError(
                f"{self.path}: line {gone[0]} of the committed file is edited or gone. "
                f"{self._restore()}"
            )

    def _restore(self) -> str:
        return (
            "Look at it with `git diff` and restore it with `git checkout -- "
            f"{paths.relative(self.path)}`; {self.kept}."
        )


class Writer:
    """A chained file, locked for one writer. Made by `HashChain.writing`."""

    def __init__(self, chain: HashChain, file: io.FileIO) -> None:
        self._chain, self._path, self._file = chain, chain.path, file
        raw = file.readall()
        self.entries = chain.verified(raw)
        self._start = b"" if raw.endswith(b"\n") or not raw else b"\n"

    def append(self, kind: str, record: Mapping[str, Any]) -> str:
        """Append one line and return its id once the line is synced.

        Raises
        ------
        DataError
            The line would not be sound there, or the file cannot be written.
        """
        last = self.entries[-1]["id"] if self.entries else START
        now = datetime.now(UTC).isoformat(timespec="seconds")
        git = git_standing(self._path)
        content = {"kind": kind, "previous": last, "timestamp": now, **record, "git": git}
        line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        entry = self._chain.parsed(f"{self._path}, a line to be added", line)
        if why := self._chain.objection(entry, self.entries):
            raise DataError(f"{self._path}: no line is added that {why}.")
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._write(self._start + line + b"\n")
        except OSError as error:
            with contextlib.suppress(OSError):  # no half line is left for the next one
                self._file.truncate(end)
            raise DataError(f"{self._path} cannot be written: {error.strerror}.") from error
        self._start = b""
        self.entries.append({"id": _sha256(line), **json.loads(line)})
        return str(self.entries[-1]["id"])

    def _write(self, raw: bytes) -> None:
        if self._file.write(raw) != len(raw):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())
        sync(self._path.parent)  # the file itself may be new


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
