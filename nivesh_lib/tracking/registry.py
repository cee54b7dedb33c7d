"""The model registry, MLflow's: registered versions, and aliases that follow the release log."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nivesh_lib.errors import NiveshError
from nivesh_lib.hash_chain import Entry
from nivesh_lib.privacy import hide_password
from nivesh_lib.records.release import Release
from nivesh_lib.releases.log import State, read_log, state_of
from nivesh_lib.tracking.logger import close_run, close_runs_of, open_logger
from nivesh_lib.tracking.store import check_store, client, database_file, tracking_uri

ALIASES = ("staging", "production", "previous")
_MARK = "nivesh.release"  # tag of a version that a release registered
_Tags = dict[str, dict[str, str]]  # MLflow's number -> tags of a registered version


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Raise NiveshError for what MLflow and its stores raise while they are asked."""
    try:
        yield
    except NiveshError:
        raise
    except Exception as error:  # MLflow's own, and those of its stores
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise NiveshError(
            hide_password(f"registry {tracking_uri()}: does not answer ({why}). ")
            + "The release log is complete; the next command that changes a release mends the "
            "registry"
        ) from None


def register_model(
    model_name: str,
    model_uri: str,
    tags: Mapping[str, str] | None = None,
    description: str = "",
) -> Any:
    """Register a logged model and return its `ModelVersion`; it is in no stage by that.

    Parameters
    ----------
    model_uri
        Such as ``models:/m-…`` or ``runs:/RUN/NAME``.
    """
    store = client()
    import mlflow

    with contextlib.redirect_stderr(io.StringIO()):  # two lines that say what is returned
        found = mlflow.register_model(model_uri, model_name, tags=dict(tags or {}))
    if description:
        store.update_model_version(model_name, found.version, description=description)
    return found


@_one_error()
def register_release(release: Release, model: Path, description: str) -> str:
    """Log the model directory of a release, register it, and return MLflow's number for it."""
    run = open_logger(
        f"release_{release.kind}",
        release.parameters,
        experiment="production_candidates",
        mode="release",
        run=_run_tag(release.name),
    )
    run.log_params({"data_version": release.dataset, "digest": release.digest})
    uri = run.log_model(release.name, model)
    accuracy = release.metrics["accuracy"]["value"]
    tags = {
        "version": f"v{release.version}",
        "algorithm": release.algorithm,
        "accuracy": f"{accuracy:.3f}",
        "deployment_date": "",
        "deprecated": "false",
        "digest": release.digest,
        _MARK: release.version,
    }
    found = register_model(release.name, uri, tags, description)
    close_run(run.run_id, "FINISHED")
    return str(found.version)


def _run_tag(name: str) -> str:
    return f"release of {name}"


@_one_error()
def check_registry(name: str) -> None:
    """Raise where the registry cannot be reached, or has releases that the log does not know.

    Raises
    ------
    NiveshError
        See above. With a shared registry, somebody else may have released since the last pull.
    """
    known = {entry["version"] for entry in read_log(name)}
    _write(name, [], {})  # a file that cannot be written is told before anything is changed
    there = {tags[_MARK] for tags in _registered(name)[0].values() if _MARK in tags}
    if unknown := sorted(there - known):
        raise NiveshError(
            f"registry {hide_password(tracking_uri())}: has {name} {', '.join(unknown)}, which "
            "this release log does not know. Get the log of those who released it: git pull"
        )


@_one_error()
def follow_log(name: str, undo: str = "") -> None:
    """Let aliases and tags of the registry say what the release log says.

    Parameters
    ----------
    undo
        The digest of a release that was cut off: what it registered or left open, and the log
        does not have, is taken back.

    Raises
    ------
    NiveshError
        The store cannot be opened, or does not answer.
    """
    state, there, aliases, numbers = _compared(name)
    if undo:
        close_runs_of(_run_tag(name))
        gone = {number for number, tags in there.items() if tags.get("digest") == undo}
        for number in gone - set(numbers.values()):
            client().delete_model_version(name, number)
    tags = [
        (number, key, value)
        for version, number in numbers.items()
        for key, value in _stage_tags(state.stages[version], state.since[version]).items()
        if there[number].get(key) != value
    ]
    wanted = {alias: numbers.get(getattr(state, alias), "") for alias in ALIASES}
    _write(name, tags, {a: n for a, n in wanted.items() if n != aliases.get(a, "")})


def registered_as(name: str) -> dict[str, str]:
    """Return MLflow's number -> released version, for what this registry has of a name."""
    return {number: version for version, number in _compared(name)[3].items()}


