"""Make a run or a release again, at its commit in a worktree of git, and compare the predictions.

Nothing in the home folder is touched: the re-run has the worktree as its home and a tracking store
of its own, and both are removed however it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nivesh_lib import paths
from nivesh_lib.data.versions import load_dataset, parse_ref, read_manifest, resolve
from nivesh_lib.errors import ChecksumError, DataError, NiveshError, SpecError, StepFailed
from nivesh_lib.evaluation.confidence.calibration import scaled
from nivesh_lib.evaluation.resampling import cross_validation as oof
from nivesh_lib.files import sha256_file
from nivesh_lib.models.base import TextClassifier, load_model
from nivesh_lib.models.directory import model_hash
from nivesh_lib.pipeline.cache import differences, sha256_source
from nivesh_lib.pipeline.spec import load_pipeline
from nivesh_lib.records.base import read_record
from nivesh_lib.records.release import Release
from nivesh_lib.records.run import DatasetRecord, Environment, Git, RunRecord, StepRecord
from nivesh_lib.reproducibility import git_environment, installed_version
from nivesh_lib.runs.directories import find_run
from nivesh_lib.runs.layout import RunDirectory, notebook_of
from nivesh_lib.terminal import listed

TOLERANCE = 1e-4
WHY_TOLERANCE = (
    "sums of 32-bit floats come out otherwise in another order, which processor and threads decide"
)
_VERSION = re.compile(r"(?:([a-z0-9][a-z0-9_-]*)/)?([0-9]+\.[0-9]+\.[0-9]+)")
_PIN = re.compile(r"^([\w.-]+)==([^\s;+]+)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What became of one result: ``verdict`` is equal, within tolerance or different.

    ``compared`` says what was, on how many ``rows``; ``largest`` is the largest difference of two
    probabilities (None where none were compared), ``seconds`` what the step took this time.
    ``changed`` has the rows with another label or beyond the tolerance: id, both labels, and the
    difference. ``detail`` says why rows could not be compared at all.
    """

    step: str
    compared: str
    verdict: str
    rows: int
    largest: float | None = None
    changed: list[dict[str, Any]] = field(default_factory=list)
    detail: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Reproduction:
    """The verdicts on what was made again, and in ``notes`` what was not as it was then."""

    target: str
    commit: str
    dataset: str
    verdicts: list[Verdict]
    notes: list[str]

    @property
    def succeeded(self) -> bool:
        """Whether no result is different."""
        return all(verdict.verdict != "different" for verdict in self.verdicts)


class _Target(NamedTuple):
    """What to make again. ``release`` and its ``package`` take the place of a run that is gone."""

    title: str
    record: RunRecord
    names: list[str]  # of results
    run: RunDirectory | None = None
    release: Release | None = None
    package: Path = Path()


def reproduce(
    name: str, steps: Sequence[str] = (), report: Callable[[str], None] = lambda line: None
) -> Reproduction:
    """Make a run or a release again and compare the predictions row by row.

    Parameters
    ----------
    name : str
        ``latest``, the name or path of a run, or ``VERSION`` or ``NAME/VERSION`` of a release.
    steps : sequence of str
        Only these, or beginnings of their names; default: all with out-of-fold predictions, of a
        release its own.
    report : callable
        Gets one line before the re-run begins.

    Raises
    ------
    NiveshError
        There is no such run, release, step or commit; its data or changes to the code are not
        what they were; or the re-run failed. Nothing is left behind.
    """
    target = _release(name) or _run(name)
    record, known = target.record, target.names
    chosen = [result for result in known if not steps or result.startswith(tuple(steps))]
    if not chosen or any(not any(n.startswith(step) for n in known) for step in steps):
        raise SpecError(f"{target.title} has predictions of: {listed(known)}. Name one with --step")
    with _worktree(record.git, target.title) as home:
        _bring_data(home, record.dataset)
        only = list(dict.fromkeys(map(notebook_of, chosen)))
        needed = [step.name for step in load_pipeline(home / "notebooks").with_needs(only)]
        if target.run and record.git.dirty:
            _check_notebooks(home, target.run, needed)
        then = sum(step.seconds or 0 for name, step in record.steps.items() if name in needed)
        report(f"{target.title}, commit {record.git.commit}: {listed(needed)} ({then:.0f} s then)")
        made, run = _run_again(home, record, only, needed)
        verdicts = [_verdict(target, result, made, run) for result in chosen]
        notes = [*_notes(target, made, run, needed), *_lock_notes(home, target.release)]
    return Reproduction(target.title, record.git.commit or "", record.dataset.ref, verdicts, notes)


# --- what to make again ------------------------------------------------------------------------


def _run(name: str) -> _Target:
    run = find_run(name)
    names = [result for result in run.results() if run.table("oof", result) is not None]
    return _Target(f"run {run.record().run}", run.record(), names, run)


