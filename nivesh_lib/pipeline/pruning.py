"""Removing old runs, with what MLflow keeps of them."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass

from nivesh_lib import paths
from nivesh_lib.errors import SpecError
from nivesh_lib.files import freed_bytes, tree_files
from nivesh_lib.runs.directories import all_runs, removed_runs_dir
from nivesh_lib.runs.layout import RunDirectory


@dataclass(frozen=True)
class Pruned:
    """The names of the runs that were removed, and the bytes on the disk that they alone held."""

    runs: list[str]
    bytes: int


def prune(keep: int) -> Pruned:
    """Remove all but the newest ``keep`` runs; the last good one and live ones stay.

    What their steps left in the project's own MLflow store goes too: runs that no step of a kept
    run was taken from and that no registered model came from, with their artifacts.

    Raises
    ------
    SpecError
        ``keep`` is below 1.
    """
    if keep < 1:
        raise SpecError(f"--keep {keep}: keep at least 1")
    latest, aside = paths.latest_run().resolve(), removed_runs_dir()
    for run in reversed(all_runs()[:-keep]):
        if run.path.resolve() != latest and not run.is_alive():
            # In one step, so that a run that begins now finds all of its files or none; what
            # stays there when this process is killed is removed the next time.
            aside.mkdir(exist_ok=True)
            run.path.rename(aside / run.name)
    removed = [RunDirectory(path) for path in sorted(aside.glob("*"), reverse=True)]
    freed = _remove(removed) if removed else 0
    with contextlib.suppress(OSError):
        aside.rmdir()
    return Pruned([run.name for run in removed], freed)


def _remove(removed: list[RunDirectory]) -> int:
    from nivesh_lib.tracking.removal import removable_runs

    kept = {one for run in all_runs() for one in run.mlflow_run_ids()}
    ids = {one for run in removed for one in run.mlflow_run_ids()} - kept
    tracked = removable_runs([run.name for run in removed], ids, kept=kept)
    folders = [run.path for run in removed]
    freed = freed_bytes(tree_files(*folders, *tracked.folders))
    tracked.remove()
    for folder in folders:
        shutil.rmtree(folder)
    return freed
