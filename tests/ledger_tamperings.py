"""Ways to tamper with a holdout ledger, each a function of its path.

`prepare` makes the ledger that they expect: six lines that git has committed and two that it has
not. Reading and writing refuse what is in ``SEEN``; what is in ``SAID`` is read, and the next line
says why nobody can tell; what is in ``UNSEEN`` is read, and docs/decisions/0010 says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from nivesh_lib.ledger import ledger_path, writing

OPENING = {
    "who": "asha", "why": "release", "reason": "", "commit": "abc", "model": "tfidf",
    "model_hash": "def", "data": "mine@1.0.0", "sha256": "f" * 64, "rows": 20,
}  # fmt: skip
COMMITTED = 6  # lines


def prepare(home: Path) -> Path:
    """Make a repository with a ledger in ``home``, which is ``NIVESH_HOME``; return its path."""
    for number in range(3):
        append(number)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "three openings"]):
        git(home, *arguments)
    append(3)
    return ledger_path()


def append(number: int) -> str:
    """Append an opening and its scores."""
    with writing() as ledger:
        opening = ledger.append("opening", {**OPENING, "model_hash": str(number)})
        ledger.append("scores", {"opening": opening, "scores": {"accuracy": 0.5}})
    return opening


def git(home: Path, *arguments: str) -> None:
    """Run git in a folder as a person of no importance."""
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *name, *arguments], cwd=home, check=True, capture_output=True)


# --- lines -------------------------------------------------------------------------------------

Lines = list[bytes]


def lines_by(change: Callable[[Lines], Lines]) -> Callable[[Path], None]:
    """Return the tampering that replaces the lines of a ledger."""

    def tamper(path: Path) -> None:
        lines = path.read_bytes().splitlines()
        path.write_bytes(b"".join(line + b"\n" for line in change(lines)))

    return tamper


def bytes_by(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return the tampering that replaces the bytes of a ledger."""

    def tamper(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return tamper


def edited(
    at: int, before: bytes = b'"accuracy": 0.5', after: bytes = b'"accuracy": 0.9'
) -> Callable[[Lines], Lines]:
    """Return the change of one line that keeps the others."""

    def change(lines: Lines) -> Lines:
        lines[at] = lines[at].replace(before, after, 1)
        return lines

    return change


def hashed_again(change: Callable[[Lines], Lines]) -> Callable[[Lines], Lines]:
    """Return the change of single lines after which every hash fits."""

    def fitting(lines: Lines) -> Lines:
        found: Lines = []
        new: dict[bytes, bytes] = {}  # hash of each line above, before and after
        for before, line in zip(lines, change([*lines]), strict=True):
            for old, other in new.items():
                line = line.replace(old, other)
            new[sha256(before)] = sha256(line)
            found.append(line)
        return found

    return fitting


def sha256(line: bytes) -> bytes:
    """Return the hash of a line as the ledger holds it."""
    return hashlib.sha256(line).hexdigest().encode()


def followed(lines: Lines, **entry: object) -> Lines:
    """Return lines with one more that fits the chain."""
    fields = {"previous": sha256(lines[-1]).decode(), "timestamp": "", **entry}
    return [*lines, json.dumps(fields).encode()]


def with_more_scores(kind: str, opening: str | None = None) -> Callable[[Lines], Lines]:
    """Return the change that appends scores of the first opening, or of another."""
    return lambda lines: followed(
        lines, kind=kind, scores={}, opening=opening or sha256(lines[0]).decode()
    )


# --- files -------------------------------------------------------------------------------------


def link_to(target: str) -> Callable[[Path], None]:
    """Return the tampering that puts a symbolic link in the ledger's place."""

    def tamper(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return tamper


def in_its_place(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return the tampering that puts something else in the ledger's place."""

    def tamper(path: Path) -> None:
        path.unlink()
        make(path)

    return tamper


def linked_copy(path: Path) -> None:
    """Put a link to a sound copy of the ledger in its place."""
    copy = path.with_name("copy.jsonl")
    path.rename(copy)
    path.symlink_to(copy)


def bound(path: Path) -> None:
    """Bind a socket to the path."""
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


SEEN: dict[str, Callable[[Path], None]] = {
    "a score edited": lines_by(edited(1)),
    "a name edited": lines_by(edited(2, b"asha", b"ravi")),
    "a key repeated": lines_by(edited(0, b'"rows": 20', b'"rows": 20, "rows": 1')),
    "a space added": lines_by(edited(3, b": ", b":  ")),
    "the first line removed": lines_by(lambda lines: lines[1:]),
    "a line removed": lines_by(lambda lines: [*lines[:3], *lines[4:]]),
    "an opening removed with its scores": lines_by(lambda lines: [*lines[:2], *lines[4:]]),
    "two lines swapped": lines_by(lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]]),
    "the order reversed": lines_by(lambda lines: lines[::-1]),
    "a line twice": lines_by(lambda lines: [*lines, lines[2]]),
    "the committed end cut off": lines_by(lambda lines: lines[: COMMITTED - 1]),
    "the last line cut short": bytes_by(lambda raw: raw[:-30]),
    "emptied": bytes_by(lambda raw: b""),
    "deleted": Path.unlink,
    "a score edited and all below it hashed again": lines_by(hashed_again(edited(3))),
    "everything edited and hashed again": lines_by(
        hashed_again(lambda lines: [line.replace(b"asha", b"ravi") for line in lines])
    ),
    "another ledger in its place": lines_by(
        lambda lines: [json.dumps({**json.loads(lines[0]), "who": "ravi"}).encode()]
    ),
    "scores of an opening twice": lines_by(with_more_scores("scores")),
    "scores of no opening": lines_by(with_more_scores("scores", "0" * 64)),
    "a latency of no opening": lines_by(with_more_scores("latency", "0" * 64)),
    "an unknown kind of line": lines_by(lambda lines: followed(lines, kind="note")),
    "a line that is a list": lines_by(lambda lines: [*lines, b"[]"]),
    "a line nested without end": lines_by(lambda lines: [*lines, b"[" * 100_000]),
    "an empty line": lines_by(lambda lines: [*lines[:2], b"", *lines[2:]]),
    "garbage at the end": bytes_by(lambda raw: raw + b"garbage\n"),
    "null bytes at the end": bytes_by(lambda raw: raw + bytes(100)),
    "null bytes within": bytes_by(lambda raw: raw.replace(b"asha", bytes(4), 1)),
    "a byte that is no UTF-8": bytes_by(lambda raw: raw.replace(b"asha", b"ash\xff", 1)),
    "line ends of Windows": bytes_by(lambda raw: raw.replace(b"\n", b"\r\n")),
    "line ends of an old Macintosh": bytes_by(lambda raw: raw.replace(b"\n", b"\r")),
    "a byte order mark": bytes_by(lambda raw: b"\xef\xbb\xbf" + raw),
    "UTF-16": bytes_by(lambda raw: raw.decode().encode("utf-16")),
    "a terabyte of nothing at the end": lambda path: os.truncate(path, 2**40),
    "a link to a copy": linked_copy,
    "a link to an endless device": link_to("/dev/zero"),
    "a link to a device that is empty": link_to("/dev/null"),
    "a link to nowhere": link_to("nowhere"),
    "a link to itself": link_to("holdout_ledger.jsonl"),
    "a second name": lambda path: os.link(path, path.with_name("second")),
    "a pipe": in_its_place(os.mkfifo),
    "a socket": in_its_place(bound),
    "a folder": in_its_place(Path.mkdir),
    "not to be read": lambda path: path.chmod(0),  # root reads it all the same
}


def without_repository(path: Path) -> None:
    """Remove the repository, then lines that it had."""
    shutil.rmtree(path.parent.parent / ".git")
    SEEN["the committed end cut off"](path)


def out_of_git(path: Path) -> None:
    """Take the ledger out of git, then remove lines that git had."""
    git(path.parent.parent, "rm", "-q", "--cached", "data/holdout_ledger.jsonl")
    git(path.parent.parent, "commit", "-qm", "no ledger", "--allow-empty")
    SEEN["the committed end cut off"](path)


def cut_and_committed(path: Path) -> None:
    """Remove lines and commit that."""
    lines_by(lambda lines: lines[:2])(path)
    git(path.parent.parent, "commit", "-qam", "shorter")


SAID: dict[str, Callable[[Path], None]] = {
    "the committed end cut off, without a repository": without_repository,
    "the committed end cut off, the ledger taken out of git": out_of_git,
}
UNSEEN: dict[str, Callable[[Path], None]] = {
    "a score in the last line, not committed": lines_by(edited(-1)),
    "the end cut off that was not committed": lines_by(lambda lines: lines[:COMMITTED]),
    "an opening that never was": lines_by(lambda lines: followed(lines, kind="opening", **OPENING)),
    "the end cut off, and that committed": cut_and_committed,
}
