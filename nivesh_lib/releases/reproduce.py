"""Make a run or a release again, at its commit in a worktree of git, and compare the predictions.

Nothing in the home folder is touched: the re-run has the worktree as its home and a tracking store
of its own, and both are removed however it ends.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
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
from typing import TYPE_CHECKING, Any

from nivesh_lib import paths
from nivesh_lib.data.versions import load_dataset, parse_ref, read_manifest, resolve
from nivesh_lib.errors import ChecksumError, DataError, NiveshError, SpecError, StepFailed
from nivesh_lib.files import sha256_file
from nivesh_lib.pipeline.cache import differences, sha256_source
from nivesh_lib.pipeline.spec import load_pipeline
from nivesh_lib.records.base import read_record
from nivesh_lib.records.release import Release
from nivesh_lib.records.run import DatasetRecord, Git, RunRecord
from nivesh_lib.reproducibility import git_environment
from nivesh_lib.runs.directories import find_run
from nivesh_lib.runs.layout import RunDirectory, notebook_of
from nivesh_lib.terminal import listed

if TYPE_CHECKING:
    import pandas as pd

    from nivesh_lib.models.base import TextClassifier

TOLERANCE = 1e-4
WHY_TOLERANCE = (
    "sums of 32-bit floats come out otherwise in another order, which processor and threads "
    "decide; so small a difference changes no label"
)
_VERSION = re.compile(r"(?:([a-z0-9][a-z0-9_-]*)/)?([0-9]+\.[0-9]+\.[0-9]+)")


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


@dataclass(frozen=True)
class _Target:
    """What to make again: its record, the names of its results, and where these are kept.

    One of ``run`` and ``package`` is there: a package where the run of a release is gone.
    """

    title: str
    record: RunRecord
    names: list[str]
    run: RunDirectory | None = None
    package: tuple[Path, Release] | None = None


def reproduce(
    name: str, steps: Sequence[str] = (), report: Callable[[str], None] = lambda line: None
) -> Reproduction:
    """Make a run or a release again and compare the predictions row by row.

    Parameters
    ----------
    name : str
        ``latest``, the name or path of a run, or ``VERSION`` or ``NAME/VERSION`` of a release.
    steps : sequence of str
        Only these, named as for a run; default: all with out-of-fold predictions, of a release
        its own.
    report : callable
        Gets one line before the re-run begins.

    Raises
    ------
    NiveshError
        There is no such run, release, step or commit; its data or changes to the code are not
        what they were; or the re-run failed. Nothing is left behind.
    """
    target = _release(name, steps) or _run(name, steps)
    record, only = target.record, sorted({notebook_of(result) for result in target.names})
    with _worktree(record.git, target.title) as home:
        _bring_data(home, record.dataset)
        needed = [step.name for step in load_pipeline(home / "notebooks").with_needs(only)]
        if target.run and record.git.dirty:
            _check_notebooks(home, target.run, needed)
        then = sum(record.steps[step].seconds or 0 for step in needed if step in record.steps)
        took = f"; that took {then:.0f} s then" if then else ""
        report(f"{target.title} at {record.git.commit}: {listed(needed)} run again{took}")
        made, run = _run_again(home, record, only, needed)
        verdicts = [_verdict(target, result, made, run) for result in target.names]
        notes = [*_notes(target, made, run, needed), *_lock_notes(home, target)]
    return Reproduction(target.title, record.git.commit or "", record.dataset.ref, verdicts, notes)


# --- what to make again ------------------------------------------------------------------------


def _run(name: str, steps: Sequence[str]) -> _Target:
    run = find_run(name)
    record = run.record()
    names = [result for result in run.results() if run.table("oof", result) is not None]
    if not names:
        raise DataError(
            f"{paths.relative(run.path)}: no out-of-fold predictions to compare. Name a run with "
            "one of the models, such as `nivesh run --only 03_tfidf` makes"
        )
    return _Target(f"run {record.run}", record, _chosen(names, steps), run)


def _chosen(names: list[str], steps: Sequence[str]) -> list[str]:
    for step in steps:
        if not any(name.startswith(step) for name in names):
            raise SpecError(f"--step {step}: no result of that name; there are: {listed(names)}")
    return [name for name in names if not steps or name.startswith(tuple(steps))]


def _release(name: str, steps: Sequence[str]) -> _Target | None:
    """Return a release, with its run where that is still there; None for no name of a release."""
    if not (given := _VERSION.fullmatch(name)):
        return None
    pattern = f"{given[1] or '*'}/{given[2]}/release.json"
    found = sorted(paths.releases_dir().glob(pattern))
    if len(found) != 1:
        what = "is no release" if not found else "are several releases; write NAME/VERSION"
        there = sorted(paths.releases_dir().glob("*/*/release.json"))
        known = listed(f"{path.parent.parent.name}/{path.parent.name}" for path in there)
        raise DataError(f"{name} {what}. There are: {known}")
    release = read_record(found[0], Release, "the record of a release")
    title, names = f"release {release.name} {release.version}", _chosen([release.step], steps)
    with contextlib.suppress(NiveshError):
        from nivesh_lib.models.base import model_hash

        run = find_run(release.run)
        if model_hash(run.model(release.step)) == release.base:
            return _Target(title, run.record(), names, run)
    return _Target(title, _record_of(release), names, package=(found[0].parent, release))


def _record_of(release: Release) -> RunRecord:
    """Return the record of a run that is gone, as far as its release has it."""
    commit, _, dirty = release.commit.partition("-")
    step = {"status": "done", "parameters": release.parameters, "seconds": release.train_seconds}
    return RunRecord.model_validate(
        {
            "run": release.run,
            "status": "done",
            "profile": "default",
            "dataset": {"ref": release.dataset, "sha256": release.data_sha256},
            "started": "",
            "steps": {notebook_of(release.step): step},
            "git": {"commit": commit, "dirty": bool(dirty)},
            "environment": {},
            "seconds": 0.0,
            "complete": True,
        }
    )


# --- a worktree as it was then -----------------------------------------------------------------


def _git(folder: Path, *arguments: str, given: str = "") -> str:
    """Return what git says in a folder. Raises NiveshError with the reason where it fails."""
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    options: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    try:
        done = subprocess.run(command, cwd=folder, env=git_environment(), input=given, **options)
    except FileNotFoundError:
        raise NiveshError("git is missing; it keeps the code of runs. Install it") from None
    if done.returncode:
        raise NiveshError(f"git {arguments[0]} failed: {(done.stderr or '?').splitlines()[0]}")
    return done.stdout.strip()


@contextlib.contextmanager
def _worktree(git: Git, title: str) -> Iterator[Path]:
    """Yield the home folder in a temporary worktree, with the changes of a dirty run."""
    home, commit = paths.home(), git.commit or ""
    if not commit:
        raise DataError(f"{title} has no commit: it was made without git. Make a new one with git")
    if git.dirty and git.patch is None:
        raise DataError(
            f"{title} was made with changes that were not committed, and no patch of them is kept. "
            "Commit first, then make a new one"
        )
    place = _git(home, "rev-parse", "--show-prefix")  # a home may lie inside its repository
    _check_commit(home, commit, title)
    with tempfile.TemporaryDirectory(
        prefix="nivesh-reproduce-", ignore_cleanup_errors=True
    ) as folder:
        tree = Path(folder).resolve() / "worktree"
        try:
            _git(home, "worktree", "add", "--quiet", "--detach", str(tree), commit)
            if git.patch:
                _apply(tree, git.patch, title)
            yield tree / place
        finally:
            try:
                _git(home, "worktree", "remove", "--force", str(tree))
            except NiveshError:  # it was being made, or a process still writes there
                shutil.rmtree(tree, ignore_errors=True)
                with contextlib.suppress(NiveshError):
                    _git(home, "worktree", "prune")


def _check_commit(home: Path, commit: str, title: str) -> None:
    try:
        _git(home, "cat-file", "-e", f"{commit}^{{commit}}")
    except NiveshError:
        shallow = _git(home, "rev-parse", "--is-shallow-repository") == "true"
        how = "git fetch --unshallow" if shallow else f"git fetch origin {commit}"
        more = ", a shallow clone" if shallow else ""
        raise DataError(
            f"{title} was made at commit {commit}, which is not in this repository{more}. "
            f"Fetch it: `{how}`"
        ) from None


def _apply(tree: Path, patch: str, title: str) -> None:
    try:
        _git(tree, "apply", "--whitespace=nowarn", "-", given=patch)
    except NiveshError as error:
        raise DataError(f"the changes kept with {title} cannot be applied: {error}") from None


def _check_notebooks(home: Path, run: RunDirectory, steps: Sequence[str]) -> None:
    """Raise where notebooks had changes: a patch leaves them out."""
    for step, then in ((step, run.finished(step)) for step in steps):
        there = sha256_source(home / "notebooks" / f"{step}.ipynb")
        if then is not None and then.ingredients.get("notebook") != there:
            raise DataError(
                f"notebooks/{step}.ipynb had changes in {run.name} that were not committed, and "
                "patches leave notebooks out. Commit it, then make a new run"
            )


def _bring_data(home: Path, dataset: DatasetRecord) -> None:
    """Copy what of a dataset was never committed, and check that it is the recorded one."""
    name, version = parse_ref(dataset.ref)
    folder = home / "data" / name
    if not (folder / f"v{version}").is_dir():
        there = resolve(dataset.ref).folder.parent
        shutil.copytree(there, folder, dirs_exist_ok=True, copy_function=_copy_missing)
    found = read_manifest(folder / f"v{version}").sha256
    if found != dataset.sha256:
        raise ChecksumError(
            f"{dataset.ref} has other rows now (sha256 {found}) than then (sha256 "
            f"{dataset.sha256}), so its predictions cannot be made again. Restore the data"
        )


def _copy_missing(source: str, target: str) -> None:
    if not Path(target).exists():
        shutil.copyfile(source, target)


# --- the re-run --------------------------------------------------------------------------------


def _run_again(
    home: Path, record: RunRecord, only: Sequence[str], needed: Sequence[str]
) -> tuple[RunRecord, RunDirectory]:
    """Run steps in a worktree as the command line does, with its own library and parameters."""
    settings = [
        f"{step}.{name}={value}"
        for step in needed
        for name, value in (record.steps[step].parameters if step in record.steps else {}).items()
        if name != "DATASET"  # which --dataset sets
    ]
    command = [sys.executable, "-m", "nivesh_lib", "run", "--json"]
    command += ["--dataset", record.dataset.ref, "--profile", record.profile]
    command += [word for step in only for word in ("--only", step)]
    command += [word for setting in settings for word in ("--set", setting)]
    library = home if (home / "nivesh_lib").is_dir() else paths.package_dir().parent
    environment = git_environment() | {
        "NIVESH_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(library), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlruns/mlflow.db",
    }
    output, errors = _finished(command, home, environment)
    try:
        made = RunRecord.model_validate_json(output)
    except ValueError:
        last = (errors.strip() or "nothing was said").splitlines()[-1]
        raise StepFailed(f"the re-run did not start: {last.removeprefix('error: ')}") from None
    if made.status != "done":
        failures = ((step, made.steps[step].failure) for step in made.failed)
        causes = (f"{step} ({why.cause}: {why.detail})" if why else step for step, why in failures)
        raise StepFailed(f"failed in the re-run, not in the run: {listed(causes)}")
    return made, RunDirectory(home / paths.runs_dir().relative_to(paths.home()) / made.run)


def _finished(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Return the output and errors of a process, which ends before this does, on Ctrl-C too."""
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        encoding="utf-8",
    )
    try:
        return child.communicate()
    except BaseException:
        child.send_signal(signal.SIGINT)  # then it stops its notebooks, which takes no second
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(20)
        raise
    finally:
        child.kill()


