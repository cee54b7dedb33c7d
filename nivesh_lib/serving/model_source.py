"""The directory that an address of a model leads to."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from nivesh_lib import paths
from nivesh_lib.errors import ModelError
from nivesh_lib.paths import relative

_STORED = ("models:/", "runs:/")


@contextlib.contextmanager
def model_at(address: str | None = None) -> Iterator[Path]:
    """Yield the model directory of an address.

    Parameters
    ----------
    address : str, optional
        A directory; ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``models:/m-…`` or
        ``runs:/RUN/NAME`` in the tracking store; by default the best model of the last run, and
        before the first run the small one that ships, which is said on standard error.

    Raises
    ------
    ModelError
        There is no such model. One that is raised within the block names a stored model too,
        since its copy is gone when the message is read.
    """
    if address is None:
        from nivesh_lib.runs.directories import latest_run
        from nivesh_lib.runs.leaderboard import best_model

        run, shipped = latest_run(), paths.shipped_model()
        if not run.index.is_file() and shipped.is_dir():
            sys.stderr.write(
                f"No run yet: {relative(shipped)} answers, a small model that ships with the "
                "example report. `nivesh run` trains better ones.\n"
            )
            yield shipped
        else:
            yield best_model(run)
    elif not address.startswith(_STORED):
        yield Path(address)
    else:
        from nivesh_lib.tracking.models import fetch_model

        folder = fetch_model(address)
        try:
            yield folder
        except ModelError as error:
            if str(error).startswith(f"{address}: "):
                raise
            raise type(error)(f"{address}: {error}") from error
