"""Hostile data files and a ledger that was tampered with, given to the commands that read them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tests import ledger_tamperings
from tests.torture import homes, hostile_data, processes
from tests.torture.directories import watched
from tests.torture.table import KINDS, Row

SECONDS = 60.0  # for a file of any kind


def try_file(job: tuple[Path, str]) -> Row:
    """Validate and add one hostile file, in a home of its own with one dataset."""
    folder, name = job
    row, home = Row(""), folder / f"data{list(hostile_data.BUILDERS).index(name)}"
    shutil.copytree(folder / "tiny", home)
    (home / "files").mkdir()
    processes.apart(_build, name, home)
    path = (home / "file").read_text()
    for command in (["validate", path], ["add", "new", path, "--version", "1.0.0"]):
        label = f"{name}, {command[0]}"
        outcome = watched(row, label, home, home, "nivesh", "data", *command, seconds=SECONDS)
        if "\x1b" in outcome.output:
            row.count("wrong", f"{label}: an escape sequence reaches the terminal")
        if outcome.code == 0 and name in hostile_data.REFUSED:
            row.count("wrong", f"{label}: accepted")
    shutil.rmtree(home / "files")
    check(row, name, home)
    shutil.rmtree(home)
    return row


def _build(name: str, home: Path) -> None:
    (home / "file").write_text(str(hostile_data.BUILDERS[name](home / "files")))


def check(row: Row, name: str, home: Path) -> dict[str, object]:
    """Count what does not hold in a home; return the fingerprint of its last run."""
    outcome = processes.run("tests.torture.invariants", [str(home), "ended"], home)
    if outcome.code:
        row.count("wrong", f"{name}: the check failed: {outcome.output[-300:]}")
        return {}
    found = json.loads(outcome.output.splitlines()[-1])
    for what in ("unreadable", "open", "wrong"):
        row.count(what, *(f"{name}: {text}" for text in found[what]))
    return found["fingerprint"]


def try_files(folder: Path, jobs: int, every: int = 1) -> Row:
    """Try all hostile data files, or every so many."""
    if not (folder / "tiny").exists():
        processes.apart(homes.build, "tiny", folder / "tiny")
    chosen = [(folder, name) for name in list(hostile_data.BUILDERS)[::every]]
    return processes.side_by_side(try_file, chosen, jobs, KINDS["files"])


def tamper(job: tuple[Path, str, str]) -> Row:
    """Tamper with a ledger in one way and read it; what is seen must be refused."""
    folder, sort, name = job
    ways = getattr(ledger_tamperings, sort)
    row, home = Row(""), folder / f"{sort.lower()}{list(ways).index(name)}"
    home.mkdir()
    processes.apart(_tamper, sort, name, home)
    outcome = watched(row, name, home, home, "ledger")
    readable = name == "not to be read" and os.geteuid() == 0  # root may read anything
    if sort == "SEEN" and outcome.output.startswith("read") and not readable:
        row.count("wrong", f"{name}: not noticed")
    return row


def _tamper(sort: str, name: str, home: Path) -> None:
    os.environ.update(homes.environment(home))
    getattr(ledger_tamperings, sort)[name](ledger_tamperings.prepare(home))


def try_ledgers(folder: Path, jobs: int, every: int = 1) -> Row:
    """Try all tamperings with the ledger, or every so many."""
    ways = [(s, n) for s in ("SEEN", "SAID", "UNSEEN") for n in getattr(ledger_tamperings, s)]
    chosen = [(folder, sort, name) for sort, name in ways[::every]]
    row = processes.side_by_side(tamper, chosen, jobs, KINDS["ledgers"])
    unseen = len(ledger_tamperings.SAID) + len(ledger_tamperings.UNSEEN)
    row.note = f"{unseen} of them cannot be noticed by reading; docs/decisions/0010 says why."
    return row
