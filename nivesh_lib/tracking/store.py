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
from nivesh_lib.files import atomic_path, locked, remove_abandoned
from nivesh_lib.privacy import hide_password
from nivesh_lib.reproducibility import disable_telemetry

TREE = "nivesh/intent_classification"
_SQLITE = "sqlite:///"
_LOGGER = logging.getLogger(__name__)
_TABLES = "select name from sqlite_master where type = 'table'"
# Columns in which MLflow records absolute places of artifacts.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, else an absolute SQLite address below the home folder."""
    default = paths.home() / "mlruns" / "mlflow.db"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{default}"
    if uri.startswith(_SQLITE):  # a relative path would be another file in each notebook
        uri = f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"
    return uri


def database_file() -> Path | None:
    """Return the SQLite file of the tracking store, which may not exist; None for a server."""
    uri = tracking_uri()
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def prepare_store() -> str:
    """Create the tracking store if it is missing, and return its address.

    Where the project was copied or moved, a SQLite store is changed to name the artifacts that
    lie beside it, which is told by a warning.

    Processes that open a fresh SQLite store at the same time break its
    migration, so one creates it under a lock; write-ahead logging then lets
    parallel notebooks write without waiting for each other.
    """
    disable_telemetry()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri, database = tracking_uri(), database_file()
    if database is None:
        return uri
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.parent):
        if not database.exists():
            remove_abandoned(database.parent, name=database.name, deep=False)
            _create(database)
        connection = sqlite3.connect(database)
        connection.execute("pragma journal_mode=wal")
        with connection:  # all of it or nothing
            moved = _move_artifacts(connection, artifact_root(database))
        connection.close()
    for old in moved:
        _LOGGER.warning(
            "%s named artifacts in %s: the project was copied or moved. From now on it names "
            "those in %s; nothing in the other place is changed",
            database,
            local_path(old),
            database.parent / "artifacts",
        )
    return uri


def _move_artifacts(connection: sqlite3.Connection, root: str) -> list[str]:
    """Let a store name the artifacts beside it, and return where it named them until now.

    MLflow records absolute places, so the copy of a project would write into the original. Places
    of experiments that others made are left as they are.
    """
    if "experiments" not in {name for (name,) in connection.execute(_TABLES)}:
        return []
    places = connection.execute("select name, artifact_location from experiments").fetchall()
    ours = [p for name, p in places if _folder(name) and p.endswith(f"/artifacts/{_folder(name)}")]
    moved = {place.rpartition("/")[0] for place in ours} - {root}
    moved = {old for old in moved if not _is_same(local_path(old), local_path(root))}
    for old in moved:
        for table, column in _PLACES:
            connection.execute(
                f"update {table} set {column} = ? || substr({column}, ?) "
                f"where substr({column}, 1, ?) = ?",
                (root, len(old) + 1, len(old) + 1, f"{old}/"),
            )
    return sorted(moved)


def _is_same(old: Path | None, new: Path | None) -> bool:
    """Return whether an old place is one that this machine has not, or the new one by a link."""
    return old is None or (old.exists() and new is not None and new.exists() and old.samefile(new))


def _folder(experiment: str) -> str:
    """Return the folder of an experiment of ours among the artifacts; nothing for another's."""
    return experiment.replace("/", "_") if experiment.startswith("nivesh/") else ""


def _create(database: Path) -> None:
    """Write an empty, migrated store atomically."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in ("mlflow", "alembic"):  # pages of messages about migrations
        logging.getLogger(name).setLevel(logging.WARNING)
    with atomic_path(database) as partial:
        store = SqlAlchemyStore(f"{_SQLITE}{partial}", artifact_root(database))
        store.engine.dispose()


def artifact_root(database: Path) -> str:
    """Return the address of the folder beside a database that holds its artifacts."""
    return (database.parent / "artifacts").as_uri()


def local_path(uri: str) -> Path | None:
    """Return the path of an artifact uri on this machine's disks, or None for another."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


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
    database = database_file()
    root = f"{artifact_root(database)}/{full.replace('/', '_')}" if database else None
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
