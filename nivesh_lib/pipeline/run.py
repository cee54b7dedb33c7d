"""Run the pipeline: plan against the cache, execute stale steps, record, render the report."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nivesh_lib import paths
from nivesh_lib.data.versions import DataVersion, resolve
from nivesh_lib.errors import SpecError, StepFailed
from nivesh_lib.files import remove_abandoned
from nivesh_lib.pipeline import cache
from nivesh_lib.pipeline.executors import Job, LocalExecutor, get_executor
from nivesh_lib.pipeline.space import check_space
from nivesh_lib.pipeline.spec import (
    Pipeline,
    Step,
    changed_parameters,
    load_pipeline,
    parse_settings,
    resolve_parameters,
)
from nivesh_lib.privacy import hide_password
from nivesh_lib.records.run import FinishedStep, RunRecord, StepRecord
from nivesh_lib.reproducibility import environment, git_state
from nivesh_lib.runs.directories import all_runs, check_places, latest_run, new_run, point_latest
from nivesh_lib.runs.layout import RunDirectory

DEFAULT_DATASET = "intents@1.2.0"
_FAMILIES = {"intent_classification": "intents"}
Report = Callable[[str], None]


@dataclass(frozen=True)
class Planned:
    """One step with its parameters, content key, and the earlier execution with the same key.

    ``why`` lists what changed; it has no meaning where ``cached`` is set. ``remarks`` says whether
    the notebook's remarks about the shipped data hold: its parameters and those of the steps that
    it needs are the defaults.
    """

    step: Step
    parameters: dict[str, Any]
    key: str
    ingredients: dict[str, Any]
    cached: tuple[RunDirectory, FinishedStep] | None
    why: list[str]
    remarks: bool

    @property
    def line(self) -> str:
        """The text that a dry run prints after the name of the step."""
        if self.cached:
            return "nothing changed"
        more = f" (and {len(self.why) - 3} more)" if len(self.why) > 3 else ""
        return "would run: " + "; ".join(self.why[:3]) + more


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
    changed: set[str] = set()
    for step in steps:
        parts = cache.ingredients(step, parameters[step.name], keys)
        keys[step.name] = key = cache.key_of(parts)
        earlier = cache.finished_steps(step.name)
        hit = next(((run, r) for run, r in earlier if r.key == key and cache.intact(run, r)), None)
        why: list[str] = []
        if force:
            hit, why = None, ["--force"]
        elif not hit:
            why = cache.differences(parts, earlier[0][1].ingredients if earlier else None)
        reasons = why or ["files changed"]
        own = parameters[step.name]
        if changed.intersection(step.needs) or changed_parameters(step.notebook, own):
            changed.add(step.name)
        remarks = step.name not in changed
        planned.append(Planned(step, own, key, parts, hit, reasons, remarks))
    return planned


def close_dead_runs(report: Report) -> None:
    """Mark the open steps of killed runs as KILLED, in MLflow and in ``run.json``."""
    for run in all_runs():
        opened = run.open_steps()
        record = run.sound_record()
        unfinished = record is not None and record.status == "running"
        if not (opened or unfinished) or run.is_alive():
            continue
        from nivesh_lib.tracking.logger import close_run, close_runs_of

        for step, mlflow_run_id in opened.items():
            try:
                if mlflow_run_id:
                    close_run(mlflow_run_id, "KILLED")
            except Exception as error:  # the store may be another one today
                report(f"  could not close an MLflow run of {run.name}: {error}")
            run.close_step(step)
        with contextlib.suppress(Exception):  # the same
            close_runs_of(run.name)
        run.remove_partial()
        if record is not None and unfinished:
            run.write_record(record.changed(status="killed"))
        report(f"  run {run.name} had been killed; its finished steps are used again")


@dataclass(frozen=True)
class Request:
    """The resolved and checked arguments of a run."""

    profile: str
    version: DataVersion
    steps: tuple[Step, ...]
    parameters: dict[str, dict[str, Any]]
    whole: bool  # all steps, not in the profile smoke: such a run may become the latest


def resolve_request(
    profile: str, dataset: str | None, only: Sequence[str], settings: Sequence[str]
) -> Request:
    """Return a request; raises SpecError or DataError for invalid arguments."""
    pipeline = load_pipeline(paths.notebooks_dir())
    if profile not in pipeline.profiles:
        raise SpecError(f"unknown profile {profile!r}; there are: {', '.join(pipeline.profiles)}")
    version = resolve(dataset or DEFAULT_DATASET)
    steps = _choose(pipeline, version, only)
    parameters = resolve_parameters(
        steps,
        profile=profile,
        dataset=version.ref if dataset else None,
        settings=parse_settings(settings),
        ranges=pipeline.ranges,
    )
    return Request(profile, version, steps, parameters, not only and profile != "smoke")


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
) -> tuple[RunRecord, RunDirectory] | None:
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
    tuple or None
        None for a dry run. When nothing changed since the last good run, that run.

    Raises
    ------
    NiveshError
        Before anything was started: a request, ``pipeline.toml``, the data, or a file
        below ``reports/`` does not allow the run.
    """
    check_places()
    request = resolve_request(profile, dataset, only, settings)
    planned = plan(request.steps, request.parameters, force=force)
    if dry_run:
        for item in planned:
            report(f"  {item.step.name:<22}{item.line}")
        return None
    close_dead_runs(report)
    remove_abandoned(paths.reports_dir(), deep=False)
    remove_abandoned(paths.scratch_dir())
    workers = get_executor(executor, jobs)
    if request.whole and (unchanged := _last_run_if_unchanged(planned)):
        for item in planned:
            report(f"  {item.step.name:<22}nothing changed")
        return unchanged
    from nivesh_lib.tracking.store import check_store

    stale = [item.step.name for item in planned if not item.cached]
    check_space(profile, stale)
    store = check_store() if stale else ""
    with new_run() as run:
        execution = Execution(run, _new_record(run, request, store), workers, report, store)
        try:
            execution.execute(planned)
            return _finish(run, execution.record, whole=request.whole), run
        except BaseException:  # Ctrl-C too: no worker and no record of a running run may remain
            workers.stop()
            with contextlib.suppress(OSError):  # on a full disk the next run says that it ended
                run.write_record(execution.record.changed(status="killed"))
            raise


