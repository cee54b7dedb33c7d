"""Releasing, promoting, rolling back and archiving: the only functions that change a stage.

The release log decides. A change is one line that is appended to it; the registry follows. While
a change is under way a marker lies beside the packages: where it is left by a killed process, the
next change first takes back what the log does not have and lets the registry follow.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from nivesh_lib.data.versions import resolve
from nivesh_lib.errors import DataError, NiveshError, ReleaseError
from nivesh_lib.evaluation.objectives import file_of
from nivesh_lib.files import locked, remove_abandoned, write_errors, write_text
from nivesh_lib.hash_chain import Entry
from nivesh_lib.ledger import openings
from nivesh_lib.paths import objectives_file
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.release import Gate, Release
from nivesh_lib.releases.card import write_card
from nivesh_lib.releases.gates import Evidence, judged
from nivesh_lib.releases.log import (
    STAGES,
    State,
    nothing_released,
    read_log,
    released,
    state_of,
    writing,
)
from nivesh_lib.releases.package import Package, changing_marker
from nivesh_lib.reproducibility import author, environment, is_committed
from nivesh_lib.tracking.registry import (
    check_registry,
    follow_log,
    moved_by_hand,
    registered_as,
)
from nivesh_lib.wording import joined

DAYS_TO_ARCHIVE = 30


@dataclass(frozen=True)
class Changed:
    """A change of a stage: its entry in the log, the state after it, and what to tell."""

    entry: Entry
    state: State
    notes: list[str]


@contextlib.contextmanager
def changing(name: str, *, first: bool = False) -> Iterator[None]:
    """Hold the releases of a name for one change, after finishing what a killed process began.

    Raises
    ------
    ReleaseError
        Nothing was released by that name, and this is not to be the ``first`` one.
    NiveshError
        The registry cannot be reached, or the folder of packages cannot be written.
    """
    marker = changing_marker(name)
    if not marker.parent.is_dir() and not read_log(name) and not first:
        raise ReleaseError(f"{nothing_released(name)}. `nivesh release` does it")
    with write_errors(marker.parent):
        marker.parent.mkdir(parents=True, exist_ok=True)
    with locked(marker.parent):
        if marker.exists():
            settle(name)
        check_registry(name)
        yield


@contextlib.contextmanager
def under_way(name: str, version: str, digest: str = "") -> Iterator[None]:
    """Mark that a change of a version is under way; in the end, all the rest follows the log.

    ``digest`` is that of a release, which is taken back where it is cut off.
    """
    with write_errors(changing_marker(name)):
        write_text(changing_marker(name), f"{version}\n{digest}\n")
    try:
        yield
    finally:
        settle(name)


def settle(name: str) -> None:
    """Take back what the log does not have; let registry and card follow it; remove the marker."""
    marker = changing_marker(name)
    version, _, digest = marker.read_text(encoding="utf-8").strip().partition("\n")
    known = {entry["version"] for entry in read_log(name)}
    remove_abandoned(marker.parent)
    package = Package.of(name, version)
    if version and version not in known:
        shutil.rmtree(package.folder, ignore_errors=True)
    follow_log(name, undo=digest)
    try:
        if version in known:
            write_card(package)  # it tells gates and overrides
    finally:
        marker.unlink()  # a card that cannot be written stops no other change


def notices(name: str) -> list[str]:
    """Return what somebody should know: a change that was cut off, aliases moved by hand."""
    if changing_marker(name).exists():
        return [
            "a change was cut off or is under way; the next one finishes or takes back the rest"
        ]
    if not read_log(name):
        return []
    try:
        return moved_by_hand(name)
    except NiveshError as error:
        return [str(error)]


def one_line(text: str) -> str:
    """Return a text without personal data and line ends: a line of the log is there for good."""
    return " ".join(anonymize_query(text).split())


def append(kind: str, entry: Mapping[str, Any]) -> Entry:
    """Append a line to the release log and return it; its words are on one line and anonymous."""
    words = {key: one_line(entry[key]) for key in ("why", "override") if key in entry}
    with writing() as log:
        log.append(kind, {**entry, **words})
        return log.entries[-1]


def evidence_for(entry: Entry, entries: list[Entry], stage: str) -> Evidence:
    """Return what the gates of a stage are judged on, from the package of a release.

    Raises
    ------
    ReleaseError
        The package is missing, or is not what was released.
    """
    package = Package.of(entry["name"], entry["version"])
    release = package.verify(entry)
    state = state_of(entries)
    in_place = state.production or (state.staging if stage == "staging" else "")
    in_place = "" if in_place == release.version else in_place
    staged = state.staged.get(release.version, "") if state.staging == release.version else ""
    return Evidence(
        release=release,
        answers=package.answers(),
        in_place=in_place,
        before=_answers_of(in_place, release, package, entries) if in_place else None,
        staged=staged,
        openings=sum(one.model_hash == release.digest and one.data == release.dataset
                     for one in openings()),
        data_issues=_data_issues(release),
    )  # fmt: skip


def _judged_here(stage: str, evidence: Evidence) -> list[Gate]:
    """Judge the gates; a latency of a busy or of another machine is measured again first."""
    gates = judged(stage, evidence)
    latency = next((gate for gate in gates if gate.name == "latency_ms"), None)
    release = evidence.release
    here = environment()["processor"] == release.environment.get("processor")
    if latency is None or (here and latency.verdict != "undecided"):
        return gates
    from nivesh_lib.releases.holdout_evaluation import candidate_latency, load_candidate

    model = Package.of(release.name, release.version).model
    measured = candidate_latency(load_candidate(model, source=release.version))
    release = release.changed(metrics={**release.metrics, **measured})
    return judged(stage, replace(evidence, release=release))


def _answers_of(
    version: str, release: Release, package: Package, entries: list[Entry]
) -> dict[str, str] | None:
    """Return the answers of a release by row: of the same opening, else of its own one."""
    if release.in_place and release.in_place.version == version:
        return {row.id: row.before for row in package.answers()}
    other = Package.of(release.name, version)
    try:
        same_rows = other.verify(released(entries, version)).dataset == release.dataset
    except ReleaseError:
        return None
    return {row.id: row.predicted for row in other.answers()} if same_rows else None


def on_both_sides(manifest: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each kind of duplicates that a data version has across its split."""
    both = manifest.get("cross_split_duplicates", {})
    return [f"{n} {kind} duplicates on both sides" for kind, n in both.items() if n]


