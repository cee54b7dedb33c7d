"""The first screen of the report: each question of a decision, answered by recorded findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from nivesh_lib.records.finding import Finding, Verdict
from nivesh_lib.records.results import ModelResult
from nivesh_lib.runs.comparison import Results
from nivesh_lib.runs.leaderboard import (
    LeaderboardEntry,
    comparison_of,
    data_issues,
    leaderboard,
)
from nivesh_lib.wording import (
    described,
    human_bytes,
    joined,
    milliseconds,
    model_name,
    sentence,
    shown,
    the,
)

# The findings that are shown open, in their order; all others are folded.
TOP = (
    "leader",
    "recommendation",
    "min_confidence",
    "calibration_error",
    "out_of_scope",
    "fairness",
    "would_help",
    "accuracy",  # of what came after: see `top_findings`
)
_RELEASE = {
    "met": "Yes, if the holdout agrees",
    "not met": "Do not release",
    "undecided": "Not yet: these rows cannot tell",
    "": "Nothing decides: no objectives are set",
}
_FAIR = {"met": "No gap", "not met": "Gaps found", "undecided": "Not established", "": "Not judged"}
_DRIFT = {"met": "No loss", "not met": "Answers are lost", "undecided": "Cannot be told",
          "": "Not judged"}  # fmt: skip
_ABSENT = "Not part of this run."


@dataclass(frozen=True)
class Tile:
    """A question, its answer in a few words, its verdict, and the sentences behind it.

    ``finding`` is the one to read on with.
    """

    question: str
    answer: str
    verdict: Verdict
    sentences: tuple[str, ...]
    finding: Finding | None = None


def named(results: Results) -> dict[str, Finding]:
    """Return the findings of a run by name; those beside the ``leader`` come before others."""
    steps = sorted(results.values(), key=lambda one: all(f.name != "leader" for f in one.findings))
    return {one.name: one for step in reversed(steps) for one in step.findings}


def top_findings(results: Results) -> list[Finding]:
    """Return the findings that are shown open, at most ten, none that only says what is missing."""
    found = named(results) | _of_drift(results)
    return [found[name] for name in TOP if name in found and _shows(found[name])]


def _shows(finding: Finding) -> bool:
    """Return whether a finding has more than a sentence: a mark, a table, a figure or a value."""
    return bool(finding.mark or finding.cells or finding.plot or finding.estimate)


def _of_drift(results: Results) -> dict[str, Finding]:
    """Return the findings of the step that compared rows of before and now, by name."""
    steps = ({one.name: one for one in step.findings} for step in results.values())
    return next((found for found in steps if "compared" in found), {})


def tiles(results: Results, dataset: str, holdout: str) -> list[Tile]:
    """Return the questions of the decision with their answers.

    Parameters
    ----------
    holdout
        What is said of the openings of the holdout.
    """
    found, drift = named(results), _of_drift(results)
    return [
        _release(results, holdout),
        _model(results, found),
        _cost(results, found),
        _judged("Is it fair?", found, ("fairness", "handover_by_segment"), _FAIR),
        _judged("Has production drifted?", drift, ("accuracy", "drift"), _DRIFT),
        _data(results, dataset, found),
        _impact(results),
    ]


def _judged(
    question: str, found: Mapping[str, Finding], names: Sequence[str], words: Mapping[str, str]
) -> Tile:
    """Return the tile of some findings; the first one's verdict is the answer.

    Of the others, those that only say why they are empty are left out.
    """
    own = [found[name] for name in names if name in found]
    if not own:
        return Tile(question, _ABSENT, "", ())
    own = [own[0], *filter(_shows, own[1:])]
    verdict = own[0].verdict
    return Tile(question, words.get(verdict, ""), verdict, tuple(one.claim for one in own), own[0])


def _about(results: Results, entry: LeaderboardEntry, name: str) -> Finding | None:
    """Return the finding of a name that is about a model: of its own step, else of another's."""
    steps = [results[entry.step], *results.values()]
    own = (one for one in steps if getattr(one, "model", "") == entry.model)
    return next((found for one in own for found in one.findings if found.name == name), None)


