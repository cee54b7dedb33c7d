"""The finding of a drift test: what a notebook, the report and ``nivesh drift`` say of it."""

from __future__ import annotations

from collections.abc import Sequence

from nivesh_lib.evaluation.drift import Change, Drift
from nivesh_lib.records.finding import Finding, Plot, Verdict
from nivesh_lib.wording import percent, sentence, shown, would_show

LEAST = 0.2  # a change of a share that rows must be enough to show
MARK = (
    "no drift shown, at 5 false alarms in 100, by rows that would show a change of "
    f"{100 * LEAST:g} points"
)


def drift(
    found: Drift,
    *,
    noun: str = "new queries",
    earlier: str = "before",
    limit: str = "",
    caveats: Sequence[str] = (),
) -> Finding:
    """Judge whether queries of now differ from those of before by more than chance.

    Parameters
    ----------
    noun, earlier, limit
        As in `samples.Samples`. Rows with a limit are not judged, and their difference is not
        called drift.
    """
    least = [one.least for one in found.changes if one.aspect in ("predicted", "label", "language")]
    least = least or [one.least for one in found.changes]
    verdict: Verdict = "met" if least and all(one <= LEAST for one in least) else "undecided"
    some, none = ("a difference", "no difference") if limit else ("drift", "no drift")
    sizes = f"{found.n_now:,} {noun} and {found.n_before:,} {earlier}"
    claim = f"{some if found.found else none} is shown between {sizes}"
    if found.changes:
        claim += f"; furthest moved {_moved(found.changes[0], len(found.changes))}"
        claim += "" if found.found else would_show(least, "change")
    if limit:
        claim += f"; not judged, as such rows {limit}"
        caveats = [sentence(f"{noun} {limit}"), *caveats]
    return Finding(
        name="drift",
        claim=sentence(claim),
        mark=MARK,
        verdict="" if limit else "not met" if found.found else verdict,
        cells=[
            {"test": shown(one.aspect), "moved most": one.what, "before": one.before,
             "now": one.now, "standard errors": one.errors, "limit": one.limit, "p": f"{one.p:.3f}"}
            for one in found.changes
        ],
        plot=_bars(found.changes),
        caveats=list(caveats),
        source="nivesh_lib.evaluation.drift.drift_between",
    )  # fmt: skip


def _moved(change: Change, tests: int) -> str:
    corrected = f", corrected for {tests} tests" * (tests > 1)
    return (
        f"{change.what}, {percent(change.now)} against {percent(change.before)} "
        f"(p {change.p:.3f}{corrected})"
    )


def _bars(changes: Sequence[Change]) -> Plot | None:
    limited = {shown(one.aspect): one for one in changes if one.limit < float("inf")}
    if not limited:
        return None
    return Plot(
        kind="distances",
        data={
            "distances": {name: one.errors for name, one in limited.items()},
            "thresholds": {name: one.limit for name, one in limited.items()},
        },
        alt="; ".join(f"{name} {one.errors:.1f}" for name, one in limited.items())
        + " standard errors, each with its limit.",
    )
