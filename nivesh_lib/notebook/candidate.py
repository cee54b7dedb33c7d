"""The model of a run that would be released; each method adds a finding to the run.

Nothing is opened here: marks are judged on answers that are recorded already, out of fold.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import semver

from nivesh_lib.data.versions import Dataset
from nivesh_lib.errors import NiveshError, ReleaseError
from nivesh_lib.evaluation.confidence.calibration import Calibration, cross_fitted
from nivesh_lib.evaluation.findings import comparison
from nivesh_lib.evaluation.findings import release as findings
from nivesh_lib.evaluation.objectives import none_set, stage_marks
from nivesh_lib.evaluation.resampling.cross_validation import aligned, predicted_labels
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.models.directory import model_hash
from nivesh_lib.notebook.compared import RecordedModel
from nivesh_lib.notebook.session import Run
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.metrics import estimate_in
from nivesh_lib.records.release import Release
from nivesh_lib.records.results import StepResult
from nivesh_lib.releases.card import model_card
from nivesh_lib.releases.gates import Evidence, judged, unreachable
from nivesh_lib.releases.log import read_log, registered_name, state_of, stays
from nivesh_lib.releases.package import Package, algorithm_of
from nivesh_lib.releases.release import findings_about, is_late, unopened
from nivesh_lib.releases.versioning import derived
from nivesh_lib.reporting.findings import show_markdown
from nivesh_lib.reproducibility import code_version
from nivesh_lib.runs.directories import find_run
from nivesh_lib.runs.leaderboard import LeaderboardEntry, data_issues, leaderboard
from nivesh_lib.wording import shown

_LOOKED_AT = {
    "equal accuracy": "fairness",
    "an even hand-over": "handover_by_segment",
    "off-topic queries": "out_of_scope",
    "confidence": "calibration_error",
    "labels in doubt": "doubtful_labels",
    "where errors are": "would_help",
}
# Gates that out-of-fold answers can tell of; the others need held-out rows, or a promotion.
_JUDGED = ("data", "accuracy", "macro_f1", "calibration_error", "latency_ms", "size_mb")
_MEASURED = ("accuracy", "macro_f1", "p95_ms", "reference_ms")


@dataclass(eq=False, repr=False)
class Candidate:
    """The model of a run that would be released.

    ``results`` are those of the run by name, ``board`` its models, best first, ``last`` the
    release that serves, else is staged, None where there is none on this machine. ``missing`` says
    that no model was recorded; then `answer` says so, and all that is about one is silent.
    """

    run: Run
    data: Dataset
    results: dict[str, StepResult]
    models: dict[str, RecordedModel]
    last: Release | None
    missing: str = ""

    @classmethod
    def of(cls, run: Run, data: Dataset, *steps: str) -> Self:
        """Return the candidate among the recorded models of a dataset.

        Parameters
        ----------
        steps
            Further steps whose findings count; what has no results is named, with how to make
            them.
        """
        last = _in_place(registered_name(data.ref))
        try:
            models = {one.step: one for one in run.recorded_models().values()}
        except NiveshError as error:
            return cls(run, data, {}, {}, last, missing=str(error))
        results: dict[str, StepResult] = {step: one.result for step, one in models.items()}
        results |= {step: found for step in steps if (found := run.upstream(step)) is not None}
        return cls(run, data, results, models, last)

    @cached_property
    def board(self) -> list[LeaderboardEntry]:
        """The models of the run, best first."""
        return leaderboard(self.results)

    @cached_property
    def chosen(self) -> RecordedModel:
        """The first model of the ranking that is not late and was saved, as a release takes it."""
        able = (
            one
            for one in (self.models[entry.step] for entry in self.board)
            if not is_late(one.result) and one.directory.is_dir()
        )
        return next(able, self.models[self.board[0].step])

    @cached_property
    def _known(self) -> dict[str, Finding]:
        return findings_about(self.chosen.result, self.results)

    @cached_property
    def _calibration(self) -> Calibration:
        oof = {"": aligned(self.chosen.oof, self.data.train["id"])}
        return cross_fitted(oof, self.data.train, seed=self.run.seed)[""]

    @cached_property
    def _absent(self) -> str:
        """The highest version that was released, where no package of a release is here."""
        if self.last is not None:
            return ""
        entries = read_log(registered_name(self.data.ref))
        versions = [one["version"] for one in entries if one["kind"] == "release"]
        return max(versions, key=semver.Version.parse, default="")

    @cached_property
    def draft(self) -> Release:
        """The record of the release, as far as it is known before the holdout is opened."""
        one = self.chosen
        saved = one.directory if (one.directory / "model.json").is_file() else None
        fitted, metrics = self._calibration, one.result.metrics
        latency, size = estimate_in(metrics, "p95_ms"), metrics.get("size_bytes")
        made = Release(
            digest=model_hash(saved) if saved else "",
            base="",
            kind=one.result.model,
            algorithm=algorithm_of(saved) if saved else one.result.model,
            temperature=fitted.temperature if fitted.helped else None,
            commit=code_version() or "",
            run=self.run.directory.name,
            step=one.step,
            parameters=one.result.params,
            size_bytes=int(size) if isinstance(size, int | float) else 0,
            who="nobody yet",
            why="a preview",
            **unopened(self.data, one.result, self.last),
        ).changed(metrics={"p95_ms": latency.as_dict()} if latency else {})
        version, reasons = derived(made, self.last, self._absent)
        return made.changed(version=version, bump=reasons)

    # --- findings --------------------------------------------------------------------------------

    def answer(self) -> Finding:
        """Which model would be released, and as which version."""
        if self.missing:
            self.run.marks.clear()  # there is nothing that they could be of
            return self.run.add(findings.left_out("candidate", self.missing))
        model, rows = self.chosen.result.model, [vars(entry) for entry in self.board]
        return self.run.add(findings.candidate(model, rows, self.draft.version))

    def gates(self, stage: str) -> Finding | None:
        """Whether the candidate would pass the gates of a stage, by what is recorded of it."""
        if self.missing:
            return None
        marks = stage_marks(self.data.ref, stage)
        if not marks:
            why = f"nothing is asked for {stage}: {none_set(self.data.ref)}"
            return self.run.add(findings.left_out(stage, why))
        fitted, flat = self._calibration, self.chosen.result.metrics
        measured = {name: estimate_in(flat, name) for name in _MEASURED}
        measured["calibration_error"] = fitted.after if fitted.helped else fitted.before
        metrics = {name: one.as_dict() for name, one in measured.items() if one}
        known = self.draft.changed(metrics=metrics)
        made = judged(stage, Evidence(known, [], data_issues=data_issues(self.results)))
        made = [gate for gate in made if gate.name in _JUDGED]
        held, beyond = len(self.data.manifest["holdout"]), ""
        if why := unreachable(float(marks.get("accuracy", 0)), held):
            beyond = f"On the {held:,} held-out rows, {marks['accuracy']:g} cannot be shown. {why}"
        return self.run.add(findings.stage(stage, made, beyond))

    def against_predecessor(self) -> Finding | None:
        """Whether the candidate is ahead of the release in place, out of fold."""
        if self.missing:
            return None
        name, train, counted = (
            "against_predecessor",
            self.data.train,
            headline_mask(self.data.train),
        )
        if self.last is None:
            why = f"nothing was released from {shown(self.data.name)} yet, so there is nothing to "
            why += f"compare with; `nivesh release` would make {self.draft.version}"
            if self._absent:
                why = f"the package of release {self._absent} is not on this machine, so there is "
                why += "nothing to compare with. `nivesh release` needs it, unless it was archived"
            return self.run.add(findings.left_out(name, why))
        try:
            theirs = find_run(self.last.run).out_of_fold(self.last.step, train)
        except NiveshError:
            why = f"the out-of-fold answers of release {self.last.version} ({self.last.run}) are "
            why += "not here, or of other rows; `nivesh release` compares the two on held-out rows"
            return self.run.add(findings.left_out(name, why))
        counted = headline_mask(train)
        mine, before = (
            predicted_labels(aligned(oof, train["id"]))[counted]
            for oof in (self.chosen.oof, theirs)
        )
        made = comparison.gain(
            self.chosen.result.model,
            train["intent"][counted].to_numpy(dtype=object),
            mine,
            {f"release {self.last.version}": before},
            name=name,
            seed=self.run.seed,
        )
        return self.run.add(made)

    def worry(self) -> Finding | None:
        """What somebody who decides on the release should worry about."""
        if self.missing:
            return None
        looked_at = {what: self._known.get(name) for what, name in _LOOKED_AT.items()}
        one = self.chosen.result
        return self.run.add(findings.worry(one.model, one.slices, looked_at))

    def card(self) -> None:
        """Show the model card as far as it is known: what held-out rows will tell is left open."""
        if not self.missing:
            card = model_card(self.draft, [], self._known)
            show_markdown(re.sub(r"^#", "###", card.text, flags=re.MULTILINE))

    def history(self) -> Finding:
        """Which versions were released and where they were."""
        entries = read_log(registered_name(self.data.ref))
        return self.run.add(findings.history(stays(entries), self.data.name))


def _in_place(name: str) -> Release | None:
    """Return the release that serves, else is staged; None without one on this machine."""
    state = state_of(read_log(name))
    version = state.production or state.staging
    with contextlib.suppress(ReleaseError):
        return Package.of(name, version).release() if version else None
    return None