def _new_record(run: RunDirectory, request: Request, store: str) -> RunRecord:
    """Return the record of a run that begins; reports are passed on, so without a password."""
    version = request.version
    return RunRecord.model_validate(
        {
            "run": run.name,
            "status": "running",
            "profile": request.profile,
            "dataset": {"ref": version.ref, "sha256": version.sha256, "rows": version.rows},
            "started": _now(),
            "steps": {},
            "git": git_state(),
            "environment": environment(),
            "mlflow_uri": hide_password(store),
            "seconds": 0.0,
            "ended": None,
            "complete": False,
        }
    )


def _last_run_if_unchanged(planned: Sequence[Planned]) -> tuple[RunRecord, RunDirectory] | None:
    latest = latest_run()
    record = latest.sound_record()
    if record is None or not record.complete or not latest.index.is_file():
        return None
    keys = {name: step.key for name, step in record.steps.items()}
    same = keys == {item.step.name: item.key for item in planned}
    if not same or not all(item.cached for item in planned):
        return None
    return record, RunDirectory(latest.path.resolve())


@dataclass
class Execution:
    """The execution of the steps of one run; ``record`` is updated as steps end."""

    run: RunDirectory
    record: RunRecord
    workers: LocalExecutor
    report: Report
    tracking_uri: str

    def __post_init__(self) -> None:
        self._started = time.time()
        self.run.write_record(self.record)

    def execute(self, planned: Sequence[Planned]) -> None:
        """Link the cached steps; run each other one as soon as its needs are done.

        A cached step whose run was removed meanwhile is executed again.
        """
        for item in planned:
            if item.cached:
                self._use_cached(item, *item.cached)
        waiting = [item for item in planned if item.step.name not in self.record.steps]
        running: dict[str, Planned] = {}
        while waiting or running:
            for item in startable(waiting, running, self.record, self.workers.slots):
                waiting.remove(item)
                running[item.step.name] = item
                self.workers.start(self._job(item))
            for item in _blocked(waiting, self.record):
                waiting.remove(item)
                self._skip(item)
            for name in self.workers.wait() if running else []:
                self._end(running.pop(name))
        self._update()

    def _update(self, **steps: StepRecord) -> None:
        seconds = round(time.time() - self._started, 1)
        self.record = self.record.changed(steps=self.record.steps | steps, seconds=seconds)

    def _use_cached(self, item: Planned, source: RunDirectory, cached: FinishedStep) -> None:
        name = item.step.name
        try:
            self.run.link_step(name, source, list(cached.files))
        except FileNotFoundError:
            self.report(f"  {name:<22}runs again: {source.name} was removed meanwhile")
            return
        self._update(**{name: cached.summary().changed(cached_from=source.name)})
        self.report(f"  {name:<22}nothing changed")

    def _skip(self, item: Planned) -> None:
        name, steps = item.step.name, self.record.steps
        need = next(n for n in item.step.needs if n not in steps or not steps[n].done)
        self._update(**{name: StepRecord(status="skipped", why=f"needs {need}")})
        self.report(f"  {name:<22}skipped: needs {need}, which did not finish")

    def _end(self, item: Planned) -> None:
        name = item.step.name
        finished = self.run.finished(name)
        self._update(**{name: finished.summary() if finished else _died(item)})
        self.run.write_record(self.record)
        self.report(_line(self.run, self.record, name))

    def _store(self) -> str:
        """Return the address of the tracking store, opened where no step was meant to need it."""
        if not self.tracking_uri:
            from nivesh_lib.tracking.store import check_store

            self.tracking_uri = check_store()
            self.record = self.record.changed(mlflow_uri=hide_password(self.tracking_uri))
        return self.tracking_uri

    def _job(self, item: Planned) -> Job:
        return Job(
            step=item.step.name,
            notebook=str(item.step.notebook),
            run_dir=str(self.run.path),
            parameters=item.parameters,
            remarks=item.remarks,
            key=item.key,
            ingredients=item.ingredients,
            threads=item.step.threads,
            timeout_s=item.step.timeout_s,
            tracking_uri=self._store(),
        )


