"""The gates of a stage: marks from the objectives file, judged on what a release recorded.

A mark is judged by its 95 % interval. One that the rows at hand could not show even with the best
possible answers is *not reachable*, with the number of rows that could.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from nivesh_lib.evaluation.intervals import MIN_ROWS, Z, paired_accuracy_difference, wilson
from nivesh_lib.evaluation.objectives import Objective, judge_all, stage_marks
from nivesh_lib.records.metrics import estimate_in, flat_metrics
from nivesh_lib.records.release import AnsweredRow, Gate, GateVerdict, Release

_SCORES = {"accuracy": "accuracy", "macro_f1": "macro_f1"}
_LIMITS = {"calibration_error": "calibration_error", "latency_ms": "p95_ms"}


@dataclass(frozen=True)
class Evidence:
    """What gates are judged on.

    ``answers`` are those of the release, ``before`` the answers by row id of the release in place,
    ``in_place`` its version, empty where there is none. ``staged`` is since when the release has
    been in staging, empty where it is not. ``openings`` is how often the holdout was opened for
    this model, and ``data_issues`` what its data did not pass.
    """

    release: Release
    answers: Sequence[AnsweredRow]
    in_place: str = ""
    before: Mapping[str, str] | None = None
    staged: str = ""
    openings: int = 1
    data_issues: Sequence[str] = ()
    now: datetime | None = None


def judged(stage: str, evidence: Evidence) -> list[Gate]:
    """Return the gates of a stage with their verdicts.

    Raises
    ------
    DataError
        The objectives file cannot be read.
    """
    marks = stage_marks(evidence.release.dataset, stage)
    found = [_data(evidence), _holdout(evidence)]
    found += [_measured(name, float(mark), evidence) for name, mark in marks.items()
              if name in _SCORES | _LIMITS]  # fmt: skip
    if "size_mb" in marks:
        found.append(_size(float(marks["size_mb"]), evidence.release))
    found += _against(marks, evidence)
    if "hours_in_staging" in marks:
        found.append(_age(float(marks["hours_in_staging"]), evidence))
    return found


def _data(evidence: Evidence) -> Gate:
    issues = evidence.data_issues
    return Gate(
        name="data",
        mark="the data pass their checks, and no row is on both sides of the split",
        verdict="not met" if issues else "met",
        found="; ".join(issues) or f"{evidence.release.dataset} passes",
    )


def _holdout(evidence: Evidence) -> Gate:
    n = evidence.openings
    return Gate(
        name="holdout",
        mark="the holdout was opened once for this model",
        verdict="met" if n == 1 else "not met",
        found=f"opened {n} time{'s' * (n != 1)}",
    )


def _measured(name: str, mark: float, evidence: Evidence) -> Gate:
    """Return the gate of a metric that is measured with an interval."""
    metric, metrics = (_SCORES | _LIMITS)[name], evidence.release.metrics
    objective = Objective("", metric, mark, at_most=name in _LIMITS)
    found = judge_all(metrics, [objective])
    if not found:
        return Gate(name=name, mark=str(objective), verdict="not shown", found="not measured")
    verdict: GateVerdict = found[0].status
    rows, why = estimate_in(flat_metrics(metrics), metric), ""
    if verdict == "undecided" and metric == "p95_ms":
        why = "Measured on a machine that does nothing else, it would be decided."
    if verdict != "met" and name == "accuracy" and rows and (beyond := unreachable(mark, rows.n)):
        verdict, why = "not reachable" if verdict == "undecided" else verdict, beyond
    on = f" on {rows.n:,} rows" if rows and metric != "p95_ms" else ""
    return Gate(name=name, mark=str(objective), verdict=verdict, found=found[0].found + on, why=why)


def unreachable(mark: float, n: int) -> str:
    """Return why an accuracy cannot be shown with n rows, however right all answers are, or ""."""
    needed = math.ceil(Z**2 * mark / (1 - mark)) if mark < 1 else 0
    if n >= needed:
        return ""
    return (
        f"Even {n:,} right of {n:,} leave the lower end at {wilson(1.0, n)[0]:.3f}; {needed:,} "
        "rows could show it."
    )


def _size(mark: float, release: Release) -> Gate:
    size = release.size_bytes / 1e6
    return Gate(
        name="size_mb",
        mark=f"at most {mark:g} MB on disk",
        verdict="met" if size <= mark else "not met",
        found=f"{size:.1f} MB",
    )


def _against(marks: Mapping[str, Any], evidence: Evidence) -> Iterator[Gate]:
    """Yield non-inferiority to the release in place, overall and on each slice of enough rows.

    The intervals of slices are corrected for their number (Bonferroni).
    """
    answers, before = evidence.answers, evidence.before
    sizes = Counter(name for row in answers for name in row.slices)
    slices = sorted(name for name, n in sizes.items() if MIN_ROWS <= n < len(answers))
    # Without a release in place there is nothing to lose, which one gate says.
    groups = {"accuracy_loss": [""], "slice_loss": slices if evidence.in_place else []}
    for name, parts in groups.items():
        for part in parts if name in marks else ():
            mark = float(marks[name])
            title = f"{name}: {part}" if part else name
            words = f"a loss of {mark:g} against the release in place is excluded"
            words += f" for {part}" if part else ""
            if not evidence.in_place:
                yield Gate(name=title, mark=words, verdict="met", found="none is in place yet")
            elif before is None or any(row.id not in before for row in answers):
                why = f"{evidence.in_place} has no answers to the rows of this holdout"
                yield Gate(name=title, mark=words, verdict="not shown", found=why)
            else:
                rows = [row for row in answers if not part or part in row.slices]
                yield _not_worse(title, words, mark, rows, before, 0.05 / len(parts))


def _not_worse(
    name: str,
    words: str,
    mark: float,
    rows: Sequence[AnsweredRow],
    before: Mapping[str, str],
    alpha: float,
) -> Gate:
    right = np.array([row.predicted == row.label for row in rows])
    was = np.array([before[row.id] == row.label for row in rows])
    apart = paired_accuracy_difference(right, was, alpha=alpha)
    won, lost = int((right & ~was).sum()), int((was & ~right).sum())
    least = -paired_accuracy_difference(was, was, alpha=alpha).low  # the same answers to all
    verdict: GateVerdict = "met" if apart.low > -mark else "undecided"
    if apart.high < -mark:
        verdict = "not met"
    why = f"So many rows can exclude a loss of {least:.3f} at best."
    if verdict == "undecided" and least >= mark:
        verdict = "not reachable"
        needed = math.ceil(len(rows) * (least / (1 - least)) * (1 - mark) / mark)
        why += f" {needed:,} rows could exclude {mark:g}."
    found = f"{won} won, {lost} lost of {len(rows):,} rows; change {apart.value:+.3f} "
    found += f"[{apart.low:+.3f}, {apart.high:+.3f}]"
    return Gate(name=name, mark=words, verdict=verdict, found=found, why=why)


def _age(hours: float, evidence: Evidence) -> Gate:
    now, since = evidence.now or datetime.now(UTC), evidence.staged
    spent = (now - datetime.fromisoformat(since)).total_seconds() / 3600 if since else 0.0
    return Gate(
        name="hours_in_staging",
        mark=f"at least {hours:g} hours in staging",
        verdict="met" if spent >= hours else "not met",
        found=f"{spent:.1f} hours" if since else "it is not in staging",
    )