# --- the comparison ----------------------------------------------------------------------------


def _verdict(target: _Target, name: str, made: RunRecord, run: RunDirectory) -> Verdict:
    if target.run is None:
        assert target.package is not None
        verdict = _against_package(*target.package, run)
    else:
        before, now = target.run.table("oof", name), run.table("oof", name)
        verdict = compare_predictions(name, before, now, "out-of-fold predictions")
    return replace(verdict, seconds=made.steps[notebook_of(name)].seconds)


def compare_predictions(
    step: str, before: pd.DataFrame | None, now: pd.DataFrame | None, compared: str
) -> Verdict:
    """Compare two tables of ``id``, ``fold`` and probabilities row by row, in any order of rows.

    Equal means the same bits in every probability.
    """
    import numpy as np

    from nivesh_lib.evaluation.resampling.cross_validation import (
        aligned_pair,
        predicted_labels,
        probabilities,
    )

    rows = 0 if before is None else len(before)
    try:
        if before is None or now is None or len(now) != rows:
            found = "no table" if now is None else f"{len(now):,} rows"
            raise ValueError(f"the re-run has {found} in place of {rows:,} rows")
        now, before = aligned_pair(now, before, before["id"], names=("the re-run", "the record"))
        labels = [predicted_labels(table) for table in (before, now)]
    except ValueError as error:
        return Verdict(step, compared, "different", rows, detail=str(error))
    values = [probabilities(table).to_numpy() for table in (before, now)]
    apart = np.abs(values[0].astype(float) - values[1].astype(float)).max(axis=1, initial=0)
    other = labels[0] != labels[1]
    beyond = np.flatnonzero(other | (apart > TOLERANCE))
    changed = [
        {"id": before["id"][n], "before": labels[0][n], "now": labels[1][n], "apart": apart[n]}
        for n in sorted(beyond, key=lambda n: (not other[n], -apart[n]))
    ]
    same = np.array_equal(values[0], values[1])
    verdict = "equal" if same else "different" if changed else "within tolerance"
    return Verdict(step, compared, verdict, rows, float(apart.max(initial=0)), changed)


