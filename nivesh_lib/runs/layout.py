"""The run directory: the only module with the names of its folders and files."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nivesh_lib import paths
from nivesh_lib.errors import DataError
from nivesh_lib.files import atomic_path, link_equal, locked, remove_abandoned, tree_files
from nivesh_lib.records.base import read_record, write_json
from nivesh_lib.records.results import StepResult, read_result
from nivesh_lib.records.run import FinishedStep, RunRecord
from nivesh_lib.records.schema import read_object

if TYPE_CHECKING:
    import pandas as pd

# Where a step leaves files: <kind>/<step>, <kind>/<step>.<suffix>, <kind>/<step>.<part>.<suffix>.
_KINDS = (
    *("results", "oof", "probes", "models", "folds"),
    *("figures", "drift", "notebooks", "logs"),
)
_MODELS = ("models", "folds")  # of these kinds, the files of models: large, and often equal
_SHOWN = ("index.html", "run.json", "notebooks/*.html", "results/*.json", "drift/*/evidently.html")


def notebook_of(name: str) -> str:
    """Return the notebook that left a result: one may leave several, ``<notebook>.<part>``."""
    return name.partition(".")[0]


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run. The name of a result is its step's, or ``<step>.<part>``."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the run: the name of its folder."""
        return self.path.name

    # --- the run -----------------------------------------------------------------------------

    def record(self) -> RunRecord:
        """Return the record of the run. Raises DataError where it is missing or damaged."""
        return read_record(self.path / "run.json", RunRecord, "the record of a run")

    def sound_record(self) -> RunRecord | None:
        """Return the record of the run, or None where it is missing or damaged."""
        with contextlib.suppress(DataError):
            return self.record()
        return None

    def write_record(self, record: RunRecord) -> None:
        """Write the record of the run."""
        write_json(self.path / "run.json", record)

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Lock the directory. Raises BlockingIOError where another process holds the lock."""
        return locked(self.path, wait=False)

    def is_alive(self) -> bool:
        """Return whether some process is working in the directory."""
        try:
            with self.held():
                return False
        except BlockingIOError:
            return True

    @property
    def index(self) -> Path:
        """The page of the report."""
        return self.path / "index.html"

    def shown(self) -> list[Path]:
        """Return the files that the report consists of, and the records it was made from."""
        return [path for pattern in _SHOWN for path in sorted(self.path.glob(pattern))]

    # --- results -----------------------------------------------------------------------------

    def result_file(self, name: str) -> Path:
        """Return where a result is kept; it may not exist."""
        return self.path / "results" / f"{name}.json"

    def _read_results(self) -> Iterator[tuple[str, StepResult | DataError]]:
        for path in sorted(self.result_file("").parent.glob("*.json")):
            try:
                yield path.stem, read_result(path)
            except DataError as error:
                yield path.stem, error

    def results(self) -> dict[str, StepResult]:
        """Return the valid results by name, in reading order; `damaged` returns the others."""
        return {name: r for name, r in self._read_results() if isinstance(r, StepResult)}

    def damaged(self) -> dict[str, DataError]:
        """Return the error of each file of results that cannot be read, by name."""
        return {name: r for name, r in self._read_results() if isinstance(r, DataError)}

    def result(self, name: str) -> StepResult | None:
        """Return a result, or None where it is missing or damaged."""
        with contextlib.suppress(DataError):
            return read_result(self.result_file(name))
        return None

    def write_result(self, name: str, result: StepResult) -> None:
        """Write a result."""
        write_json(self.result_file(name), result)

    def folder(self, kind: str, step: str) -> Path:
        """Return the folder of a step's files of one kind, such as figures; it may not exist."""
        return self.path / kind / step

    def model(self, name: str) -> Path:
        """Return the model directory that goes with a result; it may not exist."""
        return self.folder("models", name)

    def _table_file(self, kind: str, name: str) -> Path:
        return self.path / kind / f"{name}.parquet"

    def table(self, kind: str, name: str) -> pd.DataFrame | None:
        """Return the table of a result, of the kind ``oof`` or ``probes``; None without one."""
        import pandas as pd

        path = self._table_file(kind, name)
        return pd.read_parquet(path) if path.is_file() else None

    def write_table(self, kind: str, name: str, table: pd.DataFrame | None) -> None:
        """Write a table; None removes an earlier one, which would belong to another result."""
        path = self._table_file(kind, name)
        if table is None:
            path.unlink(missing_ok=True)
            return
        with atomic_path(path) as partial:
            table.to_parquet(partial, index=False)

    def out_of_fold(self, name: str, train: pd.DataFrame, label: str = "intent") -> pd.DataFrame:
        """Return the out-of-fold probabilities of a model after checking them.

        Parameters
        ----------
        train
            The training rows: ``id``, ``fold`` and the column ``label``.

        Returns
        -------
        DataFrame
            ``id``, ``fold`` and a probability for each label; one row for each training row, in
            an order of its own.

        Raises
        ------
        DataError
            The table is missing, cannot be read, or is not one of these rows and labels.
        """
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            table = self.table("oof", name)
            if table is not None and _is_sound(table, train, label):
                return table
        raise DataError(
            f"{paths.relative(self._table_file('oof', name))}: does not hold id, fold and a "
            "probability for each label, for every training row. `nivesh run --force` makes it "
            "again"
        )

    # --- steps -------------------------------------------------------------------------------

    def notebook(self, step: str) -> Path:
        """Return where the executed notebook is kept; it may not exist."""
        return self.path / "notebooks" / f"{step}.ipynb"

    def page(self, name: str) -> str:
        """Return the address of a notebook's page from the report; empty where there is none."""
        return self._address(self.notebook(notebook_of(name)).with_suffix(".html"))

    def drift_page(self, step: str) -> str:
        """Return the address of a drift page from the report; empty where there is none."""
        return self._address(self.folder("drift", step) / "evidently.html")

    def _address(self, page: Path) -> str:
        return page.relative_to(self.path).as_posix() if page.is_file() else ""

    def log(self, step: str) -> Path:
        """Return where the output of a step's process is kept."""
        return self.path / "logs" / f"{step}.log"

    def partial(self, name: str) -> Path:
        """Return the path of an unfinished file, after creating its folder."""
        folder = self.path / ".partial"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def remove_partial(self) -> None:
        """Remove unfinished files of a run at which nothing works any more, wherever they are."""
        shutil.rmtree(self.path / ".partial", ignore_errors=True)
        remove_abandoned(self.path, anyone=True)

    def _finished_file(self, step: str) -> Path:
        return self.path / "steps" / f"{step}.json"

    def finished(self, step: str) -> FinishedStep | None:
        """Return the record of a step that ended, or None where it is missing or damaged."""
        with contextlib.suppress(DataError):
            return read_record(self._finished_file(step), FinishedStep, "the record of a step")
        return None

    def write_finished(self, step: str, record: FinishedStep) -> None:
        """Write the record of a step, after everything else of it."""
        write_json(self._finished_file(step), record)

    def files_of(self, step: str) -> list[Path]:
        """Return all files that a step left, its record aside."""
        found: list[Path] = []
        for kind in _KINDS:
            for entry in (self.path / kind).glob("*"):
                if entry.name == step or entry.name.startswith(f"{step}."):
                    found += [p for p in (entry, *entry.rglob("*")) if p.is_file()]
        return sorted(found)

    def store_once(self, step: str) -> None:
        """Make links of a step's model files that equal other model files of the run."""
        files = tree_files(*(self.path / kind for kind in _MODELS))
        mine = set(self.files_of(step)).intersection(files)
        link_equal(sorted(mine), among=[path for path in files if path not in mine])

    def link_step(self, step: str, source: RunDirectory, files: Sequence[str]) -> None:
        """Link the files of a finished step of another run; copy where the disk has no links.

        Raises
        ------
        FileNotFoundError
            One is gone: the other run was removed meanwhile. Then none is linked.
        """
        record = self._finished_file(step).relative_to(self.path).as_posix()
        try:
            for name in [*files, record]:
                place = self.path / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.unlink(missing_ok=True)
                try:
                    os.link(source.path / name, place)
                except OSError:
                    shutil.copy2(source.path / name, place)
        except FileNotFoundError:
            for name in [*files, record]:  # the step may write in place to what is linked
                (self.path / name).unlink(missing_ok=True)
            raise

    def _open_file(self, step: str) -> Path:
        return self.path / "open" / f"{step}.json"

    def open_step(self, step: str, mlflow_run_id: str) -> None:
        """Record the MLflow run of a notebook that has started."""
        write_json(self._open_file(step), {"mlflow_run_id": mlflow_run_id})

    def mlflow_run_ids(self) -> set[str]:
        """Return the MLflow runs of the steps of this run, cached ones too."""
        record = self.sound_record()
        names = [path.stem for path in self._finished_file("").parent.glob("*.json")]
        steps = [*(record.steps.values() if record else ()), *map(self.finished, names)]
        known = {step.mlflow_run_id or "" for step in steps if step is not None}
        return (known | set(self.open_steps().values())) - {""}

    def open_steps(self) -> dict[str, str]:
        """Return the MLflow run of each step that was opened and not closed; empty if unknown."""
        files = sorted(self._open_file("").parent.glob("*.json"))
        notes = {path.stem: read_object(path, {"mlflow_run_id": str}) for path in files}
        return {step: note["mlflow_run_id"] if note else "" for step, note in notes.items()}

    def close_step(self, step: str) -> None:
        """Remove the record of `open_step`."""
        self._open_file(step).unlink(missing_ok=True)


def _is_sound(table: pd.DataFrame, train: pd.DataFrame, label: str) -> bool:
    """Return whether a table has every row once, in its fold, with probabilities of the labels."""
    import numpy as np

    from nivesh_lib.evaluation.resampling.cross_validation import probabilities

    folds = dict(zip(train["id"], train["fold"], strict=True))
    proba = probabilities(table)
    values = proba.to_numpy(dtype=float)
    return bool(
        len(table) == len(train)
        and dict(zip(table["id"], table["fold"], strict=True)) == folds
        and set(proba.columns) == set(train[label])
        and np.isfinite(values).all()
        and (values >= 0).all()
        and np.allclose(values.sum(axis=1), 1, atol=1e-3)
    )
