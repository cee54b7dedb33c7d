"""Making a release: a run's model, judged on the holdout, packaged, numbered and registered."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import semver
from safetensors import SafetensorError

from nivesh_lib import paths
from nivesh_lib.data.validation import validate_intent_data
from nivesh_lib.data.versions import Dataset, load_dataset
from nivesh_lib.errors import DataError, ReleaseError
from nivesh_lib.evaluation.benchmark import model_bytes
from nivesh_lib.evaluation.confidence.calibration import cross_fitted
from nivesh_lib.evaluation.objectives import values_for
from nivesh_lib.files import partial_path, replace_folder, sync_folder, write_errors
from nivesh_lib.models.base import TextClassifier, load_model, load_with_card
from nivesh_lib.models.directory import model_hash
from nivesh_lib.models.wrappers.selective import Abstaining, Calibrated
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.release import RESPONSE, AnsweredRow, InPlace, Release
from nivesh_lib.records.results import ModelResult, StepResult
from nivesh_lib.releases.card import write_card
from nivesh_lib.releases.gates import Evidence, judged
from nivesh_lib.releases.holdout_evaluation import (
    Candidate,
    LedgerEntry,
    candidate_latency,
    evaluate_on_holdout,
    load_candidate,
    write_record,
)
from nivesh_lib.releases.log import STAGES, read_log, registered_name, released, state_of
from nivesh_lib.releases.package import Package, algorithm_of, lock_hash
from nivesh_lib.releases.promotion import append, changing, on_both_sides, one_line, under_way
from nivesh_lib.releases.signing import check_key, sign
from nivesh_lib.releases.versioning import checked, derived
from nivesh_lib.reproducibility import code_version, environment
from nivesh_lib.runs.layout import RunDirectory, notebook_of
from nivesh_lib.runs.leaderboard import chosen_model, data_issues, leaderboard
from nivesh_lib.tracking.registry import register_release
from nivesh_lib.wording import human_bytes, milliseconds


@dataclass(frozen=True)
class Prepared:
    """A release that waits for the holdout. ``package`` is a temporary folder with the model.

    ``base`` is the digest of the model that was chosen, ``last`` the release with the highest
    version, ``in_place`` the one that serves or is staged; ``lost`` is the highest version where
    that was archived and its package is on this machine no more, so that there is no ``last``.
    """

    name: str
    package: Package
    candidate: Candidate
    base: str
    temperature: float | None
    step: str
    run: RunDirectory | None
    result: ModelResult | None
    last: Release | None
    in_place: Release | None
    lost: str = ""

    @property
    def in_place_model(self) -> TextClassifier | None:
        """The model that the candidate is compared with."""
        if self.in_place is None:
            return None
        return load_model(Package.of(self.name, self.in_place.version).model)


def refuse_dirty() -> str:
    """Return the commit of the code; the ledger and the release log never count as changed.

    Raises
    ------
    ReleaseError
        There is no commit, or a file differs from it.
    """
    commit = code_version()
    if not commit:
        raise ReleaseError(
            "a release names the commit of its code, and git has none here. Release from a clone"
        )
    if commit.endswith("-dirty"):
        raise ReleaseError(
            "the working tree has changes that are in no commit, so nobody could make this "
            "release again. `git status` names them; commit or remove them"
        )
    return commit


def servable(run: RunDirectory, step: str = "") -> tuple[str, ModelResult]:
    """Return a model of a sound run, by default the best one that was saved and answers in time.

    Raises
    ------
    ReleaseError
        The run did not end well, was made from changed code, its data failed, or no model fits.
    DataError
        The run has no model of that name.
    """
    record = run.record()
    if record.status != "done" or not record.complete:
        raise ReleaseError(
            f"{paths.relative(run.path)} is not finished (status {record.status}): only a whole "
            "run is released from. `nivesh run` makes one"
        )
    if record.git.dirty:
        raise ReleaseError(
            f"{paths.relative(run.path)} was made from code with uncommitted changes. Commit, and "
            "run `nivesh run` again"
        )
    results = run.results()
    if issues := data_issues(results):
        raise ReleaseError(f"the data of {run.record().run} did not pass: {'; '.join(issues[:3])}")
    if step:
        return chosen_model(run, step)
    for entry in leaderboard(results):
        result = chosen_model(run, entry.step)[1]
        if not is_late(result) and run.model(entry.step).is_dir():
            return entry.step, result
    raise ReleaseError(f"{paths.relative(run.path)}: no model was saved that answers in time")


def is_late(result: ModelResult) -> bool:
    """Return whether a model was shown to miss the latency that the objectives ask for."""
    judged = (j for j in result.judgements if j.objective.startswith("latency"))
    return any(j.status == "not met" for j in judged)


@contextlib.contextmanager
def prepared(
    run: RunDirectory | None, *, step: str = "", model: Path | None = None, source: str = ""
) -> Iterator[Prepared]:
    """Yield a candidate with everything that is known before the holdout is opened.

    Parameters
    ----------
    run, step
        The run, and the name of its result; by default the best that may be served.
    model, source
        A model directory in place of a run, and what a person calls it.

    Raises
    ------
    NiveshError
        The run, the model or its data may not be released; nothing was opened.
    """
    refuse_dirty()
    check_key()
    result = None
    if run is not None:
        step, result = servable(run, step)
        model, source = run.model(step), f"{run.record().run} {step}"
    with tempfile.TemporaryDirectory() as folder:
        package = Package(Path(folder))
        base, temperature = _corrected(model or Path(), package.model, run, step)
        candidate = load_candidate(package.model, source=source)
        _refuse_data(candidate)
        name = registered_name(candidate.data.ref)
        _refuse_known(name, candidate)
        yield Prepared(
            name, package, candidate, base, temperature, step, run, result, *_before(name)
        )


def _corrected(
    model: Path, target: Path, run: RunDirectory | None, step: str
) -> tuple[str, float | None]:
    """Save the model with its confidence corrected; return its digest before and the temperature.

    The temperature is fitted on the run's out-of-fold answers, never on held-out rows.
    """
    fitted, card = load_with_card(model)
    base, temperature = model_hash(card), getattr(fitted, "temperature", None)
    if run is not None and temperature is None and not isinstance(fitted, Abstaining):
        train = load_dataset(str(card["data"])).train
        found = cross_fitted({step: run.out_of_fold(step, train)}, train)[step]
        temperature = found.temperature if found.helped else None
        if temperature is not None:
            fitted = Calibrated.of(fitted, temperature=temperature)
    try:
        with write_errors(target):
            fitted.save(target, data=str(card["data"]))
    except SafetensorError as error:
        raise DataError(f"{target} cannot be written: {error}.") from None
    return base, temperature


def _refuse_data(candidate: Candidate) -> None:
    issues = on_both_sides(candidate.data.manifest)
    issues += validate_intent_data(candidate.data, leaks=True)["issues"]
    if issues:
        raise ReleaseError(
            f"{candidate.data.ref} may not be released from: {'; '.join(issues[:3])}. Publish a "
            "version without them, and train on that"
        )


def _before(name: str) -> tuple[Release | None, Release | None, str]:
    """Return `Prepared.last`, ``in_place`` and ``lost``."""
    entries = read_log(name)
    versions = [entry["version"] for entry in entries if entry["kind"] == "release"]
    if not versions:
        return None, None, ""
    state, highest = state_of(entries), max(versions, key=semver.Version.parse)
    lost = state.stages[highest] == "Archived" and not Package.of(name, highest).folder.is_dir()
    found = []
    for version in ("" if lost else highest, state.production or state.staging):
        entry = released(entries, version) if version else None
        try:
            found.append(Package.of(name, version).verify(entry) if entry else None)
        except ReleaseError as error:
            raise ReleaseError(
                f"{error}. A new release is compared with {version}. Where its package is lost for "
                f"good: nivesh archive --version {version}"
            ) from None
    return found[0], found[1], highest if lost else ""


def make_release(
    ready: Prepared, entry: LedgerEntry, *, version: str = ""
) -> tuple[Release, dict[str, Any]]:
    """Open the holdout, judge, package and register; return the release and the evaluation.

    Parameters
    ----------
    version
        A higher version than the derived one.

    Raises
    ------
    NiveshError
        The opening or the registry refused; what was opened stays in the ledger.
    """
    with changing(ready.name, first=True):
        _refuse_known(ready.name, ready.candidate)  # another process may have released it
        wanted = _described(ready, entry, version)  # refuses a wrong version before the opening
        _refuse_other(Package.of(ready.name, wanted.version))
        latency = candidate_latency(ready.candidate)
        evaluation, answers = evaluate_on_holdout(
            ready.candidate, entry, latency, in_place=ready.in_place_model
        )
        write_record(evaluation)
        release = _judged(ready, wanted, evaluation, answers)
        _register(ready, release, answers)
    return release, evaluation


def _refuse_known(name: str, candidate: Candidate) -> None:
    for entry in read_log(name):
        if entry["kind"] == "release" and entry["digest"] == candidate.model_hash:
            raise ReleaseError(
                f"{candidate.source} is released already, as {entry['version']}. To bring "
                f"it to a stage: nivesh promote {entry['version']} --to staging"
            )


def _refuse_other(package: Package) -> None:
    if package.folder.exists():
        raise ReleaseError(
            f"{paths.relative(package.folder)} is there, and this release log does not know it. "
            "Get the log of those who released it (git pull), or move the folder away"
        )


def _described(ready: Prepared, entry: LedgerEntry, version: str) -> Release:
    """Return the record of the release without what the holdout will tell."""
    candidate, run = ready.candidate, ready.run.record() if ready.run else None
    made = run.steps.get(notebook_of(ready.step)) if run else None
    release = Release(
        digest=candidate.model_hash,
        base=ready.base,
        kind=candidate.kind,
        algorithm=algorithm_of(ready.package.model),
        temperature=ready.temperature,
        commit=(run.git.commit if run else "") or entry.commit,
        run=run.run if run else "",
        step=ready.step,
        parameters=made.parameters if made else {},
        size_bytes=model_bytes(ready.package.model),
        who=entry.who,
        why=one_line(entry.why),
        **unopened(candidate.data, ready.result, ready.last),
    )
    return _numbered(release, ready, version)


def unopened(data: Dataset, result: ModelResult | None, last: Release | None) -> dict[str, Any]:
    """Return the fields of a release that follow from its data, its result and the one before."""
    seconds = result.metrics.get("processor_seconds") if result else None
    return {
        "name": registered_name(data.ref),
        "version": "",
        "labels": list(data.labels),
        "dataset": data.ref,
        "data_sha256": data.version.sha256,
        "min_confidence": values_for(data.name).get("min_confidence"),
        "train_seconds": float(seconds) if isinstance(seconds, int | float) else None,
        "predecessor": last.version if last else "",
        "response": list(RESPONSE),
        "lock_sha256": lock_hash(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "rows": 0,
        "in_place": None,
        **{name: {} for name in ("metrics", "gates")},
        **{name: [] for name in ("slices", "openings", "bump", "changes")},
    }


def _numbered(release: Release, ready: Prepared, version: str) -> Release:
    """Return the record with its version, the derived or a higher typed one, and the reasons."""
    number, reasons = derived(release, ready.last, ready.lost)
    typed = checked(version, number) if version else number
    if typed != number:
        reasons.append(f"{typed} was asked for; {number} follows from what changed.")
    return release.changed(version=typed, bump=reasons)


def _judged(
    ready: Prepared, release: Release, evaluation: Mapping[str, Any], answers: list[AnsweredRow]
) -> Release:
    """Return the record with scores, gates of both stages, and what changed."""
    before = ready.in_place
    right = [(row.predicted == row.label, row.before == row.label) for row in answers]
    in_place = InPlace(
        version=before.version,
        digest=before.digest,
        won=sum(now and not was for now, was in right),
        lost=sum(was and not now for now, was in right),
    ) if before else None  # fmt: skip
    scored = release.changed(
        metrics=evaluation["metrics"],
        slices=evaluation["slices"],
        rows=len(answers),
        openings=[one["id"] for one in evaluation["openings"]],
        in_place=in_place,
    )
    evidence = Evidence(
        release=scored,
        answers=answers,
        in_place=before.version if before else "",
        before={row.id: row.before for row in answers} if before else None,
        openings=evaluation["openings"][0]["of_model"],
    )
    gates = {stage: judged(stage, evidence) for stage in STAGES}
    return scored.changed(gates=gates, changes=_changes(scored, ready.last))


def _changes(release: Release, last: Release | None) -> list[str]:
    """Return sentences on what differs from the release before, all from the records."""
    if last is None:
        return []
    found = [one.partition(": ")[2] for one in release.bump]
    for title, name in (("Accuracy", "accuracy"), ("Macro-F1", "macro_f1")):
        now, was = (Estimate(**one.metrics[name]) for one in (release, last))
        found.append(f"{title} {now} on held-out rows of {release.dataset}, {was} before on "
                     f"{last.dataset}.")  # fmt: skip
    if "p95_ms" in release.metrics and "p95_ms" in last.metrics:
        now_ms, was_ms = (milliseconds(one.metrics["p95_ms"]["value"]) for one in (release, last))
        found.append(f"Latency p95 {now_ms}, {was_ms} before.")
    found.append(f"Size {human_bytes(release.size_bytes)}, {human_bytes(last.size_bytes)} before.")
    if one := release.in_place:
        found.append(f"Against {one.version} on the same {release.rows:,} rows: {one.won} won, "
                     f"{one.lost} lost.")  # fmt: skip
    return found


def _findings(ready: Prepared) -> dict[str, Finding]:
    steps = ready.run.results() if ready.run else {}
    found = findings_about(steps.get(ready.step), steps)
    return {name: one.changed(plot=None, cells=[]) for name, one in found.items()}


def findings_about(own: StepResult | None, results: Mapping[str, StepResult]) -> dict[str, Finding]:
    """Return the findings about a model by name; those of its ``own`` result come first."""
    about = [one for one in results.values() if own and one.model == own.model]
    return {one.name: one for step in (*about, own) if step for one in step.findings}


def description_of(release: Release) -> str:
    """Return what the registry shows of a release: what changed, how it was made, what it does."""
    accuracy, f1 = (Estimate(**release.metrics[name]) for name in ("accuracy", "macro_f1"))
    lines = [f"{release.name} v{release.version}", ""]
    if release.predecessor:
        lines += [f"Changes from v{release.predecessor}:", *(f"- {c}" for c in release.changes), ""]
    lines += [f"Training: {release.algorithm} on {release.dataset}, commit {release.commit[:8]}"]
    lines += [f"Performance on {release.rows:,} held-out rows: accuracy {accuracy}, macro-F1 {f1}"]
    return "\n".join(lines)


def _register(ready: Prepared, release: Release, answers: Sequence[AnsweredRow]) -> None:
    """Put the package in its place, register it, and append it to the log, which decides."""
    final = Package.of(release.name, release.version)
    with under_way(release.name, release.version, release.digest):
        partial = Package(partial_path(final.folder))
        try:
            with write_errors(final.folder):
                shutil.copytree(ready.package.model, partial.model)
                partial.write(release, answers, _findings(ready))
                write_card(partial)
            sign(partial.folder)
            with write_errors(final.folder):
                sync_folder(partial.folder)  # a line of the log is there for good
                replace_folder(partial.folder, final.folder)
        finally:
            shutil.rmtree(partial.folder, ignore_errors=True)
        number = register_release(release, final.model, description_of(release))
        kept = {key: getattr(release, key) for key in ("name", "version", "digest", "who", "why")}
        append("release", kept | {"registered": number, "records": final.records_hash()})
