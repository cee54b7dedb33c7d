"""Content keys: what a step's result depends on, and where the same was computed before."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.data.versions import resolve
from nivesh_lib.errors import NiveshError
from nivesh_lib.pipeline.spec import Step, read_notebook, source_of
from nivesh_lib.records.schema import NUMBER, read_object

# Where a step leaves things below a run directory: <kind>/<step> or <kind>/<step>.<suffix>.
KINDS = (
    *("results", "oof", "probes", "models", "folds"),
    *("figures", "drift", "notebooks", "logs"),
)
# What the worker says of a step; anything else in its place is as good as no record.
STEP_RECORD = {
    "status": str,
    "key": str,
    "ingredients": dict,
    "parameters": dict,
    "cells": int,
    "seconds": NUMBER,
    "mlflow_run_id": str | None,
    "failure": dict | None,
    "files": {"*": str},
}
OPENED = {"mlflow_run_id": str}  # of ``open/<step>.json``, there while a notebook runs


def sha256_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_source(notebook: Path) -> str:
    """Return the hash of a notebook's cells: type, source and tags; outputs do not count."""
    cells = [
        [cell["cell_type"], source_of(cell), cell.get("metadata", {}).get("tags", [])]
        for cell in read_notebook(notebook)["cells"]
    ]
    return sha256_text(json.dumps(cells))


@functools.cache
def sha256_library() -> str:
    """Return one hash over the library's own sources and templates."""
    package = paths.package_dir()
    files = sorted(p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sha256_text("\n".join(f"{p.relative_to(package)} {sha256_file(p)}" for p in files))


def _data_hashes(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return hashes of the dataset versions that parameters name and of what lies beside them."""
    hashes = {}
    for value in parameters.values():
        if not (isinstance(value, str) and "@" in value):
            continue
        try:
            version = resolve(value)
        except NiveshError:
            continue  # the notebook says it better
        for path in sorted(p for p in version.folder.iterdir() if p.is_file()):
            hashes[f"{value}/{path.name}"] = sha256_file(path)
        for path in (
            version.folder.parent / "rules.toml",
            paths.objectives_file(version.name),
            paths.cases_file(version.name),
        ):
            if path.is_file():
                hashes[f"{version.name}/{path.name}"] = sha256_file(path)
    return hashes


def ingredients(
    step: Step, parameters: Mapping[str, Any], keys: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that decides a step's result, as a JSON-serialisable dict."""
    lock = paths.home() / "requirements.lock"
    return {
        "notebook": sha256_source(step.notebook),
        "parameters": dict(parameters),
        "data": _data_hashes(parameters),
        "library": sha256_library(),
        "requirements.lock": sha256_file(lock) if lock.is_file() else "",
        "threads": step.threads,
        "upstream": {need: keys[need] for need in step.needs if need in keys},
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the content key of ``ingredients``."""
    return sha256_text(json.dumps(parts, sort_keys=True))


def differences(parts: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[str]:
    """Return what changed since the last finished run of a step, in words."""
    if old is None:
        return ["never run"]
    told = []
    for name, value in parts.items():
        before = old.get(name)
        if value == before:
            continue
        if not isinstance(value, dict) or not isinstance(before, dict):
            told.append(f"{name} changed")
            continue
        for inner in sorted(set(value) | set(before)):
            if value.get(inner) == before.get(inner):
                continue
            if name == "parameters":
                told.append(f"{inner}: {before.get(inner)!r} -> {value.get(inner)!r}")
            else:
                told.append(f"{name} {inner} changed")
    return told


def step_files(run: Path, step: str) -> list[Path]:
    """Return all files that a step left in a run directory."""
    found = []
    for kind in KINDS:
        folder = run / kind
        if not folder.is_dir():
            continue
        for entry in folder.iterdir():
            if entry.name == step or entry.name.startswith(f"{step}."):
                found += [p for p in entry.rglob("*") if p.is_file()] if entry.is_dir() else [entry]
    return sorted(found)


def records(runs: Path, step: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return (run directory, record) of each finished execution of a step, newest first."""
    found = []
    for path in sorted(runs.glob(f"*/steps/{step}.json"), reverse=True):
        record = read_object(path, STEP_RECORD)
        if record and record["status"] == "done":
            found.append((path.parent.parent, record))
    return found


def intact(run: Path, record: Mapping[str, Any]) -> bool:
    """Return whether every file of a finished step is still what it was, and the step's own."""
    files: Mapping[str, str] = record["files"]
    return bool(files) and all(
        _is_inside(name) and (run / name).is_file() and sha256_file(run / name) == digest
        for name, digest in files.items()
    )


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def link(names: Iterable[str], source: Path, target: Path) -> None:
    """Bring files of an earlier run into a new one without copying where the disk allows it."""
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(source / name, place)
        except OSError:
            shutil.copy2(source / name, place)
