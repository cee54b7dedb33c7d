"""Findings about drift, from rows of before and now with the answers of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nivesh_lib.evaluation.drift import Drift
from nivesh_lib.evaluation.findings import batches, plots
from nivesh_lib.evaluation.findings.quality import examples_of
from nivesh_lib.evaluation.intervals import mean_of, share_of
from nivesh_lib.evaluation.samples import Samples, accuracy_change, mean_change
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Example, Finding, Plot, Verdict
from nivesh_lib.wording import joined, of_100, percent, points, sentence, shown, signed

ALLOWED_LOSS = 0.05  # accuracy, absolute
MARKS = {
    "accuracy": f"at most {100 * ALLOWED_LOSS:g} of 100 answers lost",
    "drift": batches.MARK,
}
_HERE = "nivesh_lib.evaluation.samples"
_SHOWN = 20  # labels in the figure


def _finding(
    samples: Samples,
    claim: str,
    *,
    name: str,
    verdict: Verdict = "",
    caveats: Sequence[str] = (),
    **fields: Any,
) -> Finding:
    """Return a finding that says what its rows are; a mark is judged on rows of production only."""
    if samples.limit:
        verdict, caveats = "", [sentence(f"{samples.noun} {samples.limit}"), *caveats]
        if name in MARKS:
            claim += f"; not judged, as such rows {samples.limit}"
    return Finding(
        name=name,
        claim=sentence(claim),
        mark=MARKS.get(name, ""),
        verdict=verdict,
        caveats=list(caveats),
        **fields,
    )


def compared(samples: Samples) -> Finding:
    """Say what is compared with what, and show rows of now."""
    return _finding(
        samples,
        f"compared are {samples.origin}",
        name="compared",
        examples=[Example(query=anonymize_query(q)) for q in samples.now["query"].head(3)],
        source=f"{_HERE}.before_and_now",
    )


def accuracy(samples: Samples) -> Finding:
    """Judge how many answers are right now, against before.

    Parameters
    ----------
    samples
        As `drift.answered` returns them. Where they are not of production, nothing is judged.
    """
    right = {when: share_of(found) for when, found in samples.right.items()}
    change = accuracy_change(*samples.right.values())
    verdict, lost = _loss(change)
    numbers = np.flatnonzero(~samples.right["now"])[:2], np.flatnonzero(samples.right["now"])[:1]
    return _finding(
        samples,
        f"the watched model answers {of_100(right['now'], samples.noun)} rightly, against "
        f"{of_100(right['before'])} {samples.earlier}" + lost * (not samples.limit),
        name="accuracy",
        verdict=verdict,
        estimate=change,
        cells=[
            {"answers": when, **one.columns("right of 100", times=100), "queries": one.n}
            for when, one in (right | {"change": change}).items()
        ],
        plot=_before_and_now({"answers that are right": right}),
        examples=examples_of(
            samples.now, samples.now["predicted"].to_numpy(dtype=object), *numbers
        ),
        source=f"{_HERE}.accuracy_change",
    )


def _loss(change: Estimate) -> tuple[Verdict, str]:
    lost = f"more than {100 * ALLOWED_LOSS:g} of 100 are lost"
    if change.low >= -ALLOWED_LOSS:
        return "met", f"; no {lost}"
    if change.high < -ALLOWED_LOSS:
        return "not met", f"; {lost}"
    return "undecided", f"; whether {lost}, these rows cannot tell"


def _before_and_now(measures: Mapping[str, Mapping[str, Estimate]]) -> Plot:
    said = (
        f"{name}: {percent(sides['before'].value)} before, {percent(sides['now'].value)} now"
        for name, sides in measures.items()
    )
    return Plot(kind="before_and_now", data={"measures": measures}, alt="; ".join(said) + ".")


def moved(samples: Samples, found: Drift) -> Finding:
    """Judge whether the rows of now have drifted, by the test of `drift.drift_between`."""
    return batches.drift(found, noun=samples.noun, earlier=samples.earlier, limit=samples.limit)


def labels(samples: Samples) -> Finding:
    """Name the label whose share changed most, if by more than chance."""
    sides = {when: frame["intent"] for when, frame in samples.sides.items()}
    names = sorted({*sides["before"], *sides["now"]})
    changes = {
        name: accuracy_change(
            *((side == name).to_numpy() for side in sides.values()), alpha=0.05 / len(names)
        )
        for name in names
    }
    ordered = sorted(names, key=lambda name: -abs(changes[name].value))
    shares = {
        when: {shown(name): float((side == name).mean()) for name in ordered[:_SHOWN]}
        for when, side in sides.items()
    }
    most = next((n for n in ordered if changes[n].low > 0 or changes[n].high < 0), None)
    return _finding(
        samples,
        _most_changed(samples, most, changes),
        name="labels",
        estimate=changes[most] if most else None,
        cells=[
            {"label": shown(name), **{when: of[shown(name)] for when, of in shares.items()},
             **changes[name].columns("change")}
            for name in ordered[:5]
        ],
        plot=Plot(
            kind="shares",
            data={"shares": shares},
            alt="Share of each label before and now; the table lists the largest changes.",
        ),
        caveats=[f"The intervals are corrected for {len(names)} labels (Bonferroni)."],
        source=f"{_HERE}.accuracy_change",
    )  # fmt: skip


def _most_changed(samples: Samples, most: str | None, changes: Mapping[str, Estimate]) -> str:
    """Return the claim on the label that changed most, or that none is known to have."""
    if most is None:
        widest = max((one.high - one.low) / 2 for one in changes.values())
        return (
            f"whether any label is more or less frequent among {samples.noun}, these rows cannot "
            f"tell: a change of less than {100 * widest:.0f} points could be chance"
        )
    than = "more" if changes[most].value > 0 else "less"
    share = {when: percent((side["intent"] == most).mean()) for when, side in samples.sides.items()}
    return (
        f"{joined([shown(most)])} is {than} frequent among "
        f"{samples.noun}: {share['now']} against {share['before']} {samples.earlier}, a change of "
        f"{points(changes[most])} points"
    )


def lengths(samples: Samples) -> Finding:
    """Say whether queries are longer or shorter than before, in words."""
    words = {when: frame["query"].map(str.split).map(len) for when, frame in samples.sides.items()}
    change = mean_change(**{when: of.to_numpy(dtype=float) for when, of in words.items()})
    value, low, high = map(signed, (change.value, change.low, change.high))
    than = "longer" if change.low > 0 else "shorter" if change.high < 0 else ""
    claim = f"{samples.noun} are {than} than {samples.earlier}"
    if not than:
        claim = (
            f"whether {samples.noun} are longer or shorter than {samples.earlier}, these rows "
            "cannot tell"
        )
    means = f"{words['now'].mean():.1f} words on average, against {words['before'].mean():.1f}"
    return _finding(
        samples,
        f"{claim}: {means} ({value}, {low} to {high})",
        name="lengths",
        estimate=change,
        plot=plots.lengths(words),
        source=f"{_HERE}.mean_change",
    )


def confidence(samples: Samples) -> Finding:
    """Say whether confidence, which needs no labels, would have warned of a loss of accuracy."""
    stated = {when: frame["confidence"].to_numpy() for when, frame in samples.sides.items()}
    change, right = mean_change(**stated), accuracy_change(*samples.right.values())
    if samples.limit:  # doubt may have been a reason to choose them
        warned = "such rows cannot tell whether it would warn"
    elif right.low <= 0 <= right.high:
        warned = "whether fewer answers are right, these rows cannot tell"
    else:
        warned = {
            (True, True): "it would have warned of the loss",
            (True, False): "it gives no warning of the loss",
            (False, True): "a false alarm, as more answers are right",
            (False, False): "rightly no alarm",
        }[right.high < 0, change.high < 0]
    means = {when: mean_of(values) for when, values in stated.items()}
    shares = {when: share_of(found) for when, found in samples.right.items()}
    return _finding(
        samples,
        f"stated confidence in {samples.noun} is {percent(means['now'].value)} on average, against "
        f"{percent(means['before'].value)} {samples.earlier}: {warned}",
        name="confidence",
        estimate=change,
        plot=_before_and_now({"stated confidence": means, "answers that are right": shares}),
        source=f"{_HERE}.mean_change",
    )


def recorded(samples: Samples, found: Drift) -> dict[str, Any]:
    """Return what the record of the step holds beside its findings: headline and metrics."""
    return {
        "headline": accuracy(samples).claim,
        "metrics": {
            "drift_p": min((one.p for one in found.changes), default=1.0),
            "moved_aspects": sum(one.p <= found.alpha for one in found.changes),
            **{f"accuracy_{when}": right.mean() for when, right in samples.right.items()},
            "accuracy_change": accuracy_change(*samples.right.values()).as_dict(),
        },
    }
