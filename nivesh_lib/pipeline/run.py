"""Run the pipeline: plan against the cache, execute what is stale, record, render."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.data.versions import DataVersion, resolve
from nivesh_lib.errors import NiveshError, SpecError, StepFailed
from nivesh_lib.pipeline import cache
from nivesh_lib.pipeline.executors import Executor, Job, get_executor
from nivesh_lib.pipeline.spec import (
    Pipeline,
    Step,
    load_pipeline,
    parse_settings,
    resolve_parameters,
)
from nivesh_lib.privacy import hide_password
from nivesh_lib.records.schema import NUMBER, read_object
from nivesh_lib.reproducibility import environment, git_state

DEFAULT_DATASET = "intents@1.1.0"
_FAMILIES = {"intent_classification": "intents"}
Report = Callable[[str], None]
# What is read again of a ``run.json``.
RUN_RECORD = {
    "run": str,
    "status": str,
    "profile": str,
    "dataset": {"ref": str},
    "started": str,
    "steps": {"*": {"status": str}},
    "git": dict,
    "environment": dict,
    "mlflow_uri": str,
    "seconds": NUMBER,
    "complete": bool,
}


@dataclass(frozen=True)
class Planned:
    """One step with its parameters, content key, and where it was computed before."""

    step: Step
    parameters: dict[str, Any]
    key: str
    ingredients: dict[str, Any]
    cached_in: Path | None
    cached: dict[str, Any] | None
    why: list[str]


@dataclass
class RunRecord:
    """What ``run.json`` says of a run."""

    run: str
    status: str
    profile: str
    dataset: dict[str, Any]
    started: str
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    git: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    mlflow_uri: str = ""
    seconds: float = 0.0
    ended: str | None = None
    complete: bool = False

    def write(self, folder: Path) -> None:
        """Write ``run.json`` in one step; reports are passed on, so without a password."""
        partial = folder / ".run.json.partial"
        told = self.__dict__ | {"mlflow_uri": hide_password(self.mlflow_uri)}
        partial.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n")
        partial.replace(folder / "run.json")


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run directory, or None when it has none."""
    found = read_object(folder / "run.json", RUN_RECORD)
    try:
        return RunRecord(**found) if found else None
    except TypeError:  # a key that no version of this code wrote
        return None