def _against_package(folder: Path, release: Release, run: RunDirectory) -> Verdict:
    """Compare the model of the re-run with a released one, whose run is gone."""
    from nivesh_lib.evaluation.confidence.calibration import scaled
    from nivesh_lib.models.base import load_model, model_hash

    again = run.model(release.step)
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
    return compare_predictions(release.step, before, now, what)


def _notes(
    target: _Target, made: RunRecord, run: RunDirectory, steps: Sequence[str]
) -> Iterator[str]:
    """Yield what else differs from then: ingredients of steps, interpreter, processor."""
    for step in steps:
        then, now = target.run.finished(step) if target.run else None, run.finished(step)
        if then and now and (changes := differences(now.ingredients, then.ingredients)):
            yield f"{step}: {listed(changes)}"
    before, now_ = target.record.environment, made.environment
    for what, old, new in (
        ("Python", before.python, now_.python),
        ("processor", before.processor.model, now_.processor.model),
    ):
        if old and old != new:
            yield f"{what}: {old} then, {new} now"


def _lock_notes(home: Path, target: _Target) -> Iterator[str]:
    """Yield how the installed packages differ from the lock of that commit."""
    lock = home / "requirements.lock"
    if not lock.is_file():
        yield "that commit has no requirements.lock: what was installed then is not known"
        return
    if target.package and sha256_file(lock) != target.package[1].lock_sha256:
        yield "requirements.lock of that commit is not the one that the release names"
    others = []
    for name, pin in re.findall(r"^([\w.-]+)==([^\s;]+)$", lock.read_text("utf-8"), re.MULTILINE):
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            there = "not installed"
        if there.partition("+")[0] != pin.partition("+")[0]:  # a build such as +cpu
            others.append(f"{name} {there} (not {pin})")
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        yield f"installed packages differ from that requirements.lock: {listed(others[:5])}{more}"