def _died(item: Planned) -> StepRecord:
    failure = {"cause": "the worker died", "detail": "no record was left", "cell": None}
    return StepRecord.model_validate(
        {"status": "failed", "failure": failure, "key": item.key, "seconds": None, "cells": 0}
    )


def _ready(item: Planned, record: RunRecord, among: set[str]) -> bool:
    return all(
        need in record.steps and record.steps[need].done
        for need in item.step.needs
        if need in among or need in record.steps
    )


def startable(
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
    dead = {name for name, step in record.steps.items() if not step.done}
    return [item for item in waiting if dead & set(item.step.needs)]


def _line(run: RunDirectory, record: RunRecord, name: str) -> str:
    step, result = record.steps[name], run.result(name)
    if step.done:
        headline = result.headline if result else ""
        cells = f"{step.cells} cells"
        return f"  {name:<22}{cells:>9} {step.seconds or 0:>6.1f} s   {headline}"
    return "  " + failure_message(run, record, name).replace("\n", "\n  ")


def failure_message(run: RunDirectory, record: RunRecord, name: str) -> str:
    """Return notebook, cell, cause, evidence and the next command of a failed step."""
    failure, again = record.steps[name].failure, f"nivesh run --only {name}"
    if record.dataset.ref != DEFAULT_DATASET:
        again += f" --dataset {record.dataset.ref}"
    if record.profile != "default":
        again += f" --profile {record.profile}"
    cell = f", cell [{failure.cell}]" if failure and failure.cell else ""
    cause = f"{failure.cause}: {failure.detail}" if failure else "the cause is unknown"
    page = run.page(name)
    evidence = run.path / page if page else run.log(name)
    return (
        f"FAILED notebooks/{name}.ipynb{cell}: {cause}\n"
        f"  evidence: {paths.relative(evidence)}\n"
        f"  next:     mend it, then `{again}` (finished steps are not run again)"
    )


def _finish(run: RunDirectory, record: RunRecord, *, whole: bool) -> RunRecord:
    """Render the report, close the record, and point ``reports/latest`` at a complete run.

    A run that is killed before its report is written stays unfinished; the next one links its
    steps.
    """
    from nivesh_lib.reporting.html import write_report

    good = all(step.done for step in record.steps.values())
    status = "done" if good else "failed"
    record = record.changed(status=status, complete=good and whole, ended=_now())
    write_report(run, record)
    run.remove_partial()  # before the record, since later runs look into unfinished ones only
    run.write_record(record)
    if record.complete:
        point_latest(run)
    return record


def raise_for_failures(record: RunRecord, run: RunDirectory) -> None:
    """Raise StepFailed when a step of the run failed."""
    if failed := record.failed:
        raise StepFailed(
            f"{len(failed)} of {len(record.steps)} notebooks failed: {', '.join(failed)}. "
            f"See {paths.relative(run.index)}"
        )
