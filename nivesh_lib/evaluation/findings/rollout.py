"""Findings about a month of releases: what logs and metrics say of canaries, drift, corrections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nivesh_lib.evaluation.findings.serving import Samples, grown
from nivesh_lib.evaluation.objectives import verdict_of
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding, Plot
from nivesh_lib.wording import counted, joined, percent, sentence

MARKS = {
    "worse_release": "a worse release goes back by itself",
    "drift_noticed": "another mix of queries turns the verdict on drift on",
    "corrections_used": "every correction is kept without its telephone number, and a person's "
    "decision makes rows of them",
    "better_release": "a better release comes to answer everybody, by itself",
    "none_lost": "every request is answered, by a release that it was due to",
}
_DONE = {
    "worse_release": "a worse release went back by itself",
    "drift_noticed": "another mix of queries was noticed",
    "corrections_used": "corrections became rows",
    "better_release": "a better release came to answer everybody",
    "none_lost": "no answer was lost",
}
_SLACK = 3.0  # seconds: the log has whole ones, and a server reads and loads what it asks for
_ALL = ["shadow", "10", "25", "50", "production"]

Log = Sequence[Mapping[str, Any]]
Polled = Sequence[tuple[float, Samples]]


class Sent(NamedTuple):
    """A request: when it was sent (seconds of the epoch), status, answer, and the row's label."""

    at: float
    status: int
    release: str
    intent: str
    label: str


def left_out(why: str) -> dict[str, Finding]:
    """Return a finding for each mark that says why nothing was replayed."""
    marks: dict[str, str] = {"month": "", **MARKS}
    return {
        name: Finding(
            name=name, claim=sentence(why), mark=mark, verdict="undecided" if mark else ""
        )
        for name, mark in marks.items()
    }


def month(parts: Sequence[Finding], plot: Plot) -> Finding:
    """Say what of it all was seen, with the picture; ``parts`` are the findings of the marks."""
    seen = [_DONE[one.name] for one in parts if one.verdict == "met"]
    rest = [_DONE[one.name] for one in parts if one.verdict != "met"]
    claim = f"within {plot.data['seconds']:.0f} seconds {joined(seen) or 'nothing was shown'}"
    claim += f"; not shown is that {joined(rest)}" if rest else ""
    return Finding(name="month", claim=sentence(claim), plot=plot)


def moves(log: Log, version: str = "") -> list[tuple[float, str, Mapping[str, Any]]]:
    """Return when a canary or a promotion moved, seconds of the epoch, to which step, its line."""
    return [
        (_epoch(line["timestamp"]), line.get("step") or line["stage"], line)
        for line in log
        if line["kind"] in ("canary", "promotion") and version in ("", line["version"])
    ]