def _check_places() -> None:
    """Refuse to start where the run directory or the link to the last good run cannot be made."""
    for folder in (paths.reports_dir(), paths.runs_dir()):
        if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
            what = "a file" if folder.exists() else "a link that leads nowhere"
            raise NiveshError(
                f"{paths.relative(folder)} is {what}; a folder is needed there. "
                "Move it away and start again"
            )
    link = paths.latest_run()
    if link.exists() and not link.is_symlink():
        what = "a folder" if link.is_dir() else "a file"
        raise NiveshError(
            f"{paths.relative(link)} is {what} of its own; the link to the last good run "
            "belongs there. Move it away and start again"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _choose(pipeline: Pipeline, version: DataVersion, only: Sequence[str]) -> tuple[Step, ...]:
    task = str(version.manifest.get("task"))
    if task not in _FAMILIES:
        raise SpecError(f"{version.ref} is a dataset for {task!r}; no step of the pipeline uses it")
    steps = pipeline.with_needs(only) if only else pipeline.steps
    chosen = tuple(step for step in steps if step.family == _FAMILIES[task])
    if not chosen:
        raise SpecError(f"pipeline.toml has no step of the family {_FAMILIES[task]!r}")
    return chosen


def plan(
    steps: Sequence[Step],
    parameters: Mapping[str, dict[str, Any]],
    *,
    force: bool = False,
) -> list[Planned]:
    """Return the steps in order, each with its key and the cached result if there is one."""
    planned: list[Planned] = []
    keys: dict[str, str] = {}
    for step in steps:
        parts = cache.ingredients(step, parameters[step.name], keys)
        keys[step.name] = key = cache.key_of(parts)
        earlier = cache.records(paths.runs_dir(), step.name)
        hit = next(
            ((run, r) for run, r in earlier if r["key"] == key and cache.intact(run, r)), None
        )
        why = (
            []
            if hit
            else cache.differences(parts, earlier[0][1]["ingredients"] if earlier else None)
        )
        if force:
            hit, why = None, ["--force"]
        run, record = hit or (None, None)
        planned.append(
            Planned(step, parameters[step.name], key, parts, run, record, why or ["files changed"])
        )
    return planned


@contextmanager
def _run_directory() -> Iterator[Path]:
    """Make a fresh run directory and hold its lock; a free lock tells that a run is dead."""
    root = paths.runs_dir()
    root.mkdir(parents=True, exist_ok=True)
    stem = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(100):
        folder = root / (stem if not number else f"{stem}-{number}")
        try:
            folder.mkdir()
            break
        except FileExistsError:
            continue
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def is_alive(folder: Path) -> bool:
    """Return whether some process is working in a run directory."""
    try:
        with (folder / ".lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def close_dead_runs(report: Report) -> None:
    """Mark what a killed run left open as KILLED, in MLflow and in its ``run.json``."""
    for folder in sorted(paths.runs_dir().glob("*")):
        opened = sorted(folder.glob("open/*.json"))
        record = read_record(folder)
        unfinished = record is not None and record.status == "running"
        if not (opened or unfinished) or is_alive(folder):
            continue
        from nivesh_lib.tracking.runs import close_run

        for path in opened:
            told = read_object(path, cache.OPENED)
            try:
                if told:
                    close_run(told["mlflow_run_id"], "KILLED")
            except Exception as error:  # the store may be another one today
                report(f"  could not close an MLflow run of {folder.name}: {error}")
            path.unlink(missing_ok=True)
        if record is not None and unfinished:
            record.status = "killed"
            record.write(folder)
        report(f"  run {folder.name} had been killed; its finished steps are used again")


def run_pipeline(
    *,
    profile: str = "default",
    dataset: str | None = None,
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    executor: str = "local",
    jobs: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = lambda line: None,
) -> tuple[RunRecord | None, Path | None]:
    """Bring every chosen step up to date; return the run's record and directory.

    Parameters
    ----------
    only : sequence of str
        Steps to run with what they need; empty: all of the dataset's family.
    settings : sequence of str
        ``NAME=VALUE`` or ``STEP.NAME=VALUE``.
    report : callable
        Gets one line of progress at a time.

    Returns
    -------
    tuple
        ``(None, None)`` for a dry run. When nothing changed since the last good
        run, that run.

    Raises
    ------
    NiveshError
        Before anything was started: a request, ``pipeline.toml``, the data, or what lies
        below ``reports/`` does not allow the run.
    """
    _check_places()
    pipeline = load_pipeline(paths.notebooks_dir())
    if profile not in pipeline.profiles:
        raise SpecError(f"unknown profile {profile!r}; there are: {', '.join(pipeline.profiles)}")
    version = resolve(dataset or DEFAULT_DATASET)
    steps = _choose(pipeline, version, only)
    chosen = version.ref if dataset else None
    parameters = resolve_parameters(
        steps,
        profile=profile,
        dataset=chosen,
        settings=parse_settings(settings),
        ranges=pipeline.ranges,
    )
    planned = plan(steps, parameters, force=force)
    if dry_run:
        for item in planned:
            report(f"  {item.step.name:<22}{_plan_line(item)}")
        return None, None
    close_dead_runs(report)
    whole = not only and profile != "smoke"
    workers = get_executor(executor, jobs)
    unchanged = _last_run_if_unchanged(planned) if whole else None
    if unchanged:
        for item in planned:
            report(f"  {item.step.name:<22}nothing changed")
        return unchanged
    store = ""
    if not all(item.cached for item in planned):
        from nivesh_lib.tracking.runs import check_store

        store = check_store()
    with _run_directory() as folder:
        record = RunRecord(
            run=folder.name,
            status="running",
            profile=profile,
            dataset={"ref": version.ref, "sha256": version.sha256, "rows": version.rows},
            started=_now(),
            git=git_state(),
            environment=environment(),
            mlflow_uri=store,
        )
        record.write(folder)
        _execute(planned, folder, record, workers, report)
        _finish(folder, record, whole=whole)
    return record, folder


def _plan_line(item: Planned) -> str:
    if item.cached:
        return "nothing changed"
    more = f" (and {len(item.why) - 3} more)" if len(item.why) > 3 else ""
    return "would run: " + "; ".join(item.why[:3]) + more


def _last_run_if_unchanged(planned: Sequence[Planned]) -> tuple[RunRecord, Path] | None:
    folder = paths.latest_run()
    record = read_record(folder) if folder.exists() else None
    if record is None or not record.complete or not (folder / "index.html").is_file():
        return None
    keys = {name: step.get("key") for name, step in record.steps.items()}
    if keys != {item.step.name: item.key for item in planned}:
        return None
    if not all(item.cached for item in planned):
        return None
    return record, folder.resolve()


def _execute(
    planned: Sequence[Planned], folder: Path, record: RunRecord, workers: Executor, report: Report
) -> None:
    started = time.time()
    by_name = {item.step.name: item for item in planned}
    for item in planned:
        if item.cached and item.cached_in:
            _use_cached(item, folder, record, report)
    waiting = [item for item in planned if item.step.name not in record.steps]
    running: dict[str, Planned] = {}
    try:
        while waiting or running:
            for item in _startable(waiting, running, record, workers.slots):
                waiting.remove(item)
                running[item.step.name] = item
                workers.start(_job(item, folder, record.mlflow_uri))
            for item in _blocked(waiting, record):
                waiting.remove(item)
                bad = [
                    n for n in item.step.needs if record.steps.get(n, {}).get("status") != "done"
                ]
                record.steps[item.step.name] = {"status": "skipped", "why": f"needs {bad[0]}"}
                report(f"  {item.step.name:<22}skipped: needs {bad[0]}, which did not finish")
            for name in workers.wait() if running else []:
                del running[name]
                record.steps[name] = _outcome(folder, by_name[name])
                record.seconds = round(time.time() - started, 1)
                record.write(folder)
                report(_line(folder, record, name))
    except BaseException:  # Ctrl-C too: leave nothing behind that looks alive
        workers.stop()
        record.status = "killed"
        record.write(folder)
        raise
    record.seconds = round(time.time() - started, 1)


def _use_cached(item: Planned, folder: Path, record: RunRecord, report: Report) -> None:
    assert item.cached is not None and item.cached_in is not None
    name = item.step.name
    cache.link([*item.cached["files"], f"steps/{name}.json"], item.cached_in, folder)
    record.steps[name] = {**_short(item.cached), "cached_from": item.cached_in.name}
    report(f"  {name:<22}nothing changed")


def _short(step_record: Mapping[str, Any]) -> dict[str, Any]:
    kept = (
        "status",
        "key",
        "parameters",
        "mlflow_run_id",
        "cells",
        "seconds",
        "failure",
        "threads",
    )
    return {k: step_record.get(k) for k in kept}


def _ready(item: Planned, record: RunRecord, among: set[str]) -> bool:
    return all(
        record.steps.get(need, {}).get("status") == "done"
        for need in item.step.needs
        if need in among or need in record.steps
    )


def _startable(
    waiting: Sequence[Planned], running: Mapping[str, Planned], record: RunRecord, slots: int
) -> list[Planned]:
    """Return the steps to start now: an exclusive one only when nothing else runs."""
    if any(item.step.exclusive for item in running.values()):
        return []
    names = {item.step.name for item in waiting} | set(running)
    ready = [item for item in waiting if _ready(item, record, names)]
    shared = [item for item in ready if not item.step.exclusive]
    if shared:
        return shared[: max(0, slots - len(running))]
    return ready[:1] if ready and not running else []


def _blocked(waiting: Sequence[Planned], record: RunRecord) -> list[Planned]:
    dead = {name for name, step in record.steps.items() if step["status"] != "done"}
    return [item for item in waiting if dead & set(item.step.needs)]


def _job(item: Planned, folder: Path, uri: str) -> Job:
    return Job(
        step=item.step.name,
        notebook=str(item.step.notebook),
        run_dir=str(folder),
        parameters=item.parameters,
        key=item.key,
        ingredients=item.ingredients,
        threads=item.step.threads,
        timeout_s=item.step.timeout_s,
        tracking_uri=uri,
    )


def _outcome(folder: Path, item: Planned) -> dict[str, Any]:
    told = read_object(folder / "steps" / f"{item.step.name}.json", cache.STEP_RECORD)
    if told is not None:
        return _short(told)
    failure = {"cause": "the worker died", "detail": "no record was left", "cell": None}
    return {"status": "failed", "failure": failure, "key": item.key, "seconds": None, "cells": 0}


def headline(folder: Path, step: str) -> str:
    """Return the one line that a step's notebook says of itself."""
    told = read_object(folder / "results" / f"{step}.json") or {}
    return str(told.get("headline", ""))


def _line(folder: Path, record: RunRecord, name: str) -> str:
    step = record.steps[name]
    if step["status"] == "done":
        cells = f"{step['cells']} cells"
        return f"  {name:<22}{cells:>9} {step['seconds']:>6.1f} s   {headline(folder, name)}"
    return "  " + failure_message(folder, record, name).replace("\n", "\n  ")


def failure_message(folder: Path, record: RunRecord, name: str) -> str:
    """Return notebook, cell, cause, evidence and the next command of a failed step."""
    step, again = record.steps[name], f"nivesh run --only {name}"
    if record.dataset["ref"] != DEFAULT_DATASET:
        again += f" --dataset {record.dataset['ref']}"
    if record.profile != "default":
        again += f" --profile {record.profile}"
    failure = step.get("failure") or {}
    cell = f", cell [{failure['cell']}]" if failure.get("cell") else ""
    page = folder / "notebooks" / f"{name}.html"
    evidence = page if page.is_file() else folder / "logs" / f"{name}.log"
    return (
        f"FAILED notebooks/{name}.ipynb{cell}: {failure.get('cause')}: {failure.get('detail')}\n"
        f"  evidence: {paths.relative(evidence)}\n"
        f"  next:     mend it, then `{again}` (finished steps are not run again)"
    )


def _finish(folder: Path, record: RunRecord, *, whole: bool) -> None:
    """Render the report, close the record, and point ``reports/latest`` at a good whole run."""
    from nivesh_lib.reporting.site import build_site

    good = all(step["status"] == "done" for step in record.steps.values())
    record.status = "done" if good else "failed"
    record.complete = good and whole
    record.ended = _now()
    record.write(folder)
    build_site(folder)
    shutil.rmtree(folder / ".partial", ignore_errors=True)
    if record.complete:
        point_latest(folder)


def point_latest(folder: Path) -> None:
    """Let ``reports/latest`` be this run, without a moment in which it is nothing."""
    link = paths.latest_run()
    partial = link.with_name(f".latest.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(folder, link.parent))
    partial.replace(link)


def raise_for_failures(record: RunRecord, folder: Path) -> None:
    """Raise StepFailed when a step of the run failed."""
    failed = [name for name, step in record.steps.items() if step["status"] == "failed"]
    if failed:
        raise StepFailed(
            f"{len(failed)} of {len(record.steps)} notebooks failed: {', '.join(failed)}. "
            f"See {paths.relative(folder / 'index.html')}"
        )


def prune(keep: int) -> list[str]:
    """Remove all but the newest ``keep`` runs; the latest good one and live ones stay."""
    if keep < 1:
        raise SpecError(f"--keep {keep}: keep at least 1")
    latest = paths.latest_run().resolve()
    runs = sorted((p for p in paths.runs_dir().glob("*") if p.is_dir()), reverse=True)
    gone = [p for p in runs[keep:] if p != latest and not is_alive(p)]
    for folder in gone:
        shutil.rmtree(folder)
    return [folder.name for folder in gone]