def _release(name: str) -> _Target | None:
    """Return a release, with its run where that is still there; None for no name of a release."""
    if not (given := _VERSION.fullmatch(name)):
        return None
    found = list(paths.releases_dir().glob(f"{given[1] or '*'}/{given[2]}/release.json"))
    if len(found) != 1:
        there = sorted(path.parent for path in paths.releases_dir().glob("*/*/release.json"))
        known = listed(f"{path.parent.name}/{path.name}" for path in there)
        raise DataError(f"{name} is {len(found) or 'no'} release(s). There are: {known}")
    release = read_record(found[0], Release, "the record of a release")
    title, step = f"release {release.name} {release.version}", release.step
    with contextlib.suppress(NiveshError):
        run = find_run(release.run)
        if model_hash(run.model(step)) == release.base:
            return _Target(title, run.record(), [step], run)
    commit, _, dirty = release.commit.partition("-")
    made = StepRecord(status="done", parameters=release.parameters, seconds=release.train_seconds)
    record = RunRecord.model_construct(
        run=release.run,
        profile="default",
        dataset=DatasetRecord(ref=release.dataset, sha256=release.data_sha256),
        steps={notebook_of(step): made},
        git=Git(commit=commit, dirty=bool(dirty)),
        environment=Environment(),
    )
    return _Target(title, record, [step], release=release, package=found[0].parent)


# --- a worktree as it was then -----------------------------------------------------------------


def _git(folder: Path, *arguments: str, given: str = "", failed: str = "git failed") -> str:
    """Return what git says in a folder. Raises NiveshError, beginning with ``failed``."""
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    options: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    try:
        done = subprocess.run(command, cwd=folder, env=git_environment(), input=given, **options)
    except FileNotFoundError:
        raise NiveshError("git is missing; it keeps the code of runs. Install it") from None
    if done.returncode:
        raise NiveshError(f"{failed} ({listed(done.stderr.splitlines()[:1])})")
    return done.stdout.strip()


@contextlib.contextmanager
def _worktree(git: Git, title: str) -> Iterator[Path]:
    """Yield the home folder in a temporary worktree, with the changes of a dirty run."""
    home, commit = paths.home(), git.commit
    if not commit:
        raise DataError(f"{title} was made without git, so its code is not known")
    if git.dirty and git.patch is None:
        raise DataError(f"{title} was made with changes that were neither committed nor kept")
    place = _git(home, "rev-parse", "--show-prefix")  # a home may lie inside its repository
    absent = f"{title}: commit {commit} is not here; in a shallow clone `git fetch --unshallow`"
    with tempfile.TemporaryDirectory(prefix="nivesh-", ignore_cleanup_errors=True) as folder:
        tree = str(Path(folder).resolve() / "worktree")
        try:
            _git(home, "worktree", "add", "--quiet", "--detach", tree, commit, failed=absent)
            if git.patch:
                lost = f"{title}: the changes kept with it do not apply"
                _git(Path(tree), "apply", "--whitespace=nowarn", "-", given=git.patch, failed=lost)
            yield Path(tree, place)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
            with contextlib.suppress(NiveshError):
                _git(home, "worktree", "remove", "--force", tree)  # only the note of it is left


def _check_notebooks(home: Path, run: RunDirectory, steps: Sequence[str]) -> None:
    """Raise where notebooks had changes: a patch leaves them out."""
    for step in steps:
        there, then = home / "notebooks" / f"{step}.ipynb", run.finished(step)
        if then is not None and then.ingredients.get("notebook") != sha256_source(there):
            raise DataError(f"{run.name}: uncommitted changes of {step}.ipynb are in no patch")


def _bring_data(home: Path, dataset: DatasetRecord) -> None:
    """Copy a dataset that was not committed, and check that it is the recorded one."""
    name, version = parse_ref(dataset.ref)
    folder = home / "data" / name
    if not (folder / f"v{version}").is_dir():
        shutil.copytree(resolve(dataset.ref).folder.parent, folder, dirs_exist_ok=True)
    found = read_manifest(folder / f"v{version}").sha256
    if found != dataset.sha256:
        raise ChecksumError(f"{dataset.ref}: sha256 {found} is not that of then, {dataset.sha256}")


# --- the re-run --------------------------------------------------------------------------------


def _run_again(
    home: Path, record: RunRecord, only: Sequence[str], needed: Sequence[str]
) -> tuple[RunRecord, RunDirectory]:
    """Run steps in a worktree as the command line does, with its own library and parameters."""
    options = [("--dataset", record.dataset.ref), ("--profile", record.profile)]
    options += [("--only", step) for step in only]
    for step in set(needed) & set(record.steps):
        given = record.steps[step].parameters.items()
        options += [("--set", f"{step}.{k}={value}") for k, value in given if k != "DATASET"]
    library = home if (home / "nivesh_lib").is_dir() else paths.package_dir().parent
    environment = git_environment() | {
        "NIVESH_HOME": str(home),
        "PYTHONPATH": f"{library}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlruns/mlflow.db",
    }
    command = [sys.executable, "-m", "nivesh_lib", "run", "--json", *itertools.chain(*options)]
    output, errors = _finished(command, home, environment)
    try:
        made = RunRecord.model_validate_json(output)
    except ValueError:
        raise StepFailed(f"the re-run stopped: {listed(errors.splitlines()[-1:])}") from None
    if made.status != "done":
        failures = ((step, made.steps[step].failure) for step in made.failed)
        causes = [f"{step}: {why.cause}: {why.detail}" for step, why in failures if why]
        raise StepFailed(f"failed in the re-run: {listed(causes)}")
    return made, RunDirectory(home / paths.runs_dir().relative_to(paths.home()) / made.run)


