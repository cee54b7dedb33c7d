"""Loading models from the tracking store, by registered name, id or run."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from nivesh_lib.errors import ModelError
from nivesh_lib.models.directory import model_files
from nivesh_lib.privacy import hide_password
from nivesh_lib.tracking.store import check_store


def fetch_model(uri: str) -> Path:
    """Copy a model from the store, and return its model directory, for ``load_model``.

    Nothing of the copy is run or unpickled here: of what MLflow keeps, only the artifact
    ``model`` is pointed to. The copy is removed when Python ends.

    Parameters
    ----------
    uri : str
        ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``models:/m-…`` or ``runs:/RUN/NAME``.

    Raises
    ------
    NiveshError
        The store cannot be opened.
    ModelError
        The store has no such model, or it is none of ours.
    """
    store = check_store()
    import mlflow

    target = tempfile.mkdtemp(prefix="nivesh-model-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    try:
        copied = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=target))
    except Exception as error:  # MLflow's own, and those of every artifact store
        why = (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise ModelError(
            hide_password(f"{uri}: cannot be fetched from {store} ({why}). ")
            + "`make ui` shows the models that are there; MLFLOW_TRACKING_URI names another store"
        ) from None
    return _model_directory(uri, copied)


def _model_directory(uri: str, copied: Path) -> Path:
    path = PurePosixPath(_artifact(copied / "MLmodel"))
    folder = copied / path
    if ".." in path.parts or path.is_absolute() or not (folder / "model.json").is_file():
        raise ModelError(f"{uri}: is no model of this workbench. Name one that `nivesh run` logged")
    model_files(copied)  # refuses links, which could lead out of the copy
    return folder


def _artifact(description: Path) -> str:
    """Return the path of the artifact ``model``, or an empty text where there is none."""
    from mlflow.models import Model

    try:
        found: Any = Model.load(str(description)).flavors
        for key in ("python_function", "artifacts", "model", "path"):
            found = found[key]
    except Exception:  # missing, of another flavour, or no description at all
        return ""
    return str(found)
