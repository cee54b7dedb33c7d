"""Run one thing under watch: ``python -m tests.torture.watch REPORT INSIDE MODULE ARGUMENT…``.

Everything is imported first; then the clock starts, and an audit hook keeps every path that
Python opens outside ``INSIDE`` and outside of what belongs to Python and the library, and every
program, unpickled name or code of ``INSIDE`` that is run. ``REPORT`` is JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nivesh_lib
from nivesh_lib.models.directory import MODELS

READERS = ("cli.app", "data.publishing", "data.validation", "ledger")
MEMORY = 6 << 30  # bytes of addresses, so that the machine outlives the worst
RUNS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class"}
PYTHON = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
FREE = ("/proc", "/sys", "/dev/null", "/dev/urandom", "/usr", "/etc", "/lib")


def load(directory: str) -> None:
    """Load a model directory and say how that ended."""
    from nivesh_lib.errors import NiveshError
    from nivesh_lib.models.base import load_model

    try:
        sys.stdout.write(f"loaded {type(load_model(directory)).__name__}\n")
    except NiveshError as error:
        sys.stdout.write(f"refused: {error}\n")


def command(*arguments: str) -> None:
    """Run ``nivesh``."""
    from nivesh_lib.__main__ import main

    sys.argv = ["nivesh", *arguments]
    main()


def ledger(*_: str) -> None:
    """Read the ledger and say how that ended."""
    from nivesh_lib.errors import NiveshError
    from nivesh_lib.ledger import read_ledger

    try:
        sys.stdout.write(f"read {len(read_ledger())}\n")
    except NiveshError as error:
        sys.stdout.write(f"refused: {error}\n")


ACTIONS: dict[str, Callable[..., None]] = {"load": load, "nivesh": command, "ledger": ledger}


class Watch:
    """An audit hook that keeps what was opened outside and what was run."""

    def __init__(self, inside: Path) -> None:
        sources = [Path(nivesh_lib.__file__).parent, Path(__file__).parent]
        places = [str(inside), *map(str, sources), *PYTHON, *FREE]
        self._inside = os.path.realpath(inside)
        self._known = {Path(os.path.realpath(place)) for place in places}
        self.outside: set[str] = set()
        self.executed: set[str] = set()

    def _is_known(self, path: Path) -> bool:
        return bool(self._known & {path, *path.parents})

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = Path(os.path.realpath(os.fsdecode(arguments[0])))
            # What is not there is not read, and of a folder only the lock is taken.
            if path.exists() and not path.is_dir() and not self._is_known(path):
                self.outside.add(str(path))
        elif event == "exec":
            file = str(getattr(arguments[0], "co_filename", ""))
            if os.path.realpath(file).startswith(self._inside + "/"):
                self.executed.add(f"code of {file}")
        elif event in RUNS and Path(str(arguments[0])).name != "git":
            self.executed.add(f"{event} {arguments!r}"[:200])


def main(report: str, inside: str, action: str, *arguments: str) -> int:
    """Do one of `ACTIONS` under watch, write the report and return the exit code."""
    for name in [*READERS, *(path.partition(":")[0] for path in MODELS.values())]:
        importlib.import_module(f"nivesh_lib.{name.removeprefix('nivesh_lib.')}")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    watch, code, began = Watch(Path(inside)), 0, time.monotonic()
    sys.addaudithook(watch)
    with contextlib.suppress(BrokenPipeError):
        try:
            ACTIONS[action](*arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    told = {
        "seconds": time.monotonic() - began,
        "outside": sorted(watch.outside),
        "executed": sorted(watch.executed),
    }
    Path(report).write_text(json.dumps(told))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
