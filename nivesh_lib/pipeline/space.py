"""Whether a run fits on the disk, asked before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError
from nivesh_lib.files import stored_bytes
from nivesh_lib.pipeline.cache import finished_steps

# What a run of the shipped notebooks leaves, in bytes; other profiles are taken for the largest.
_USUAL = {"smoke": 300_000_000, "default": 480_000_000, "full": 1_000_000_000}


def check_space(profile: str, steps: Iterable[str]) -> None:
    """Raise where the steps that are going to run will not fit on the disk.

    A step takes what it left the last time, with the copy of its models that MLflow makes before
    both become one.

    Raises
    ------
    NiveshError
        Too few bytes are free.
    """
    sizes = [_last_bytes(step) for step in steps]
    needed = sum(size or 0 for size in sizes)
    if None in sizes:  # one was never run
        needed = max(needed, _USUAL.get(profile, max(_USUAL.values())))
    place = next(p for p in (paths.runs_dir(), *paths.runs_dir().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise NiveshError(
            f"{paths.relative(place)}: this run needs about {needed:,} bytes, and {free:,} are "
            "free there. Make room; `nivesh prune --keep 1` removes old runs"
        )


def _last_bytes(step: str) -> int | None:
    for run, record in finished_steps(step)[:1]:
        files = [run.path / name for name in record.files]
        models = [run.path / name for name in record.files if name.startswith("models/")]
        return stored_bytes(_there(files)) + stored_bytes(_there(models))
    return None


def _there(files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.is_file()]