def _release(results: Results, holdout: str) -> Tile:
    question, board = "May it be released?", leaderboard(results)
    issues = data_issues(results)[:3]
    best = cast(ModelResult, results[board[0].step]) if board else None
    missing = [best.objectives.missing] if best and best.objectives else []
    if issues:
        said = tuple(filter(None, [*issues, *missing]))
        return Tile(question, "No: the data did not pass its checks", "not met", said)
    if best is None:
        return Tile(question, "No model was evaluated in this run", "", ())
    status = {one.status for one in best.judgements}
    worst: tuple[Verdict, ...] = ("not met", "undecided", "met")
    verdict: Verdict = next((one for one in worst if one in status), "")
    accuracy = _about(results, board[0], "accuracy")
    judged = [sentence(f"{one.objective}: {one.status}") for one in best.judgements]
    said = tuple(filter(None, [accuracy.claim if accuracy else "", *judged, *missing, holdout]))
    return Tile(question, _RELEASE[verdict], verdict, said, accuracy)


def _model(results: Results, found: Mapping[str, Finding]) -> Tile:
    question, board = "Which model answers best?", leaderboard(results)
    if not board:
        return Tile(question, _ABSENT, "", ())
    name, leader = board[0].model, _about(results, board[0], "leader")
    own = leader or _about(results, board[0], "accuracy")
    verdict: Verdict = leader.verdict if leader else ""
    apart, ties = _apart(results, name)
    if leader and apart == "met":  # it says so already
        ties = ""
    said = (described(name), own.claim if own else "", ties)
    rests = own if leader else found.get("recommendation", own)
    answer = sentence(model_name(name)).removesuffix(".")
    return Tile(question, answer, apart or verdict, tuple(filter(None, said)), rests)


def _apart(results: Results, name: str) -> tuple[Verdict, str]:
    """Return whether the first model is ahead by more than chance, and what ties with it."""
    board = comparison_of(results)
    if board is None or board.champion != name or len(board.models) < 2:
        return "", ""
    others = [(one.model, one.to_champion) for one in board.models if one.to_champion]
    ties = [the(model) for model, apart in others if not apart.differs]
    if not ties:
        return "met", "It is ahead of every other model of the run by more than chance."
    said = f"of all {len(board.models)} models of the run, {joined(ties)} may be as good"
    return "undecided", sentence(said)


def _cost(results: Results, found: Mapping[str, Finding]) -> Tile:
    board = leaderboard(results)
    answer = _ABSENT
    if board:
        time, size = milliseconds(board[0].p95_ms), human_bytes(board[0].size_bytes)
        answer = f"p95 {time}, {size}"
    tile = _judged("What does it cost?", found, ("recommendation", "abstention"), {})
    spent = results[board[0].step].metrics.get("train_cost") if board else None
    paid = [f"Training it cost {spent:,.2f}, at the rate that was set."] if spent else []
    return replace(tile, answer=answer, sentences=(*tile.sentences, *paid))


def _impact(results: Results) -> Tile:
    found = (one.objectives for one in results.values() if isinstance(one, ModelResult))
    impact = next((one.impact for one in found if one and one.impact), "")
    question = "What is it for?"
    if not impact:
        return Tile(question, "No business impact is stated", "", ())
    said = (
        "The aim that the objectives name. It shows in production only, and is not measured here."
    )
    return Tile(question, impact, "", (said,))


def _data(results: Results, dataset: str, found: Mapping[str, Finding]) -> Tile:
    own = found.get("fit_to_train")
    card = next((one.data_card for one in results.values() if one.data_card), {})
    said = [own.claim] if own else []
    said += [f"{name}: {card[name]}." for name in ("Rows", "Sources") if name in card]
    return Tile("On which data?", shown(dataset), own.verdict if own else "", tuple(said), own)
