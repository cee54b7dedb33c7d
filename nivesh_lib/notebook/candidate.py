"""The model of a run that would be released; each method adds a finding to the run.

Nothing is opened here: marks are judged on answers that are recorded already, out of fold.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

import numpy as np

from nivesh_lib.data.versions import Dataset
from nivesh_lib.errors import NiveshError, ReleaseError
from nivesh_lib.evaluation.confidence.calibration import Calibration, cross_fitted
from nivesh_lib.evaluation.findings import comparison
from nivesh_lib.evaluation.findings import release as findings
from nivesh_lib.evaluation.objectives import stage_marks, values_for
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned,
    confidence_of,
    predicted_labels,
    probabilities,
)
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.evaluation.summary import release_slices
from nivesh_lib.models.base import model_hash
from nivesh_lib.notebook.compared import RecordedModel
from nivesh_lib.notebook.session import Run
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.metrics import estimate_in
from nivesh_lib.records.release import RESPONSE, AnsweredRow, Release
from nivesh_lib.records.results import StepResult
from nivesh_lib.releases.card import model_card
from nivesh_lib.releases.gates import NOTHING_BEFORE, Evidence, judged, unreachable
from nivesh_lib.releases.log import read_log, registered_name, state_of, stays
from nivesh_lib.releases.package import Package, algorithm_of, lock_hash
from nivesh_lib.releases.release import is_late
from nivesh_lib.releases.versioning import derived
from nivesh_lib.reporting.findings import show_markdown
from nivesh_lib.reproducibility import code_version
from nivesh_lib.runs.directories import find_run
from nivesh_lib.runs.leaderboard import LeaderboardEntry, data_issues, leaderboard

_LOOKED_AT = {
    "equal accuracy": "fairness",
    "an even hand-over": "handover_by_segment",
    "off-topic queries": "out_of_scope",
    "confidence": "calibration_error",
    "labels in doubt": "doubtful_labels",
    "where errors are": "would_help",
}
_NOT_JUDGED = ("holdout", "hours_in_staging")  # before a release, and before a promotion


@dataclass(eq=False, repr=False)
class Candidate:
    """The model of a run that would be released.

    ``results`` are those of the run by name, ``board`` its models, best first, ``last`` the
    release that serves, else is staged, None where there is none on this machine.
    """

    run: Run
    data: Dataset
    results: dict[str, StepResult]
    models: dict[str, RecordedModel]
    board: list[LeaderboardEntry]
    last: Release | None

    @classmethod
    def of(cls, run: Run, data: Dataset, *steps: str) -> Self:
        """Return the candidate among the recorded models of a dataset.

        Parameters
        ----------
        steps
            Further steps whose findings count; what has no results is named, with how to make
            them.
        """
        models = {one.step: one for one in run.recorded_models().values()}
        others = {step: run.upstream(step) for step in steps}
        results: dict[str, Any] = {step: one.result for step, one in models.items()}
        results |= {step: found for step, found in others.items() if found is not None}
        last = _in_place(registered_name(data.ref))
        return cls(run, data, results, models, leaderboard(results), last)

    @cached_property
    def chosen(self) -> RecordedModel:
        """The first model of the ranking that is not late and was saved, as a release takes it."""
        able = (
            one
            for one in (self.models[entry.step] for entry in self.board)
            if not is_late(one.result) and one.directory.is_dir()
        )
        return next(able, self.models[self.board[0].step])

    @property
    def _known(self) -> dict[str, Finding]:
        """The findings of the run about the candidate, those of its own step first."""
        own = self.chosen.result
        about = [*(one for one in self.results.values() if one.model == own.model), own]
        return {finding.name: finding for one in about for finding in one.findings}

    @cached_property
    def _calibration(self) -> Calibration:
        oof = {"": aligned(self.chosen.oof, self.data.train["id"])}
        return cross_fitted(oof, self.data.train, seed=self.run.seed)[""]

    @cached_property
    def draft(self) -> Release:
        """The record of the release, as far as it is known before the holdout is opened."""
        one, data = self.chosen, self.data
        saved = one.directory if (one.directory / "model.json").is_file() else None
        fitted, metrics = self._calibration, one.result.metrics
        seconds, size = (metrics.get(name) for name in ("fit_seconds", "size_bytes"))
        latency = estimate_in(metrics, "p95_ms")
        made = Release(
            name=registered_name(data.ref),
            version="",
            digest=model_hash(saved) if saved else "",
            base="",
            kind=one.result.model,
            algorithm=algorithm_of(saved) if saved else one.result.model,
            temperature=fitted.temperature if fitted.helped else None,
            min_confidence=values_for(data.name).get("min_confidence"),
            labels=list(data.labels),
            response=list(RESPONSE),
            dataset=data.ref,
            data_sha256=data.version.sha256,
            commit=code_version() or "",
            lock_sha256=lock_hash(),
            run=self.run.directory.name,
            step=one.step,
            parameters=one.result.params,
            train_seconds=float(seconds) if isinstance(seconds, int | float) else None,
            size_bytes=int(size) if isinstance(size, int | float) else 0,
            rows=0,
            metrics={"p95_ms": latency.as_dict()} if latency else {},
            slices=[],
            openings=[],
            in_place=None,
            predecessor=self.last.version if self.last else "",
            bump=[],
            changes=[],
            gates={},
            who="nobody yet",
            why="a preview",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            environment={},
        )
        version, reasons = derived(made, self.last)
        return made.changed(version=version, bump=reasons)

    # --- findings --------------------------------------------------------------------------------

    def answer(self) -> Finding:
        """Which model would be released, and as which version."""
        rows = [
            {"model": entry.model, "scores": entry.scores}
            | {"p95_ms": entry.p95_ms, "size_bytes": entry.size_bytes}
            for entry in self.board
        ]
        made = findings.candidate(self.chosen.result.model, rows, self.draft.version)
        return self.run.add(made)

    def gates(self, stage: str) -> Finding:
        """Whether the candidate would pass the gates of a stage, by what is recorded of it."""
        marks = stage_marks(self.data.ref, stage)
        if not marks:
            return self.run.add(findings.unset(stage, self.data.ref))
        fitted, flat = self._calibration, self.chosen.result.metrics
        names = ("accuracy", "macro_f1", "p95_ms", "reference_ms")
        measured = {name: found for name in names if (found := estimate_in(flat, name))}
        measured["calibration_error"] = fitted.after if fitted.helped else fitted.before
        metrics = {name: one.as_dict() for name, one in measured.items()}
        evidence = Evidence(
            release=self.draft.changed(metrics=metrics),
            answers=self._answers,
            in_place=self.last.version if self.last else "",
            before=self._before,
            data_issues=data_issues(self.results),
        )
        made = [
            gate
            for gate in judged(stage, evidence)
            if gate.name not in _NOT_JUDGED and gate.found != NOTHING_BEFORE
        ]
        return self.run.add(findings.stage(stage, made, self._beyond(marks.get("accuracy"))))

    def _beyond(self, accuracy: float | None) -> str:
        """Return why the held-out rows could not show an accuracy; empty where they could."""
        held = len(self.data.manifest["holdout"])
        why = "" if accuracy is None else unreachable(float(accuracy), held)
        return why and f"On the {held:,} held-out rows, {accuracy:g} cannot be shown. {why}"

    @cached_property
    def _natural(self) -> np.ndarray:
        return headline_mask(self.data.train)

    @cached_property
    def _answers(self) -> list[AnsweredRow]:
        rows = self.data.train[self._natural]
        oof = aligned(self.chosen.oof, self.data.train["id"])[self._natural]
        masks, stated = release_slices(rows), confidence_of(probabilities(oof))
        said = zip(rows["id"], rows["intent"], predicted_labels(oof), stated, strict=True)
        return [
            AnsweredRow(
                id=str(id_),
                label=str(label),
                predicted=str(predicted),
                confidence=float(confidence),
                slices=[name for name, mask in masks.items() if mask[n]],
            )
            for n, (id_, label, predicted, confidence) in enumerate(said)
        ]

    @cached_property
    def _before(self) -> Mapping[str, str] | None:
        """The out-of-fold answers of the release in place by row, where its run is still here."""
        if self.last is None:
            return None
        with contextlib.suppress(NiveshError):
            table = find_run(self.last.run).out_of_fold(self.last.step, self.data.train)
            return dict(zip(table["id"], map(str, predicted_labels(table)), strict=True))
        return None

    def against_predecessor(self) -> Finding:
        """Whether the candidate is ahead of the release in place, out of fold."""
        last, before = self.last, self._before
        if last is None:
            return self.run.add(findings.first(self.data.name, self.draft.version))
        if before is None:
            why = f"the out-of-fold answers of its run {last.run} are not here, or of other rows"
            return self.run.add(findings.not_compared(last, why))
        true, mine, theirs = (
            np.array([column(row) for row in self._answers], dtype=object)
            for column in (lambda r: r.label, lambda r: r.predicted, lambda r: before[r.id])
        )
        made = comparison.gain(
            self.chosen.result.model,
            true,
            mine,
            {f"release {last.version}": theirs},
            name="against_predecessor",
            seed=self.run.seed,
        )
        return self.run.add(made)

    def worry(self) -> Finding:
        """What somebody who decides on the release should worry about."""
        known = self._known
        looked_at = {what: known.get(name) for what, name in _LOOKED_AT.items()}
        slices = findings.slice_accuracies(self.chosen.result.slices)
        return self.run.add(findings.worry(self.chosen.result.model, slices, looked_at))

    def card(self) -> None:
        """Show the model card as far as it is known: what held-out rows will tell is left open."""
        card = model_card(self.draft, [], self._known)
        show_markdown(re.sub(r"^#", "###", card.text, flags=re.MULTILINE))

    def history(self) -> Finding:
        """Which versions were released and where they were."""
        return self.run.add(findings.history(stays(read_log(self.draft.name)), self.data.name))


def _in_place(name: str) -> Release | None:
    """Return the release that serves, else is staged; None without one on this machine."""
    state = state_of(read_log(name))
    version = state.production or state.staging
    with contextlib.suppress(ReleaseError):
        return Package.of(name, version).release() if version else None
    return None
