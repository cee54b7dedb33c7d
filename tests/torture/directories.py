"""Hostile model directories and ONNX graphs: each loaded, or refused, under watch."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.models import hostile
from tests.models.compact import hostile_graphs
from tests.torture import processes
from tests.torture.table import KINDS, Row

SECONDS, MEGABYTES = 5.0, 2048.0
LONG_AGO = 1_000_000_000  # a time of access that any reading replaces


def graph(name: str, directory: Path) -> None:
    """Make a model directory around one of the hostile graphs."""
    hostile_graphs.hostile_model(directory, hostile_graphs.GRAPHS[name]())


def cases() -> dict[str, Callable[[Path], object]]:
    """Return every builder by its name."""
    graphs = {f"graph: {n}": functools.partial(graph, n) for n in hostile_graphs.GRAPHS}
    return {**hostile.BUILDERS, **graphs}


def canaries(case: Path) -> dict[Path, bool]:
    """Return the regular files around the model, and whether each was read since `bury`."""
    model = os.path.realpath(case / "model")
    files = [p for p in case.rglob("*") if p.is_file() and not p.is_symlink()]
    outside = [p for p in files if not os.path.realpath(p).startswith(model + "/")]
    return {path: path.stat().st_atime != LONG_AGO for path in outside}


def bury(case: Path) -> set[Path]:
    """Give the canaries a time of access of long ago, and return them."""
    found = set(canaries(case))
    for path in found:
        os.utime(path, (LONG_AGO, path.stat().st_mtime))
    return found


def watched(row: Row, name: str, home: Path, inside: Path, action: str, *arguments: str,
            seconds: float = SECONDS) -> processes.Outcome:  # fmt: skip
    """Do an action of `watch` and count what it opened, ran, took and said."""
    report, yes = home.with_suffix(".json"), home.with_suffix(".yes")
    yes.write_text("y\n" * 100)  # who asks whether to run code is told to
    call = [str(report), str(inside), action, *arguments]
    outcome = processes.run("tests.torture.watch", call, home, stdin=yes, patience=60 + seconds)
    told: dict[str, Any] = {"seconds": outcome.seconds}
    if report.exists():
        told = json.loads(report.read_text())
        report.unlink()
    row.tried += 1
    row.measure(told["seconds"], outcome.memory)
    row.count("executed", *(f"{name}: {what}" for what in told.get("executed", ())))
    row.count("outside", *(f"{name}: {what}" for what in told.get("outside", ())))
    if outcome.hung or told["seconds"] > seconds:
        row.count("hangs", f"{name}: {told['seconds']:.1f} s")
    elif outcome.code not in (0, 1, 2) or "Traceback (most recent" in outcome.output:
        row.count("wrong", f"{name}: {outcome.code}: {outcome.output[-300:]}")
    if outcome.memory > MEGABYTES:
        row.count("wrong", f"{name}: {outcome.memory:,.0f} MB")
    return outcome


def try_directory(job: tuple[Path, str]) -> Row:
    """Build one hostile directory, load it under watch, and see what was read and made."""
    folder, name = job
    row, case = Row(""), folder / f"directory{list(cases()).index(name)}"
    case.mkdir()
    processes.apart(cases()[name], case / "model")
    before = bury(case)
    home = folder / f"home-{case.name}"
    home.mkdir()
    outcome = watched(row, name, home, case / "model", "load", str(case / "model"))
    after = canaries(case)
    row.count("executed", *(f"{name}: made {path.name}" for path in set(after) - before))
    row.count("outside", *(f"{name}: {path.name}" for path in before if after.get(path)))
    if outcome.output.startswith("loaded") and name not in hostile.HARMLESS:
        row.count("wrong", f"{name}: {outcome.output.splitlines()[0]}")
    return row


def try_directories(folder: Path, jobs: int, every: int = 1) -> Row:
    """Try all hostile directories, or every so many."""
    chosen = [(folder, name) for name in list(cases())[::every]]
    return processes.side_by_side(try_directory, chosen, jobs, KINDS["directories"])
