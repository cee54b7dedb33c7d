"""Findings about a release before it is made: the candidate, its gates, what came before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.objectives import verdict_of
from nivesh_lib.records.estimate import from_columns
from nivesh_lib.records.finding import Finding, Plot
from nivesh_lib.records.release import Gate
from nivesh_lib.wording import (
    counted,
    human_bytes,
    joined,
    milliseconds,
    model_name,
    of_100,
    sentence,
    shown,
    the,
)

STAGES = ("staging", "production")
MARKS = {stage: f"every mark of {stage} is shown to be reached" for stage in STAGES}
_LATER = (
    "Opening the holdout, losses against the release in place and hours in staging are judged by "
    "`nivesh release` and `nivesh promote`."
)


def candidate(model: str, models: Sequence[Mapping[str, Any]], version: str) -> Finding:
    """Say which model of a run would be released, and as which version.

    Parameters
    ----------
    models
        Those of the run, best first: ``model``, ``scores`` (name -> estimate), ``p95_ms`` and
        ``size_bytes``. Those before ``model`` are too late, or were not saved.
    version
        What follows from the difference to the last release.
    """
    one = next(row for row in models if row["model"] == model)
    better = [the(row["model"]) for row in models[: models.index(one)]]
    claim = f"{the(model)} would be released, as {version}: out of fold it routes "
    claim += f"{of_100(one['scores']['accuracy'])} rightly and answers 95 of 100 within "
    claim += f"{milliseconds(one['p95_ms'])}"
    claim += f"; not {joined(better)}, too late or not saved" if better else ""
    return Finding(
        name="candidate",
        claim=sentence(claim),
        estimate=one["scores"]["accuracy"],
        cells=[
            {"model": model_name(row["model"])}
            | {key: value for name in ("accuracy", "macro_f1")
               for key, value in row["scores"][name].columns(shown(name)).items()}
            | {"95 of 100 within, ms": row["p95_ms"], "size": human_bytes(row["size_bytes"])}
            for row in models
        ],
        source="nivesh_lib.releases.release.servable",
    )  # fmt: skip


def stage(name: str, gates: Sequence[Gate], beyond: str = "") -> Finding:
    """Judge whether a candidate would pass the gates of a stage, by what is recorded of it.

    Parameters
    ----------
    gates
        As `releases.gates.judged` returns them for out-of-fold answers.
    beyond
        Why the held-out rows could not show the accuracy that is asked for, if so.
    """
    missed = [gate for gate in gates if not gate.passed]
    claim = f"for {name}, {len(gates) - len(missed)} of {counted(len(gates), 'mark')} "
    claim += f"{'is' if len(gates) - len(missed) == 1 else 'are'} shown to be reached out of fold"
    claim += f"; not: {joined(shown(gate.name) for gate in missed)}" if missed else ""
    verdict = verdict_of(not missed, any(gate.verdict == "not met" for gate in missed))
    return Finding(
        name=name,
        claim=sentence(claim),
        mark=MARKS[name],
        verdict="undecided" if verdict == "met" and beyond else verdict,
        cells=[
            {"gate": shown(gate.name), "mark": gate.mark, "found": gate.found}
            | {"verdict": gate.verdict, "why": gate.why}
            for gate in gates
        ],
        caveats=[*filter(None, [beyond]), _LATER],
        source="nivesh_lib.releases.gates.judged",
    )


def left_out(name: str, why: str) -> Finding:
    """Say why something is not judged."""
    return Finding(name=name, claim=sentence(why), mark=MARKS.get(name, ""))


def worry(
    model: str, rows: Sequence[Mapping[str, Any]], findings: Mapping[str, Finding | None]
) -> Finding:
    """Say what somebody who decides on a release should worry about.

    Parameters
    ----------
    rows
        The slices as `evaluation.scores.by_slice` scored them out of fold. How rows were selected
        is left out: hard ones were picked because a model failed on them.
    findings
        Those of the run that are looked at, by what they are about; None for those it lacks.
    """
    open_ = [what for what, one in findings.items() if one is not None and one.verdict != "met"]
    absent = [what for what, one in findings.items() if one is None]
    slices = {
        row["slice"]: from_columns(row, "accuracy", n=row["rows"])
        for row in rows
        if not row["slice"].startswith("selection=")
    }
    claim = f"for {the(model)}, no slice has enough rows to be scored by itself"
    if slices:
        worst = min(slices, key=lambda name: slices[name].value)
        claim = f"{the(model)} serves “{shown(worst)}” worst: {of_100(slices[worst])} are right"
    judged = [what for what in open_ if findings[what].mark]  # type: ignore[union-attr]
    claim += f"; not shown to be in order: {joined(judged)}" if judged else ""
    claim += f"; not part of the run: {joined(absent)}" if absent else ""
    return Finding(
        name="worry",
        claim=sentence(claim),
        cells=[
            {"about": what, "found": one.claim, "verdict": one.verdict}
            for what, one in findings.items()
            if one is not None
        ],
        plot=plots.intervals(
            {shown(name): one for name, one in slices.items()},
            "right of 100",
            times=100.0,
        ) if slices else None,
        caveats=["The intervals are not corrected for the number of slices."] if slices else [],
        source="nivesh_lib.evaluation.scores.by_slice",
    )  # fmt: skip


def history(stays: Sequence[Mapping[str, str]], dataset: str) -> Finding:
    """Say which versions were where, and draw it.

    Parameters
    ----------
    stays
        As `releases.log.stays` returns them: version, stage, ``start`` and ``end``.
    """
    source = "nivesh_lib.releases.log.stays"
    if not stays:
        claim = f"no release of {shown(dataset)} is in the log yet: its history begins with the "
        claim += "first `nivesh release`"
        return Finding(name="history", claim=sentence(claim), source=source)
    versions = list(dict.fromkeys(one["version"] for one in stays))
    last = {one["version"]: one["stage"] for one in stays}
    serving = [version for version, where in last.items() if where == "Production"]
    claim = f"{counted(len(versions), 'version')} of {shown(dataset)} "
    claim += f"{'was' if len(versions) == 1 else 'were'} released; "
    claim += f"{joined(serving)} serves" if serving else "none is in production"
    said = (f"{one['version']} in {one['stage'].lower()} from {one['start']}" for one in stays)
    return Finding(
        name="history",
        claim=sentence(claim),
        cells=[dict(one) for one in stays],
        plot=Plot(kind="stages", data={"stays": list(stays)}, alt="; ".join(said) + "."),
        source=source,
    )
