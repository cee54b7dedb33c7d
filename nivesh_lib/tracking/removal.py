"""Removal of MLflow runs with their models and artifacts from the project's own store."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nivesh_lib.tracking.logger import PARENT
from nivesh_lib.tracking.store import artifact_root, client, database_file, local_path


@dataclass(frozen=True)
class RemovableRuns:
    """MLflow runs to remove, the models that they logged, and the folders of both."""

    runs: list[str]
    models: list[str]
    folders: list[Path]

    def remove(self) -> None:
        """Delete runs and models as MLflow does, which hides them; then remove their artifacts."""
        if not self.runs:
            return
        store = client()
        for model in self.models:
            store.delete_logged_model(model)
        for run in self.runs:
            store.delete_run(run)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()  # its only entry was ``artifacts``


def removable_runs(
    pipeline_runs: Collection[str], run_ids: Collection[str], *, kept: Collection[str]
) -> RemovableRuns:
    """Return what may be removed with some runs of the pipeline.

    A run with a registered model is left out, and so is what belongs to another mode than
    pipeline. A tracking server is shared with others: nothing of one is removed.

    Parameters
    ----------
    pipeline_runs
        Names of runs of the pipeline.
    run_ids
        Further MLflow runs, which steps of these runs were taken from.
    kept
        MLflow runs to keep, with the runs below them.
    """
    database = database_file()
    if database is None or not database.is_file():
        return RemovableRuns([], [], [])
    store = client()
    experiments = [found.experiment_id for found in store.search_experiments()]
    versions = _all(store.search_model_versions)
    spared = {*kept, *(version.run_id for version in versions)}
    filters = [f"tags.`nivesh.run` = '{name}'" for name in pipeline_runs]
    filters += [f"attributes.run_id = '{one}'" for one in run_ids]
    filters += [f"tags.`{PARENT}` = '{one}'" for one in run_ids]
    found = {r.info.run_id: r for text in filters for r in _runs(store, experiments, text)}
    chosen = [
        run
        for run in found.values()
        if run.data.tags.get("nivesh.mode") == "pipeline"
        and not spared & {run.info.run_id, run.data.tags.get(PARENT)}
    ]
    models = [model for run in chosen for model in _models(store, run)]
    places = [run.info.artifact_uri for run in chosen] + [m.artifact_location for m in models]
    folders = [folder for place in places if (folder := _own(place, database)) is not None]
    return RemovableRuns(
        [run.info.run_id for run in chosen], [model.model_id for model in models], folders
    )


def _runs(store: Any, experiments: list[str], text: str) -> list[Any]:
    return _all(store.search_runs, experiments, text)


def _models(store: Any, run: Any) -> list[Any]:
    text = f"source_run_id = '{run.info.run_id}'"
    return _all(store.search_logged_models, [run.info.experiment_id], text)


def _all(search: Any, *arguments: Any) -> list[Any]:
    """Return every result of one of MLflow's searches, which give a page at a time."""
    found = page = search(*arguments)
    found = list(found)
    while page.token:
        page = search(*arguments, page_token=page.token)
        found += page
    return found


def _own(uri: str, database: Path) -> Path | None:
    """Return a folder of artifacts if it is there and lies beside the database."""
    folder, root = local_path(uri), local_path(artifact_root(database))
    if folder is None or root is None or not folder.is_dir():
        return None
    return folder if folder.resolve().is_relative_to(root.resolve()) else None
