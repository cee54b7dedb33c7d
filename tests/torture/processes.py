"""Processes that are watched: how long, how much memory, whether one had to be stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture.homes import environment
from tests.torture.table import Row

PATIENCE = 120.0  # seconds after which anything at all is stopped


@dataclass(frozen=True)
class Outcome:
    """How a process ended. ``memory`` is its peak in megabytes, libraries included."""

    code: int
    output: str
    seconds: float
    memory: float
    hung: bool


def start(
    module: str, arguments: Sequence[str], home: Path, log: Path, stdin: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` in a session and home of its own; its output goes to ``log``."""
    with log.open("wb") as output, (stdin or Path(os.devnull)).open("rb") as answers:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment(home),
            stdin=answers,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run(
    module: str,
    arguments: Sequence[str],
    home: Path,
    *,
    stdin: Path | None = None,
    patience: float = PATIENCE,
) -> Outcome:
    """Run ``python -m module`` to its end, or stop it when patience ends."""
    log = home.with_name(f"{home.name}.log")
    began, hung = time.monotonic(), False
    process = start(module, arguments, home, log, stdin)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if not hung and time.monotonic() - began > patience:
            hung = True
            for found in {*of_home(home), process.pid}:
                end(found, signal.SIGKILL)
        time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    output = log.read_text(errors="replace")
    return Outcome(process.returncode, output, seconds, usage.ru_maxrss / 1024, hung)


def end(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def apart(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a fork, so that this process stays one that has only imported."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{function} failed; see above")


def side_by_side(function: Callable[[Any], Row], items: Sequence[Any], jobs: int, kind: str) -> Row:
    """Call a function for each item, ``jobs`` at a time in forks, and add up what it returns."""
    row = Row(kind)
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=50) as pool:
        for part in pool.imap_unordered(function, items):
            row.add(part)
    return row


def of_home(home: Path) -> dict[int, str]:
    """Return the running processes that work in a home, whatever became of their parents."""
    mark, found = f"\0NIVESH_HOME={home}\0".encode(), {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "comm").read_text().strip()
            ours = name.startswith(f"{home.name}/") or mark in (place / "environ").read_bytes()
            if ours and (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found[int(place.name)] = name
        except OSError:  # it ended meanwhile
            continue
    return found
