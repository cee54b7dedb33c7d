"""The MLflow store: its address, creating it once, experiments."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError
from nivesh_lib.files import atomic_path, locked
from nivesh_lib.privacy import hide_password
from nivesh_lib.reproducibility import disable_telemetry

TREE = "nivesh/intent_classification"
_SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, else an absolute SQLite address below the home folder."""
    default = paths.home() / "mlruns" / "mlflow.db"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{default}"
    if uri.startswith(_SQLITE):  # a relative path would be another file in each notebook
        uri = f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"
    return uri


def prepare_store() -> str:
    """Create the tracking store if it is missing, and return its address.

    Processes that open a fresh SQLite store at the same time break its
    migration, so one creates it under a lock; write-ahead logging then lets
    parallel notebooks write without waiting for each other.
    """
    disable_telemetry()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = tracking_uri()
    if not uri.startswith(_SQLITE):
        return uri
    database = Path(uri.removeprefix(_SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.parent):
        if not database.exists():
            _create(database)
        connection = sqlite3.connect(database)
        connection.execute("pragma journal_mode=wal")
        connection.close()
    return uri


def _create(database: Path) -> None:
    """Write an empty, migrated store atomically."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in ("mlflow", "alembic"):  # pages of messages about migrations
        logging.getLogger(name).setLevel(logging.WARNING)
    with atomic_path(database) as partial:
        store = SqlAlchemyStore(f"{_SQLITE}{partial}", _artifact_root(database))
        store.engine.dispose()


def _artifact_root(database: Path) -> str:
    return (database.parent / "artifacts").as_uri()


def local_path(location: str) -> Path | None:
    """Return the path of an artifact location on this machine's disks, or None for another."""
    parts = urlsplit(location)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(location)


def client() -> Any:
    """Return an MLflow client of the prepared store, which becomes the one in use."""
    uri = prepare_store()
    import mlflow

    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def create_experiment(name: str) -> str:
    """Return the id of the experiment ``name``, creating it when it is missing.

    A short name such as ``baseline_experiments`` is put below ``TREE``.
    """
    store = client()
    full = name if "/" in name else f"{TREE}/{name}"
    found = store.get_experiment_by_name(full)
    if found is not None:
        return found.experiment_id
    uri = tracking_uri()
    root = None
    if uri.startswith(_SQLITE):
        root = f"{_artifact_root(Path(uri.removeprefix(_SQLITE)))}/{full.replace('/', '_')}"
    try:
        return store.create_experiment(full, artifact_location=root)
    except Exception:  # another process was faster
        found = store.get_experiment_by_name(full)
        if found is None:
            raise
        return found.experiment_id


def check_store() -> str:
    """Open the tracking store, creating a missing SQLite one, and return its address.

    Raises
    ------
    NiveshError
        It cannot be opened. A server is asked once, without MLflow's minutes of retries.
    """
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in patience}
    os.environ |= patience
    try:
        client().search_experiments(max_results=1)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "mlflow":
            raise  # the core alone is installed
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise NiveshError(
            hide_password(f"tracking store {tracking_uri()}: cannot be opened ({why}). ")
            + "Check MLFLOW_TRACKING_URI; without it a SQLite file below mlruns/ is used"
        ) from None
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return tracking_uri()