def _finished(command: list[str], home: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Return the output and errors of a process, which ends before this does, on Ctrl-C too."""
    pipes: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    child = subprocess.Popen(
        command, cwd=home, env=environment, stdin=subprocess.DEVNULL, encoding="utf-8", **pipes
    )
    try:
        return child.communicate()
    except BaseException:
        child.send_signal(signal.SIGINT)  # then it stops its notebooks, which takes no second
        child.communicate()
        raise


# --- the comparison ----------------------------------------------------------------------------


def _verdict(target: _Target, name: str, made: RunRecord, run: RunDirectory) -> Verdict:
    if target.release:
        verdict = _against_package(target.package, target.release, run.model(name))
    else:
        before = target.run.table("oof", name) if target.run else None
        verdict = compare(name, before, run.table("oof", name), "out-of-fold predictions")
    return replace(verdict, seconds=made.steps[notebook_of(name)].seconds)


def compare(
    step: str, before: pd.DataFrame | None, now: pd.DataFrame | None, compared: str
) -> Verdict:
    """Compare two tables of ``id``, ``fold`` and probabilities row by row, in any order of rows.

    Equal means the same bits in every probability.
    """
    rows = [0 if table is None else len(table) for table in (before, now)]
    try:
        if before is None or now is None or rows[0] != rows[1]:
            raise ValueError(f"{rows[1]:,} rows in the re-run, {rows[0]:,} in the record")
        now, before = oof.aligned_pair(now, before, before["id"], names=("re-run", "record"))
        labels = [oof.predicted_labels(table) for table in (before, now)]
    except ValueError as error:
        return Verdict(step, compared, "different", rows[0], detail=str(error))
    values = [oof.probabilities(table).to_numpy() for table in (before, now)]
    apart = np.abs(values[0].astype(float) - values[1]).max(axis=1, initial=0)
    other = labels[0] != labels[1]
    order = [n for n in np.lexsort((-apart, ~other)) if other[n] or apart[n] > TOLERANCE]
    table = {"id": before["id"], "before": labels[0], "now": labels[1], "apart": apart}
    changed: list[Any] = pd.DataFrame(table).iloc[order].to_dict("records")
    same = np.array_equal(values[0], values[1])
    verdict = "equal" if same else "different" if changed else "within tolerance"
    return Verdict(step, compared, verdict, rows[0], float(apart.max(initial=0)), changed)


def _against_package(folder: Path, release: Release, again: Path) -> Verdict:
    """Compare the model of the re-run with a released one, whose run is gone."""
    if model_hash(again) == release.base:
        return Verdict(release.step, "every file of the model, the run being gone", "equal", 0)
    train = load_dataset(release.dataset).train

    def answers(model: TextClassifier, temperature: float | None = None) -> pd.DataFrame:
        proba = model.predict_proba(train["query"])
        proba = proba if temperature is None else scaled(proba, temperature)
        return train[["id", "fold"]].assign(**dict(zip(model.classes_, proba.T, strict=True)))

    before = answers(load_model(folder / "model"))
    now = answers(load_model(again), release.temperature)
    what = "answers of the released model to the training queries, the run being gone"
    return compare(release.step, before, now, what)


def _notes(
    target: _Target, made: RunRecord, run: RunDirectory, steps: Sequence[str]
) -> Iterator[str]:
    """Yield what else differs from then: ingredients of steps, interpreter, processor."""
    for step in steps:
        then, now = target.run.finished(step) if target.run else None, run.finished(step)
        if then and now and (changes := differences(now.ingredients, then.ingredients)):
            yield f"{step}: {listed(changes)}"
    before, after = target.record.environment.processor.model, made.environment.processor.model
    if before and before != after:
        yield f"processor: {before} then, {after} now"


def _lock_notes(home: Path, release: Release | None) -> Iterator[str]:
    """Yield how the installed packages differ from the lock of that commit."""
    lock = home / "requirements.lock"
    if not lock.is_file():
        yield "that commit has no requirements.lock: what was installed then is not known"
        return
    if release and sha256_file(lock) != release.lock_sha256:
        yield "requirements.lock of that commit is not the one that the release names"
    pins = dict(_PIN.findall(lock.read_text("utf-8")))
    found = {name: installed_version(name).partition("+")[0] for name in pins}  # torch has +cpu
    if others := [
        f"{name} {found[name]} (not {pin})" for name, pin in pins.items() if found[name] != pin
    ]:
        yield f"installed is not what that requirements.lock says: {listed(others)}"