@_one_error()
def _compared(name: str) -> tuple[State, _Tags, dict[str, str], dict[str, str]]:
    """Return what the log leads to, what is registered, and released version -> its number."""
    entries = read_log(name)
    there, aliases = _registered(name)
    return state_of(entries), there, aliases, _numbers(entries, there)


def _numbers(entries: list[Entry], there: _Tags) -> dict[str, str]:
    """Return released version -> MLflow's number for it.

    The number in the log is that of the registry in which it was released; in another one, such
    as that of a clone, it may be of another version. So a version is known by its tags.
    """
    found = {}
    for entry in (e for e in entries if e["kind"] == "release"):
        wanted = entry["version"], entry["digest"]
        same = [n for n, tags in there.items() if (tags.get(_MARK), tags.get("digest")) == wanted]
        if same:
            logged = entry["registered"]
            found[entry["version"]] = logged if logged in same else min(same, key=int)
    return found


def _registered(name: str) -> tuple[_Tags, dict[str, str]]:
    """Return MLflow's number -> tags of each version of a name, and alias -> number."""
    database = database_file()
    if database is None:
        check_store()
        versions = client().search_model_versions(f"name = '{name}'")
        # A search for versions would not tell the aliases.
        models = client().search_registered_models(f"name = '{name}'")
        aliases = {alias: str(number) for one in models for alias, number in one.aliases.items()}
        return {str(one.version): one.tags for one in versions}, aliases
    if not database.exists():  # nothing was logged here yet
        return {}, {}
    with _tables(database) as tables:
        versions, found, named = (
            tables.execute(f"select version, {columns} where name = ?", [name]).fetchall()
            for columns in (
                "current_stage from model_versions",
                "key, value from model_version_tags",
                "alias from registered_model_aliases",
            )
        )
    there: _Tags = {str(number): {} for number, stage in versions if stage != "Deleted_Internal"}
    for number, key, value in found:
        there.get(str(number), {})[key] = value
    return there, {alias: str(number) for number, alias in named}


def _write(name: str, tags: Sequence[tuple[str, str, str]], aliases: Mapping[str, str]) -> None:
    """Set tags (number, key, value) of versions, and aliases; one without a number is deleted."""
    database = database_file()
    if database is None:
        store = client()
        for tag in tags:
            store.set_model_version_tag(name, *tag)
        for alias, number in aliases.items():
            if number:
                store.set_registered_model_alias(name, alias, number)
            else:
                store.delete_registered_model_alias(name, alias)
    elif database.exists():
        with _tables(database) as tables:
            tables.execute("begin immediate")  # fails where the file cannot be written
            tables.executemany(
                "replace into model_version_tags (name, version, key, value) values (?, ?, ?, ?)",
                [(name, *tag) for tag in tags],
            )
            tables.executemany(
                "delete from registered_model_aliases where name = ? and alias = ?",
                [(name, alias) for alias in aliases],
            )
            tables.executemany(
                "insert into registered_model_aliases (name, alias, version) values (?, ?, ?)",
                [(name, *one) for one in aliases.items() if one[1]],
            )


@contextlib.contextmanager
def _tables(database: Path) -> Iterator[sqlite3.Connection]:
    """Open MLflow's own tables for one transaction, without MLflow, which takes seconds to import.

    Nobody who rolls back should wait for that.
    """
    with contextlib.closing(sqlite3.connect(database)) as tables, tables:
        yield tables


def _stage_tags(stage: str, since: str) -> dict[str, str]:
    tags = {"stage": stage, "deprecated": str(stage == "Archived").lower()}
    return tags | ({"deployment_date": since[:10]} if stage == "Production" else {})


def moved_by_hand(name: str) -> list[str]:
    """Return a sentence for each alias that says something else than the release log."""
    state, _, aliases, numbers = _compared(name)
    versions = {number: version for version, number in numbers.items()}
    said = []
    for alias in ALIASES:
        number, logged = aliases.get(alias, ""), getattr(state, alias)
        found = versions.get(number, f"number {number}" if number else "")
        if logged and logged not in versions.values() and not number:
            said.append(
                f"this registry has no {logged}, so it has no alias {alias}: {logged} was released "
                "to another one, or was deleted from this one by hand"
            )
        elif found != logged:
            said.append(
                f"the alias {alias} points to {found or 'nothing'}, the release log "
                f"says {logged or 'nothing'}: it was moved by hand, and the log decides"
            )
    return said
