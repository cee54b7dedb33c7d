"""The holdout ledger: every opening of held-out rows, and the scores that resulted.

``data/holdout_ledger.jsonl`` is only ever appended to. Each line holds, as ``previous``, the
SHA-256 of a line above it, which is also that line's ``id``: a line that was edited, removed or
moved no longer fits the lines below. Lines removed at the end leave no such trace, so every line
that is committed in git must be there too. Each line says as ``git`` with which commit the
ledger was compared before it was appended, or why with none.

Two branches may both have opened a holdout. Their lines follow the same one, and
``.gitattributes`` makes git keep both when they are merged.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
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
_LARGEST = 64 * 2**20  # bytes: more is no ledger
# The two cannot be distinguished in a ledger: scores are written last.
NO_SCORES = "no scores: it is still judging, or ended before there were any"
_OPENING = dict.fromkeys(
    ("timestamp", "who", "why", "reason", "commit", "model", "model_hash", "data", "sha256"), str
) | {"rows": int}
_SCORES = {"timestamp": str, "opening": str, "scores": dict}
# Latency is no score of held-out rows: it may be measured again for an opening that has scores.
_SHAPES = {"opening": _OPENING, "scores": _SCORES, "latency": _SCORES}


@dataclass(frozen=True)
class Opening:
    """One opening of the held-out rows of one data version.

    ``number`` counts the openings of this data version, ``of_model`` those of them for this
    model, from 1. ``scores`` is None while the process is running, and remains None where it
    ended before it recorded any; a latency that was measured again has taken the place of the
    first. ``git`` is empty in lines of older versions.
    """

    id: str
    timestamp: str
    who: str
    why: str
    reason: str
    commit: str
    model: str
    model_hash: str
    data: str
    sha256: str
    rows: int
    number: int
    of_model: int
    scores: Mapping[str, Any] | None
    git: str = ""


def ledger_path() -> Path:
    """Return the path of the ledger; it may not exist yet."""
    return paths.data_dir() / "holdout_ledger.jsonl"


def read_ledger() -> list[dict[str, Any]]:
    """Return the verified lines, oldest first, each with its ``id``.

    Raises
    ------
    DataError
        A line was edited, removed, moved or cut short, or the file cannot be read or is none of
        its own.
    """
    path = ledger_path()
    try:
        # The lock: not while a line is half written.
        with _opened(path, os.O_RDONLY) as file, locked(path, shared=True):
            raw = file.readall()
    except FileNotFoundError:
        raw = b""
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return _verified(path, raw)


def openings(entries: list[dict[str, Any]] | None = None) -> list[Opening]:
    """Return every opening with its counts and scores, oldest first."""
    entries = read_ledger() if entries is None else entries
    scores: dict[str, dict[str, Any]] = {}
    for entry in (e for e in entries if e["kind"] != "opening"):
        scores[entry["opening"]] = scores.get(entry["opening"], {}) | entry["scores"]
    of_data: Counter[str] = Counter()
    of_model: Counter[tuple[str, str]] = Counter()
    found = []
    for entry in (e for e in entries if e["kind"] == "opening"):
        of_data[entry["data"]] += 1
        of_model[entry["data"], entry["model_hash"]] += 1
        found.append(
            Opening(
                id=entry["id"],
                **{name: entry[name] for name in _OPENING},
                number=of_data[entry["data"]],
                of_model=of_model[entry["data"], entry["model_hash"]],
                scores=scores.get(entry["id"]),
                git=str(entry.get("git", "")),
            )
        )
    return found


class Writer:
    """The ledger, locked for one writer. Made by `writing`."""

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self._path, self._file = path, file
        raw = file.readall()
        self.entries = _verified(path, raw)
        self._start = b"" if raw.endswith(b"\n") or not raw else b"\n"

    def append(self, kind: str, record: Mapping[str, Any]) -> str:
        """Append one line and return its id once the line is synced, or raise DataError."""
        last = self.entries[-1]["id"] if self.entries else START
        now = datetime.now(UTC).isoformat(timespec="seconds")
        git = git_standing(self._path)
        content = {"kind": kind, "previous": last, "timestamp": now, **record, "git": git}
        line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
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


@contextlib.contextmanager
def writing() -> Iterator[Writer]:
    """Hold the verified ledger for one writer; the lock ends with the process.

    Raises
    ------
    DataError
        As `read_ledger`, or the file cannot be written.
    """
    path = ledger_path()
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _opened(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    with file, locked(path):
        yield Writer(path, file)


def _opened(path: Path, flags: int) -> io.FileIO:
    """Open the ledger, which is a regular file of one name, without waiting for anything."""
    if path.is_symlink():
        raise _no_ledger(path, "a link")
    number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    file = os.fstat(number)
    kinds = {
        "no regular file": not stat.S_ISREG(file.st_mode),
        "one of several names of a file": file.st_nlink > 1,  # another one may be written to
        "too large for a ledger": file.st_size > _LARGEST,
    }
    if found := [kind for kind, holds in kinds.items() if holds]:
        os.close(number)
        raise _no_ledger(path, found[0])
    return io.FileIO(number, "r+" if flags & os.O_RDWR else "r")


def _no_ledger(path: Path, kind: str) -> DataError:
    return DataError(
        f"{path} cannot be written or read: it is {kind}. Put a file with its lines in its place, "
        f"such as the committed one: `git checkout -- {paths.relative(path)}`."
    )


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _verified(path: Path, raw: bytes) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    seen, unscored, scored = {START}, set[str](), set[str]()
    lines = raw.removesuffix(b"\n").split(b"\n") if raw else []
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        entry = _parsed(place, line)
        if entry["previous"] not in seen:
            raise DataError(
                f"{place}: does not follow from the lines above it, so one was edited, removed or "
                f"moved. {_restore(path)}"
            )
        if entry["id"] in seen:
            raise DataError(f"{place}: is there twice. {_restore(path)}")
        if entry["kind"] == "opening":
            unscored.add(entry["id"])
        elif entry["opening"] not in (unscored if entry["kind"] == "scores" else scored):
            has = "has some already" if entry["kind"] == "scores" else "has none yet"
            raise DataError(
                f"{place}: {entry['kind']} of an opening that is not above it, or {has}. "
                f"{_restore(path)}"
            )
        else:
            unscored.discard(entry["opening"])
            scored.add(entry["opening"])
        seen.add(entry["id"])
        entries.append(entry)
    _check_committed(path, seen)
    return entries


def _parsed(place: str, line: bytes) -> dict[str, Any]:
    entry: Any = None
    try:
        # As text, since bytes may be taken for UTF-16; no line ends in a carriage return.
        if b"\r" not in line:
            entry = json.loads(line.decode())
    except (ValueError, RecursionError):
        pass  # it is none
    known = fits(entry, {"kind": str, "previous": str}) and entry["kind"] in _SHAPES
    if not known or not fits(entry, _SHAPES[entry["kind"]]):
        raise DataError(
            f"{place}: is no entry of the ledger, edited or cut short. Look at it with `git diff` "
            "and restore it with git; a piece of a line at the end may be deleted."
        )
    return {**entry, "id": _sha256(line)}


def _check_committed(path: Path, ids: set[str]) -> None:
    lines = committed(path).splitlines()
    gone = [number for number, line in enumerate(lines, start=1) if _sha256(line) not in ids]
    if gone:
        raise DataError(
            f"{path}: line {gone[0]} of the committed file is edited or gone. {_restore(path)}"
        )


def _restore(path: Path) -> str:
    return (
        f"Look at it with `git diff` and restore it with `git checkout -- {paths.relative(path)}`; "
        "openings stay recorded."
    )
