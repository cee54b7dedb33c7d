"""A disk on which nothing more fits, and two pipelines at once in one home."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.torture import homes, processes
from tests.torture.files import check
from tests.torture.table import KINDS, Row

# Bytes that a file may have: the system refuses the rest, as a full disk does in the middle of a
# file, with one error number instead of another. It needs no rights and no disk of its own.
LIMITS = (0, 512, 4_000, 20_000, 60_000, 200_000, 420_000, 700_000)


def _fresh(folder: Path, name: str) -> Path:
    if not (folder / "tiny").exists():
        processes.apart(homes.build, "tiny", folder / "tiny")
    shutil.copytree(folder / "tiny", folder / name)
    return folder / name


def _run_to_end(row: Row, name: str, home: Path) -> dict[str, object]:
    """Run the pipeline without a limit; count what is wrong, and return its fingerprint."""
    outcome = processes.run("nivesh_lib", homes.command("tiny", home), home)
    row.measure(outcome.seconds, outcome.memory)
    if outcome.hung or outcome.code:
        row.count("hangs" if outcome.hung else "wrong", f"{name}: {outcome.output[-300:]}")
    return check(row, name, home)


def fill(folder: Path, every: int = 1) -> Row:
    """Run pipelines whose files may not grow beyond a limit, then go on without the limit."""
    row = Row(KINDS["disks"])
    expected = _run_to_end(Row(""), "undisturbed", _fresh(folder, "space"))
    for limit in LIMITS[::every]:
        name, home = f"files of {limit} bytes", _fresh(folder, f"full{limit}")
        call = [str(limit), *homes.command("tiny", home)]
        outcome = processes.run("tests.torture.limit", call, home)
        row.tried += 1
        row.measure(outcome.seconds, outcome.memory)
        if outcome.hung:
            row.count("hangs", name)
        elif outcome.code not in (0, 1):
            row.count("wrong", f"{name}: {outcome.code}: {outcome.output[-300:]}")
        if _run_to_end(row, name, home) != expected:
            row.count("wrong", f"{name}: another result than undisturbed")
    row.note = "the size of a file is limited (RLIMIT_FSIZE), which needs no disk of its own."
    return row


def race(folder: Path, times: int) -> Row:
    """Run two pipelines at once in one home, several times."""
    row = Row(KINDS["races"])
    expected = _run_to_end(Row(""), "alone", _fresh(folder, "alone"))
    for number in range(times):
        home = _fresh(folder, f"both{number}")
        log, began = folder / "second.log", time.monotonic()
        second = processes.start("nivesh_lib", homes.command("tiny", home), home, log)
        found = _run_to_end(Row(""), "first", home)  # judged below, when both have ended
        code = second.wait()
        row.tried += 1
        row.measure(time.monotonic() - began)
        if code:
            row.count("wrong", f"second: {code}: {log.read_text()[-300:]}")
        if _run_to_end(row, f"race {number}", home) != expected or not found:
            row.count("wrong", f"race {number}: another result than alone")
    return row
