"""The model registry, MLflow's: registered versions, and aliases that follow the release log."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nivesh_lib.errors import NiveshError
from nivesh_lib.hash_chain import Entry
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

    with contextlib.redirect_stderr(io.StringIO()):  # two lines that say what is returned
        found = mlflow.register_model(model_uri, model_name, tags=dict(tags or {}))
    if description:
        store.update_model_version(model_name, found.version, description=description)
    return found


def register_release(release: Release, model: Path, description: str) -> str:
    """Log the model directory of a release, register it, and return MLflow's number for it."""
    with _one_error():
        return _registered_release(release, model, description)


def _registered_release(release: Release, model: Path, description: str) -> str:
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


def check_registry(name: str) -> None:
    """Raise where the registry cannot be reached, or has releases that the log does not know.

    Raises
    ------
    NiveshError
        See above. With a shared registry, somebody else may have released since the last pull.
    """
    check_store()
    known = {(e["version"], e["digest"]) for e in read_log(name) if e["kind"] == "release"}
    with _one_error():
        there = _versions(client(), name).values()
    unknown = [one.tags[_MARK] for one in there if _MARK in one.tags and _release(one) not in known]
    if unknown:
        raise NiveshError(
            f"registry {hide_password(tracking_uri())}: has {name} {', '.join(unknown)}, which "
            "this release log does not know. Get the log of those who released it: git pull"
        )


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
    check_store()
    store = client()
    entries = read_log(name)
    state = state_of(entries)
    with _one_error():
        close_runs_of(_run_tag(name))
        there = _versions(store, name)
        numbers = _numbers(entries, there)
        for number, one in there.items():
            if undo and one.tags.get("digest") == undo and number not in numbers.values():
                store.delete_model_version(name, number)
        for version, number in numbers.items():
            _tag(store, name, there[number], state.stages[version], state.since[version])
        aliases = _aliases(store, name)
        for alias in ALIASES:
            number, now = numbers.get(getattr(state, alias), ""), aliases.get(alias, "")
            if number and number != now:
                store.set_registered_model_alias(name, alias, number)
            elif now and number != now:
                store.delete_registered_model_alias(name, alias)


def registered_as(name: str) -> dict[str, str]:
    """Return MLflow's number -> released version, for what this registry has of a name."""
    check_store()
    with _one_error():
        there = _versions(client(), name)
    return {number: version for version, number in _numbers(read_log(name), there).items()}


def _numbers(entries: list[Entry], there: Mapping[str, Any]) -> dict[str, str]:
    """Return released version -> MLflow's number for it.

    The number in the log is that of the registry in which it was released; in another one, such
    as that of a clone, it may be of another version. So a version is known by its tags.
    """
    found = {}
    for entry in (e for e in entries if e["kind"] == "release"):
        wanted = entry["version"], entry["digest"]
        same = [number for number, one in there.items() if _release(one) == wanted]
        if same:
            logged = entry["registered"]
            found[entry["version"]] = logged if logged in same else min(same, key=int)
    return found


def _release(found: Any) -> tuple[str, str]:
    """Return the version and the digest that a registered version is tagged with."""
    return found.tags.get(_MARK, ""), found.tags.get("digest", "")


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


def _versions(store: Any, name: str) -> dict[str, Any]:
    """Return MLflow's number -> registered version."""
    found = store.search_model_versions(f"name = '{name}'")
    return {str(one.version): one for one in found}


def _tag(store: Any, name: str, found: Any, stage: str, since: str) -> None:
    wanted = {"stage": stage, "deprecated": str(stage == "Archived").lower()}
    if stage == "Production":
        wanted["deployment_date"] = since[:10]
    for key, value in wanted.items():
        if found.tags.get(key) != value:
            store.set_model_version_tag(name, found.version, key, value)


def _aliases(store: Any, name: str) -> dict[str, str]:
    """Return alias -> MLflow's number; a search for versions would not tell them."""
    known = store.search_registered_models(f"name = '{name}'")
    return {alias: str(number) for one in known for alias, number in one.aliases.items()}


def moved_by_hand(name: str) -> list[str]:
    """Return a sentence for each alias that says something else than the release log."""
    versions = registered_as(name)
    state = state_of(read_log(name))
    with _one_error():
        aliases = _aliases(client(), name)
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