def _data_issues(release: Release) -> list[str]:
    try:
        version = resolve(release.dataset)
    except DataError as error:
        return [str(error)]
    issues = on_both_sides(version.manifest)
    if version.sha256 != release.data_sha256:
        issues.append(f"{release.dataset} has other rows now than when it was released")
    return issues


def promote(
    version: str,
    stage: str,
    *,
    name: str = "intent_classifier",
    override: str = "",
    why: str = "",
    archive_replaced: bool = False,
) -> Changed:
    """Bring a released version to staging or production, if it passes the gates.

    Parameters
    ----------
    override
        Why it is promoted although a gate is not met; it stays in log, card and report.

    Raises
    ------
    ReleaseError
        There is no such version or stage, the package was altered, a gate is not met, or the
        marks are not committed.
    NiveshError
        The registry cannot be reached; nothing was changed then.
    """
    if stage not in STAGES:
        raise ReleaseError(f"{stage}: there is no such stage. Stages are {joined(STAGES)}")
    with changing(name):
        entries = read_log(name)
        entry = released(entries, version)
        before = state_of(entries)
        if getattr(before, stage) == entry["version"]:
            since = before.since[entry["version"]]
            raise ReleaseError(f"{entry['version']} is in {stage} already, since {since}")
        if before.stages[entry["version"]] == "Production":
            raise ReleaseError(f"{entry['version']} serves in production; promote another one")
        line = {
            **gated_line(entry, entries, stage, override),
            "why": why or f"promoted to {stage}",
            "stage": stage,
            "archive_replaced": archive_replaced,
        }
        return changed("promotion", line)


def gated_line(entry: Entry, entries: list[Entry], stage: str, override: str) -> dict[str, Any]:
    """Return the fields of a line that brings a release to users of a stage, gates included.

    Raises
    ------
    ReleaseError
        As `promote`.
    """
    if not any(character.isalnum() for character in override):
        override = ""  # blanks, some of which are not seen, are no reason
    evidence = evidence_for(entry, entries, stage)
    _refuse_uncommitted(evidence.release.dataset)
    gates = _judged_here(stage, evidence)
    missed = [gate for gate in gates if not gate.passed]
    if missed and not override:
        listed = "\n".join(f"  {g.name}: {g.verdict}, {g.found}. {g.why}".rstrip() for g in missed)
        raise ReleaseError(
            f"{entry['version']} stays out of {stage}: {len(missed)} of {len(gates)} gates are not "
            f"met.\n{listed}\nMend what they name and release again, or take it on yourself: "
            'give the same command with --override "WHY"'
        )
    return line_about(entry, "") | {
        "override": override if missed else "",
        "gates": [gate.as_dict() for gate in gates],
    }