def _epoch(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _steps(found: Sequence[tuple[float, str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return a table of the steps of a canary; evidence is that with which each ended."""
    return [
        {"step": f"{step} %" if step.isdecimal() else step, "then": then,
         "pairs": evidence.get("n"), "e-value": f"{evidence.get('e_value', 1):.3g}",
         "why": line["why"]}
        for (_, step, _), (_, then, line) in pairwise(found)
        for evidence in [line.get("evidence") or line.get("canary") or {}]
    ]  # fmt: skip


def worse(version: str, log: Log, sent: Sequence[Sent]) -> Finding:
    """Judge whether a worse release was rolled back by what was counted, and what it answered."""
    found = moves(log, version)
    _, last, line = found[-1]
    why = next(one["why"] for one in log if one["version"] == version)
    by_itself = last == "rolled back" and line["evidence"]["decision"] == "rollback"
    answered = sum(one.release == version for one in sent)
    ends = {"production": "was promoted", "rolled back": "went back by itself"}
    claim = f"release {version} ({why}) {ends.get(last, 'was not decided on in time')}"
    if by_itself:
        claim += f" at the step {found[-2][1]}, after {counted(line['evidence']['n'], 'pair')}"
        claim += " of answers"
    claim += f"; it answered {answered:,} of {counted(len(sent), 'request')}"
    verdict = "undecided" if last == "aborted" else "met" if by_itself else "not met"
    return Finding(
        name="worse_release",
        claim=sentence(claim),
        mark=MARKS["worse_release"],
        verdict=verdict,  # type: ignore[arg-type]
        cells=_steps(found),
        source="nivesh_lib.releases.canary.judged",
    )


def verdicts(polled: Polled, since: float = 0.0) -> list[tuple[float, bool]]:
    """Return when the metrics told a verdict on drift, and whether it was drift."""
    found = [
        (at, bool(value))
        for at, said in polled
        for (name, _), value in said.items()
        if name == "model_drift"
    ]
    return [one for one in found if one[0] >= since]


def drift(changed: float, polled: Polled, sent: Sequence[Sent]) -> Finding:
    """Judge whether the verdict on drift turned on after the mix of queries had changed."""
    before = [on for at, on in verdicts(polled) if at < changed]
    first = next((at for at, on in verdicts(polled, changed) if on), None)
    n = sum(changed <= one.at <= first for one in sent) if first else 0
    claim = "the verdict on drift did not turn on after the mix of queries had changed"
    if first:
        claim = f"the verdict on drift was on {first - changed:.1f} seconds and "
        claim += f"{counted(n, 'request')} after the mix of queries had changed"
    claim += f"; before, it was on at {sum(before)} of {counted(len(before), 'look')}"
    met = first is not None and before[-1:] == [False]
    return Finding(
        name="drift_noticed",
        claim=sentence(claim),
        mark=MARKS["drift_noticed"],
        verdict="met" if met else "not met",
        caveats=["Shown is the server's `model_drift`, the metric behind the alert DriftFound. The "
                 "alert itself asks for it nearly all day long, and for a Prometheus, which does "
                 "not run here."],
        source="nivesh_lib.evaluation.drift.drift_between",
    )  # fmt: skip


def corrections(
    sent: int, lines: Sequence[Mapping[str, Any]], draft: Mapping[str, Any], number: str
) -> Finding:
    """Judge whether corrections were kept without a telephone number, and became rows of a draft.

    Parameters
    ----------
    lines
        The corrections as the server has written them.
    draft
        The manifest of the draft; empty where there is none.
    number
        What some of the corrections had in them.
    """
    users = {line["id"]: line["intent"] for line in lines}
    added = [one for one in draft.get("changes", []) if one["from"] is None]
    other = sum(users.get(one["id"]) != one["to"] for one in added)
    masked = sum("[PHONE]" in line["query"] for line in lines)
    leaked = sum(number in line["query"] for line in lines)
    claim = f"{len(lines)} of {counted(sent, 'correction')} were kept, {masked} of them with a "
    claim += f"telephone number masked{f' and {leaked} with one' if leaked else ''}; a review made "
    claim += f"{len(added)} of them rows of a draft, {other} with another label than the user's"
    met = added and not leaked and len(lines) == sent
    return Finding(
        name="corrections_used",
        claim=sentence(claim),
        mark=MARKS["corrections_used"],
        verdict="met" if met else "not met" if sent else "undecided",
        cells=[{"draft": f"{draft['name']}@{draft['version']}", "rows": draft["rows"],
                "made of": draft["transformation"]}] if draft else [],
        caveats=["The reviewer of the replay decides for the label that the row really has; some "
                 "users were made to err. A person would err now and then.",
                 "Left out is what a row says already, or nearly: also rows that judge releases."],
        source="nivesh_lib.data.corrections.read_corrections",
    )  # fmt: skip


def better(version: str, log: Log, gain: Estimate | None) -> Finding:
    """Judge whether a better release came to answer everybody through all steps of a canary.

    Parameters
    ----------
    gain
        How much more of the queries it answers rightly than the one before, where there is such a
        release.
    """
    found = moves(log, version)
    if not found or gain is None:
        claim, verdict = "no correction became a row, so no other release was made", "undecided"
    else:
        steps = [step for _, step, _ in found]
        pairs = sum(row["pairs"] or 0 for row in _steps(found))
        ends = {"production": "answers everybody", "aborted": "was not decided on in time"}
        claim = f"release {version}, trained with the corrections and more rows, "
        claim += f"{ends.get(steps[-1], f'was {steps[-1]}')} after {counted(pairs, 'pair')} of "
        claim += f"answers in {counted(len(steps) - 1, 'step')}; of "
        claim += f"{counted(gain.n, 'query', 'queries')} that no release has learned from, "
        claim += f"{100 * gain.value:+.1f} of 100 "
        claim += f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}) are answered rightly"
        verdict = verdict_of(gain.low > 0, gain.high < 0) if steps == _ALL else "not met"
        verdict = "undecided" if steps[-1] == "aborted" else verdict
    return Finding(
        name="better_release",
        claim=sentence(claim),
        mark=MARKS["better_release"],
        verdict=verdict,  # type: ignore[arg-type]
        cells=_steps(found),
        caveats=_limits(found),
        source="nivesh_lib.releases.canary.judged",
    )


def _limits(found: Sequence[tuple[float, str, Mapping[str, Any]]]) -> list[str]:
    """Return what a canary was judged by, as its lines say."""
    told = ["A canary knows no labels: it is promoted for being no worse within its limits."]
    for settings in [line["settings"] for *_, line in found if "settings" in line][:1]:
        told.append(
            f"Its limits: {100 * settings['delta']:g} more of 100 queries may fail, be slow or go "
            f"to a person, and {100 * settings['disagreement']:g} of 100 be answered otherwise."
        )
    return told


def none_lost(log: Log, sent: Sequence[Sent], polled: Polled) -> Finding:
    """Judge whether all requests were answered, by whom the log had in service, and counted."""
    failed = sum(one.status != 200 for one in sent)
    due = in_service(log)
    wrong = sum(
        not any(start <= one.at <= end + _SLACK for start, end in due.get(one.release, []))
        for one in sent
        if one.status == 200
    )
    got = Counter(one.release for one in sent if one.status == 200)
    told = grown({}, polled[-1][1], "model_predictions_total", "release", status="success")
    claim = f"{len(sent) - failed:,} of {counted(len(sent), 'request')} were answered, "
    claim += f"{wrong or 'none'} by a release that was not in service then; the server counted "
    claim += "the same" if told == dict(got) else f"{sum(told.values()):,.0f}"
    return Finding(
        name="none_lost",
        claim=sentence(claim),
        mark=MARKS["none_lost"],
        verdict="not met" if failed or wrong or told != dict(got) else "met",
        cells=[{"release": release, "answers": n, "share": percent(n / len(sent))}
               for release, n in sorted(got.items())],
        caveats=[f"A change counts as seen within {_SLACK:g} seconds of its line in the log."],
        source="nivesh_lib.evaluation.findings.rollout.in_service",
    )  # fmt: skip


def in_service(log: Log) -> dict[str, list[tuple[float, float]]]:
    """Return from when to when each release was to answer somebody; in shadow it is not."""
    due: dict[str, list[tuple[float, float]]] = {}
    began: dict[str, float] = {}
    production = ""
    for at, step, line in moves(log):
        version = line["version"]
        if step in ("rolled back", "aborted") and version in began:
            due.setdefault(version, []).append((began.pop(version), at))
        elif step == "production" or step.isdecimal():
            began.setdefault(version, at)
        if step == "production":
            if production:
                due.setdefault(production, []).append((began.pop(production), at))
            production = version
    for version, start in began.items():
        due.setdefault(version, []).append((start, np.inf))
    return due


# --- the picture ---------------------------------------------------------------------------------


def timeline(log: Log, polled: Polled, draft: tuple[float, int] | None) -> Plot:
    """Return the picture of a replay: who answered, drift, corrections, and what the log says.

    Parameters
    ----------
    draft
        When it was written, seconds of the epoch, and how many rows were added; None for none.
    """
    began, seconds = polled[0][0], polled[-1][0] - polled[0][0]
    step = max(1, len(polled) // 100)
    looks = polled[::step]
    at, shares = [], []
    for (_, before), (then, after) in pairwise(looks):
        by = grown(before, after, "model_predictions_total", "release", status="success")
        if by:
            at.append(then - began)
            shares.append({one: n / sum(by.values()) for one, n in by.items()})
    # The log has whole seconds; what is further back was done before the server started.
    happened = [
        (max(0.0, when - began), line["version"], step)
        for when, step, line in moves(log)
        if when > began - 1
    ]
    versions = [line["version"] for line in log if line["kind"] == "release"]
    told = [(one - began, on) for one, on in verdicts(polled)]
    data = {
        "seconds": seconds,
        "at": at,
        "answered": {one: [share.get(one, 0.0) for share in shares] for one in versions},
        "moves": happened,
        "drift": {"at": [when for when, _ in told], "on": [on for _, on in told],
                  "p": [*_gauge(polled, "model_drift_p_value")]},
        "kept": {"at": [when - began for when, _ in polled],
                 "n": [sum(grown({}, said, "feedback_corrections_total").values())
                       for _, said in polled]},
        "draft": (draft[0] - began, draft[1]) if draft else None,
    }  # fmt: skip
    moved = "; ".join(f"{when:.0f} s {version} {step}" for when, version, step in happened)
    first = next((f"{when:.0f} s" for when, on in told if on), "never")
    alt = f"Who answered over {seconds:.0f} seconds. By the log: {moved}. Drift on: {first}."
    return Plot(kind="rollout", data=data, alt=alt)


def _gauge(polled: Polled, name: str) -> Iterable[float]:
    for _, said in polled:
        yield from (value for (one, _), value in said.items() if one == name)
