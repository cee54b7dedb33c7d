"""The model registry, MLflow's: registered versions, and aliases that follow the release log."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nivesh_lib.errors import NiveshError
from nivesh_lib.privacy import hide_password
from nivesh_lib.records.release import Release
from nivesh_lib.releases.log import read_log, state_of
from nivesh_lib.tracking.logger import close_run, close_runs_of, open_logger
from nivesh_lib.tracking.store import check_store, client, tracking_uri

ALIASES = ("staging", "production", "previous")
_MARK = "nivesh.release"  # tag of a version that a release registered


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

    found = mlflow.register_model(model_uri, model_name, tags=dict(tags or {}))
    if description:
        store.update_model_version(model_name, found.version, description=description)
    return found


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


def follow_log(name: str) -> None:
    """Let aliases and tags of the registry say what the release log says.

    What a killed release registered or left open, and the log does not have, is taken back.

    Raises
    ------
    NiveshError
        The store cannot be opened, or does not answer.
    """
    check_store()
    store = client()
    entries = read_log(name)
    state = state_of(entries)
    numbers = {e["version"]: e["registered"] for e in entries if e["kind"] == "release"}
    try:
        close_runs_of(_run_tag(name))
        there = {one.version: one for one in _versions(store, name)}
        for number, one in there.items():
            if one.tags.get(_MARK) and number not in numbers.values():
                store.delete_model_version(name, number)
        for version, number in numbers.items():
            if number in there:
                _tag(store, name, there[number], state.stages[version], state.since[version])
        for alias in ALIASES:
            _point(store, name, alias, numbers.get(getattr(state, alias), ""), there)
    except NiveshError:
        raise
    except Exception as error:  # MLflow's own, and those of its stores
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise NiveshError(
            hide_password(f"registry {tracking_uri()}: does not answer ({why}). ")
            + "The release log is complete; the next command that changes a release mends the "
            "registry"
        ) from None


def _versions(store: Any, name: str) -> list[Any]:
    return list(store.search_model_versions(f"name = '{name}'"))


def _tag(store: Any, name: str, found: Any, stage: str, since: str) -> None:
    wanted = {"stage": stage, "deprecated": str(stage == "Archived").lower()}
    if stage == "Production":
        wanted["deployment_date"] = since[:10]
    for key, value in wanted.items():
        if found.tags.get(key) != value:
            store.set_model_version_tag(name, found.version, key, value)


def _point(store: Any, name: str, alias: str, number: str, there: Mapping[str, Any]) -> None:
    """Let an alias point to a number, or to nothing."""
    now = next((n for n, one in there.items() if alias in one.aliases), "")
    if number in there and number != now:
        store.set_registered_model_alias(name, alias, number)
    elif now and not number:
        with contextlib.suppress(Exception):  # another process was faster
            store.delete_registered_model_alias(name, alias)


def moved_by_hand(name: str) -> list[str]:
    """Return a sentence for each alias that says something else than the release log."""
    check_store()
    store = client()
    entries = read_log(name)
    state = state_of(entries)
    numbers = {e["version"]: e["registered"] for e in entries if e["kind"] == "release"}
    versions = {number: version for version, number in numbers.items()}
    there = _versions(store, name)
    said = []
    for alias in ALIASES:
        number = next((one.version for one in there if alias in one.aliases), "")
        found, logged = versions.get(number, f"number {number}"), getattr(state, alias)
        if number != numbers.get(logged, ""):
            said.append(
                f"the alias {alias} points to {found if number else 'nothing'}, the release log "
                f"says {logged or 'nothing'}: it was moved by hand, and the log decides"
            )
    return said