def _refuse_uncommitted(dataset: str) -> None:
    if not is_committed(objectives_file(dataset)):
        raise ReleaseError(
            f"{file_of(dataset)} is not what is committed, so nobody could tell later which marks "
            "were reached. Commit it, or restore it with git"
        )


def line_about(entry: Entry, why: str) -> dict[str, Any]:
    """Return the fields of a log line about the version of another one."""
    kept = {key: entry[key] for key in ("name", "version", "digest")}
    return {**kept, "who": author() or "unknown", "why": why}


def changed(kind: str, line: Mapping[str, Any], notes: list[str] | None = None) -> Changed:
    """Append a line, and let registry and card follow; who holds `changing` calls it."""
    name, notes = line["name"], notes or []
    canary = state_of(read_log(name)).canary
    with under_way(name, line["version"]):
        entry = append(kind, line)
    state = state_of(read_log(name))
    if canary and not state.canary and canary["version"] != state.production:
        notes = [*notes, f"with that, the canary {canary['version']} ended"]
    return Changed(entry, state, notes)


def rollback(*, name: str = "intent_classifier", why: str = "") -> Changed:
    """Bring back the last version in production that passed its gates and still verifies.

    One that was promoted by an override comes after all that passed.

    Raises
    ------
    ReleaseError
        Nothing is in production, a canary is on, or no earlier version can be brought back; says
        why for each.
    """
    with changing(name):
        entries = read_log(name)
        state = state_of(entries)
        if not state.production:
            raise ReleaseError("nothing is in production, so there is nothing to roll back from")
        if on := state.canary:
            raise ReleaseError(
                f"{on['version']} is a canary, and a rollback is about {state.production}, which "
                "is in production. `nivesh canary abort` ends the canary; where production is the "
                "worse one too, roll back after that"
            )
        notes: list[str] = []
        for version in _candidates(state):
            entry = released(entries, version)
            try:
                Package.of(name, version).verify(entry)
            except ReleaseError as error:
                notes.append(f"{version} is passed over: {error}")
                continue
            if version in state.overridden:
                notes.append(f"{version} was promoted by an override: none that passed verifies")
            line = line_about(entry, why or "rolled back") | {"leaves": state.production}
            return changed("rollback", line, notes)
        raise ReleaseError("\n".join([
            f"no earlier version can be brought back in place of {state.production}.",
            *(f"  {note}" for note in notes),
            "Promote another one: nivesh promote VERSION --to production",
        ]))  # fmt: skip


def _candidates(state: State) -> list[str]:
    """Return what may be rolled back to, first choice first."""
    earlier = [
        version
        for version in reversed(state.past)
        if version not in state.failed | {state.production} and state.stages[version] != "Archived"
    ]
    return sorted(earlier, key=lambda version: version in state.overridden)


def archive(
    *, name: str = "intent_classifier", days: float = DAYS_TO_ARCHIVE, version: str = ""
) -> list[Changed]:
    """Archive versions that nothing points to and that did not move for some days, or one.

    Raises
    ------
    ReleaseError
        The version was never released, or is in production and its package is here.
    """
    with changing(name):
        entries = read_log(name)
        state = state_of(entries)
        limit = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
        kept = {state.staging, state.production, state.previous, state.canary.get("version")}
        chosen = [v for v, since in state.since.items() if v not in kept and since <= limit]
        if version:
            chosen = [released(entries, version)["version"]]
        if state.production in chosen and Package.of(name, state.production).folder.is_dir():
            raise ReleaseError(f"{state.production} serves in production; it cannot be archived")
        why = "archived by name" if version else f"out of use for {days:g} days"
        lines = [
            line_about(released(entries, v), why) for v in chosen if state.stages[v] != "Archived"
        ]
        return [changed("archive", line) for line in lines]


def transition_model_stage(
    name: str, version: str, stage: str, archive_existing: bool = False
) -> Changed:
    """Bring a version to one of the four stages, through the same gates as `promote`.

    Parameters
    ----------
    version
        That of the release, or MLflow's number of it.
    stage
        Staging, Production or Archived; what was released is in Development.

    Raises
    ------
    ReleaseError
        As `promote` and `archive`, or the stage is another one.
    """
    wanted = registered_as(name).get(str(version), str(version))
    if stage.lower() == "archived":
        done = archive(name=name, version=wanted)
        if not done:
            raise ReleaseError(f"{wanted} is archived already")
        return done[0]
    return promote(wanted, stage.lower(), name=name, archive_replaced=archive_existing)
