"""Run directories: finding, creating and removing them, and the link to the last good one."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

from nivesh_lib import paths
from nivesh_lib.errors import DataError, NiveshError
from nivesh_lib.files import atomic_path
from nivesh_lib.runs.layout import RunDirectory


def latest_run() -> RunDirectory:
    """Return the last good run; it may not exist yet."""
    return RunDirectory(paths.latest_run())


def all_runs() -> list[RunDirectory]:
    """Return every run directory, oldest first."""
    found = (path for path in paths.runs_dir().glob("[!.]*") if path.is_dir())
    return [RunDirectory(path) for path in sorted(found)]


def find_run(name: str = "latest") -> RunDirectory:
    """Return the run of a name below ``reports/runs``, of a path, or the last good one.

    Raises
    ------
    DataError
        There is none.
    """
    runs = paths.relative(paths.runs_dir())
    if not name:
        raise DataError(f"no run has an empty name; names are the folders in {runs}")
    named = paths.latest_run() if name == "latest" else paths.runs_dir() / name
    folder = named if named.is_dir() or name == "latest" else Path(name)
    if not folder.is_dir():
        what = "is not there: no run ended well yet" if name == "latest" else "is no run"
        raise DataError(
            f"{paths.relative(folder)} {what}. `nivesh run` makes one, and names of runs are "
            f"the folders in {runs}"
        )
    return RunDirectory(folder)


def check_places() -> None:
    """Raise where a run directory or the link to the last good run cannot be created.

    Raises
    ------
    NiveshError
        Something else is in its place.
    """
    for folder in (paths.reports_dir(), paths.runs_dir()):
        if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
            what = "a file" if folder.exists() else "a link that leads nowhere"
            raise NiveshError(
                f"{paths.relative(folder)} is {what}; a folder is needed there. "
                "Move it away and start again"
            )
    link = paths.latest_run()
    if link.exists() and not link.is_symlink():
        what = "a folder" if link.is_dir() else "a file"
        raise NiveshError(
            f"{paths.relative(link)} is {what} of its own; the link to the last good run "
            "belongs there. Move it away and start again"
        )


@contextlib.contextmanager
def new_run() -> Iterator[RunDirectory]:
    """Create a run directory named after the present time, and lock it."""
    root = paths.runs_dir()
    root.mkdir(parents=True, exist_ok=True)
    stem = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(100):
        run = RunDirectory(root / (f"{stem}-{number}" if number else stem))
        with contextlib.suppress(FileExistsError):
            run.path.mkdir()
            break
    with run.held():
        yield run


def point_latest(run: RunDirectory) -> None:
    """Point ``reports/latest`` at a run, atomically."""
    link = paths.latest_run()
    with atomic_path(link) as partial:
        partial.symlink_to(os.path.relpath(run.path, link.parent))


def removed_runs_dir() -> Path:
    """Return the folder of runs that are being removed; it exists only meanwhile."""
    return paths.runs_dir() / ".removed"
