"""Content keys of steps, and the earlier executions with the same key."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.data.versions import resolve
from nivesh_lib.errors import NiveshError
from nivesh_lib.files import sha256_file
from nivesh_lib.pipeline.spec import Step, read_notebook, source_of
from nivesh_lib.records.run import FinishedStep
from nivesh_lib.runs.directories import all_runs
from nivesh_lib.runs.layout import RunDirectory


def sha256_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


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
    """Return hashes of the files of the datasets that parameters name, and of their settings."""
    hashes = {}
    for value in parameters.values():
        if not (isinstance(value, str) and "@" in value):
            continue
        try:
            version = resolve(value)
        except NiveshError:
            continue  # the notebook gives the better message
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
    read = [(name, paths.home() / name) for name in step.reads]
    return {
        "notebook": sha256_source(step.notebook),
        "parameters": dict(parameters),
        "data": _data_hashes(parameters),
        "library": sha256_library(),
        "requirements.lock": sha256_file(lock) if lock.is_file() else "",
        "threads": step.threads,
        **{name: sha256_file(path) for name, path in read if path.is_file()},
        "upstream": {need: keys[need] for need in step.needs if need in keys},
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the content key of ``ingredients``."""
    return sha256_text(json.dumps(parts, sort_keys=True))


def differences(parts: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[str]:
    """Return what changed since the last finished run of a step, as phrases."""
    if old is None:
        return ["never run"]
    changes = []
    for name, value in parts.items():
        before = old.get(name)
        if value == before:
            continue
        if not isinstance(value, dict) or not isinstance(before, dict):
            changes.append(f"{name} changed")
            continue
        changed = [k for k in sorted({*value, *before}) if value.get(k) != before.get(k)]
        changes += [
            f"{k}: {before.get(k)!r} -> {value.get(k)!r}"
            if name == "parameters"
            else f"{name} {k} changed"
            for k in changed
        ]
    return changes


def finished_steps(step: str) -> list[tuple[RunDirectory, FinishedStep]]:
    """Return run directory and record of each successful execution of a step, newest first."""
    found = ((run, run.finished(step)) for run in reversed(all_runs()))
    return [(run, record) for run, record in found if record is not None and record.done]


def intact(run: RunDirectory, record: FinishedStep) -> bool:
    """Return whether a finished step has files, all of them inside the run and unchanged."""
    return bool(record.files) and all(
        _is_inside(name) and (run.path / name).is_file() and sha256_file(run.path / name) == digest
        for name, digest in record.files.items()
    )


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts
