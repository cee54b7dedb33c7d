"""Findings about models that were made smaller or faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.compression.cascade import NEVER, CascadeThreshold
from nivesh_lib.evaluation.compression.gate import Choice, GateDecision, Recommendation
from nivesh_lib.evaluation.confidence.calibration import Calibration
from nivesh_lib.evaluation.intervals import paired_accuracy_difference
from nivesh_lib.evaluation.objectives import BUSY
from nivesh_lib.evaluation.resampling.cross_validation import aligned, predicted_labels
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding, Plot, Verdict
from nivesh_lib.records.results import HEADLINE
from nivesh_lib.wording import human_bytes, model_name, of_100, points, sentence, the

_GATE = "nivesh_lib.evaluation.compression.gate"
_CASCADE = "nivesh_lib.evaluation.compression.cascade"
_HERE_ONLY = "Timed on the machine that made this page, one query after the other."
_DECISIONS = {
    "": "not optimised",
    "refused": "left out by its point",
    "no gain": "neither faster nor smaller",
    "not saved": "cannot be saved",
}


def reference(name: str, accuracy: Estimate, size_bytes: float) -> Finding:
    """Say what the model reaches that others are made from."""
    return Finding(
        name="reference",
        claim=sentence(
            f"{the(name)}, as it is, routes {of_100(accuracy)} rightly and takes "
            f"{_size(size_bytes)}"
        ),
        estimate=accuracy,
        cells=[_row(name, accuracy, size_bytes)],
        source="nivesh_lib.evaluation.compression.study.CompressionStudy",
    )


def technique(decision: GateDecision, size_bytes: float) -> Finding:
    """Judge the accuracy of one optimised model against the model that it was made from.

    The interval gives the verdict, the point the decision of the gate; the claim has both.
    """
    what = "left out, beyond" if decision.verdict == "refused" else "kept, within"
    allowed = f"the {100 * decision.allowed_loss:g} points that are allowed"
    judged = {
        "met": f"no more is lost than {allowed}",
        "not met": f"more is lost than {allowed}, so it is left out",
        "undecided": f"by its point it is {what} {allowed}, which these rows cannot settle",
    }[_verdict(decision)]
    return Finding(
        name=f"technique_{decision.name}",
        claim=sentence(
            f"{the(decision.name)} takes {_size(size_bytes)} and changes accuracy by "
            f"{points(decision.difference)} points: {judged}"
        ),
        estimate=decision.difference,
        mark=f"loses at most {100 * decision.allowed_loss:g} points of accuracy against "
        f"{the(decision.reference)}",
        verdict=_verdict(decision),
        cells=[
            {
                **_row(decision.name, decision.scores["accuracy"], size_bytes),
                **decision.difference.columns("points", times=100),
                "same answers, of 100": 100 * decision.agreement.value,
            }
        ],
        caveats=_resolution(decision),
        source=f"{_GATE}.decide",
    )


def _verdict(decision: GateDecision) -> Verdict:
    if decision.loses_more:
        return "not met"
    return "undecided" if decision.may_lose_more else "met"


def _resolution(decision: GateDecision) -> list[str]:
    """Return how small a loss these rows could show, where they leave the question open."""
    if _verdict(decision) != "undecided":
        return []
    needed = decision.allowed_loss + decision.difference.high - decision.difference.value
    return [
        f"With {decision.difference.n:,} queries, only a loss of about {100 * needed:.1f} points "
        "would be shown to exceed what is allowed."
    ]


def cascade(
    threshold: CascadeThreshold, curve: pd.DataFrame, student: str, teacher: str
) -> Finding:
    """Say how much a student in front answers, and judge what that loses to the teacher alone.

    Parameters
    ----------
    curve
        As `cascade.cascade_scores` returns it.
    """
    change = threshold.loss.negative()
    allowed = f"{100 * threshold.allowed_loss:g} points"
    verdict: Verdict = (
        "met" if threshold.loss.high <= threshold.allowed_loss
        else "not met" if threshold.loss.low > threshold.allowed_loss else "undecided"
    )  # fmt: skip
    judged = {
        "met": f"and at most {allowed} may be lost",
        "not met": f"more than the {allowed} that may be lost",
        "undecided": f"and whether more than {allowed} are lost, these rows cannot tell",
    }[verdict]
    claim = (
        f"for a loss of at most {allowed}, {the(student)} may answer nothing"
        if threshold.threshold >= NEVER
        else f"in front, {the(student)} answers {of_100(threshold.share)}; accuracy "
        f"changes by {points(change)} points, {judged}"
    )
    plain = threshold.as_dict()
    return Finding(
        name="cascade",
        claim=sentence(claim),
        estimate=change,
        mark=f"loses at most {allowed} of accuracy against {the(teacher)} alone",
        verdict=verdict,
        cells=[
            {
                "in front": model_name(student),
                "behind": model_name(teacher),
                "answers from a confidence of": None
                if threshold.threshold >= NEVER
                else threshold.threshold,
                "answered in front, of 100": 100 * threshold.share.value,
            }
        ],
        plot=Plot(
            kind="cascade",
            data={
                "curve": curve[["share", "loss"]].to_dict("list"),
                "chosen": {key: plain[key] for key in ("share", "loss")},
                "allowed_loss": threshold.allowed_loss,
            },
            alt=f"Accuracy of the cascade against {the(teacher)} alone, by the share that "
            f"{the(student)} answers.",
        ),
        caveats=["The line is drawn on the rows that the threshold is chosen on; the dot is not."],
        source=f"{_CASCADE}.choose_threshold",
    )


def calibration(calibrations: Mapping[str, Calibration]) -> Finding:
    """Say how far stated confidence is off before and after rescaling, for the worst of several.

    Parameters
    ----------
    calibrations
        Model -> as `calibration.cross_fitted_temperature` returns it. An error below zero, which
        its estimate can have by chance, is shown as zero.
    """
    errors = {
        name: tuple(_from_zero(one) for one in (found.before, found.after))
        for name, found in calibrations.items()
    }
    worst = max(errors, key=lambda name: errors[name][0].value)
    before = errors[worst][0]
    after = max((pair[1] for pair in errors.values()), key=lambda error: error.high)
    return Finding(
        name="calibration",
        claim=sentence(
            f"stated confidence is off by up to {100 * before.value:.1f} points, for {the(worst)}; "
            f"rescaled, none of {len(errors)} models shows an error above "
            f"{100 * after.high:.1f} points"
        ),
        estimate=after,
        cells=[
            {
                "model": model_name(name),
                **pair[0].columns("before, points", times=100),
                **pair[1].columns("after, points", times=100),
                "temperature": calibrations[name].temperature,
            }
            for name, pair in errors.items()
        ],
        caveats=["The error is an estimate that can fall below zero by chance; then it is 0."],
        source="nivesh_lib.evaluation.confidence.calibration.cross_fitted_temperature",
    )


def race(choices: Sequence[Choice]) -> Finding:
    """Say which model answers fastest, of models that took turns on the same queries."""
    ordered = sorted(choices, key=lambda one: one.speed.p95_ms)
    first, last = ordered[0], ordered[-1]
    return Finding(
        name="race",
        claim=sentence(
            f"of {len(ordered)} models, {the(first.name)} answers fastest, 95 of 100 queries "
            f"within {_ms(first.speed.p95_ms)}, and the slowest, {the(last.name)}, takes "
            f"{_ms(last.speed.p95_ms)}"
        ),
        estimate=_p95(first.speed),
        cells=[
            {
                "model": model_name(one.name),
                "half of the queries, ms": one.speed.p50_ms,
                **_p95(one.speed).columns("95 of 100 within, ms"),
                "MB": None if one.size_bytes is None else one.size_bytes / 1e6,
            }
            for one in ordered
        ],
        caveats=[*_busy([one.speed for one in ordered]), _HERE_ONLY],
        source="nivesh_lib.evaluation.benchmark.race",
    )


def answer(
    optimised: Choice | None, reference: Choice, decisions: Sequence[GateDecision]
) -> Finding:
    """Judge whether a model became smaller or faster without getting worse than is allowed.

    Parameters
    ----------
    optimised
        The best that the gate kept, if any.
    decisions
        At least one, all against the reference.
    """
    allowed = f"{100 * decisions[0].allowed_loss:g} points"
    common: dict[str, Any] = {
        "name": "compression",
        "mark": f"smaller or faster than {the(reference.name)} for at most {allowed} of accuracy",
        "source": f"{_GATE}.recommended",
    }
    if optimised is None:
        claim = (
            f"none of {len(decisions)} techniques makes {the(reference.name)} smaller or faster "
            f"for at most {allowed} of accuracy"
        )
        return Finding(claim=sentence(claim), verdict="not met", **common)
    decision = next(one for one in decisions if one.name == optimised.name)
    judged = {
        "met": f"no more is lost than the {allowed} allowed",
        "undecided": f"whether more is lost than the {allowed} allowed, these rows cannot tell",
    }[_verdict(decision)]
    return Finding(
        claim=sentence(
            f"{the(optimised.name)} answers 95 of 100 queries within "
            f"{_ms(optimised.speed.p95_ms)} and takes {_size(optimised.size_bytes)}, where "
            f"{the(reference.name)} needs {_ms(reference.speed.p95_ms)} and "
            f"{_size(reference.size_bytes)}; accuracy changes by "
            f"{points(decision.difference)} points: {judged}"
        ),
        estimate=decision.difference,
        verdict=_verdict(decision),
        cells=[
            {
                "technique": model_name(one.name),
                "decision": _DECISIONS.get(one.verdict, "kept by its point"),
                **one.difference.columns("points", times=100),
                "times as fast": one.times_as_fast,
                "times as small": one.times_as_small,
            }
            for one in decisions
        ],
        caveats=[*_resolution(decision), "The best of several on these very rows."],
        **common,
    )


def recommendation(
    choices: Sequence[Choice],
    advice: Recommendation,
    frame: pd.DataFrame,
    *,
    target_ms: float | None = None,
) -> Finding:
    """Name the model to serve, and what it costs to serve another one in its place.

    Parameters
    ----------
    choices, advice
        As given to and returned by `gate.recommended`.
    frame
        ``id``, ``intent`` and ``selection`` of the rows that they answered.
    """
    by_name = {one.name: one for one in choices}
    best, optimised = by_name[advice.model], by_name.get(advice.optimised)
    apart = {one.name: _difference(one, best, frame) for one in choices}
    slow = "" if advice.meets_latency else (
        f"no model is known to answer 95 of 100 queries within {target_ms:g} ms; the most "
        f"accurate is {the(best.name)}"
    )  # fmt: skip
    claim = (slow or f"serve {the(best.name)}") + (
        f": it routes {of_100(best.scores['accuracy'])} rightly, 95 of 100 within "
        f"{_ms(best.speed.p95_ms)}, from {_size(best.size_bytes)}"
    )
    if optimised is None:
        claim += "; no optimised model was kept"
    elif optimised is not best:
        claim += (
            f"; {the(optimised.name)} in its place changes accuracy by "
            f"{points(apart[optimised.name])} points and needs {_ms(optimised.speed.p95_ms)} and "
            f"{_size(optimised.size_bytes)}"
        )
    ordered = sorted(choices, key=lambda one: -one.scores[HEADLINE].value)
    return Finding(
        name="recommendation",
        claim=sentence(claim),
        estimate=best.scores["accuracy"],
        cells=[
            {
                **_row(one.name, one.scores["accuracy"], one.size_bytes),
                **apart[one.name].columns("points against it", times=100),
                "95 of 100 within, ms": one.speed.p95_ms,
                "decision": _decision(one, advice, target_ms),
            }
            for one in ordered
        ],
        plot=Plot(
            kind="costs",
            data={"points": [_point(one) for one in ordered if one is not best] + [_point(best)]},
            alt=f"Accuracy against milliseconds of {len(ordered)} models; {the(best.name)} has "
            f"{best.scores['accuracy'].value:.3f} at {_ms(best.speed.p95_ms)}.",
        ),
        caveats=[*_busy([one.speed for one in choices]), _HERE_ONLY,
                 "The intervals are not corrected for the number of models."],
        source=f"{_GATE}.recommended",
    )  # fmt: skip


def _decision(one: Choice, advice: Recommendation, target_ms: float | None) -> str:
    if one.name == advice.model:
        return "recommended"
    if (status := one.in_time(target_ms)) != "met":
        return "too slow" if status == "not met" else "not known to be in time"
    return "best optimised" if one.name == advice.optimised else _DECISIONS.get(one.verdict, "kept")


def _difference(one: Choice, best: Choice, frame: pd.DataFrame) -> Estimate:
    rows = frame[headline_mask(frame)]
    if one is best:
        return Estimate(0.0, 0.0, 0.0, len(rows))
    right = [
        predicted_labels(aligned(choice.oof, rows["id"])) == rows["intent"].to_numpy(dtype=object)
        for choice in (one, best)
    ]
    return paired_accuracy_difference(*right)


def _point(one: Choice) -> dict[str, Any]:
    return {"name": model_name(one.name), "accuracy": one.scores["accuracy"],
            "ms": one.speed.p95_ms, "bytes": one.size_bytes}  # fmt: skip


def serving(rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Say what a process that serves a model needs and answers.

    Parameters
    ----------
    rows
        ``model``, ``peak_bytes`` of its process and ``per_second``, queries in batches of
        ``batch_size``; at least one row.
    """
    needs = [
        f"{the(row['model'])} holds up to {_size(row['peak_bytes'])} of memory and answers "
        f"{row['per_second']:,.0f} queries a second"
        for row in rows
    ]
    return Finding(
        name="serving",
        claim=sentence("; ".join(needs)),
        cells=[
            {"model": model_name(row["model"]), "memory, MB": row["peak_bytes"] / 1e6,
             f"queries a second, {row['batch_size']} a call": row["per_second"]}
            for row in rows
        ],
        caveats=["Measured in a process of its own, with one thread, on this machine."],
        source="nivesh_lib.evaluation.benchmark.benchmark_served",
    )  # fmt: skip


def _row(name: str, accuracy: Estimate, size_bytes: float | None) -> dict[str, Any]:
    size = None if size_bytes is None else size_bytes / 1e6
    return {"model": model_name(name), **accuracy.columns("accuracy"), "MB": size}


def _from_zero(error: Estimate) -> Estimate:
    value, low, high = (max(end, 0.0) for end in (error.value, error.low, error.high))
    return Estimate(value, low, high, error.n)


def _p95(speed: Speed) -> Estimate:
    low, high = (speed.p95_ms if end is None else end
                 for end in (speed.p95_ms_low, speed.p95_ms_high))  # fmt: skip
    return Estimate(speed.p95_ms, low, high, speed.n)


def _busy(speeds: Sequence[Speed]) -> list[str]:
    """Return a caveat where a reference loop beside the models says that the machine was busy."""
    slowdown = max((one.reference_ms_high or 1.0) / (one.reference_ms_low or 1.0) for one in speeds)
    if slowdown <= BUSY:
        return []
    return [
        f"The machine was busy: a reference loop took {slowdown:.1f} times its fastest, so "
        "models may be faster than this."
    ]


def _ms(value: float) -> str:
    return f"{value:.{2 if value < 1 else 1 if value < 9.95 else 0}f} ms"


def _size(size: float | None) -> str:
    return "an unknown size" if size is None else human_bytes(size)
