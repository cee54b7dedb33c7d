"""The models of a run, best first, and the verdict on them in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from nivesh_lib.errors import DataError, ModelError, NoModelError
from nivesh_lib.paths import relative
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.results import HEADLINE, REQUIRED_SCORES, ModelResult
from nivesh_lib.runs.comparison import (
    RecordedComparison,
    RecordedDifference,
    Results,
    comparison_in,
    evaluation_of,
    p_value,
)
from nivesh_lib.runs.layout import RunDirectory

_UNPAIRED = (
    "Whether that is more than chance, a paired test on the same queries tells: "
    "notebook 06 or `nivesh compare`."
)
_NO_MODEL = "No model was evaluated in this run, so there is nothing to choose."
_VERDICTS = {
    "met": "Objectives met: {}.",
    "undecided": "Undecided, the interval holds the target: {}.",
    "not met": "Not met: {}.",
}


@dataclass(frozen=True)
class LeaderboardEntry:
    """An evaluated model: its scores by name, latency in milliseconds and size, if measured.

    The latency is that of a race of all models, where a step recorded one (`raced`).

    ``rank`` is such as ``2=`` and empty without a comparison; ``to_champion`` and ``to_next``
    (the next lower score) are paired differences, or None.
    """

    step: str
    model: str
    scores: dict[str, Estimate]
    p95_ms: float | None
    size_bytes: float | None
    rank: str = ""
    to_champion: RecordedDifference | None = None
    to_next: RecordedDifference | None = None

    @property
    def headline(self) -> Estimate:
        """The score that models are ranked by."""
        return self.scores[HEADLINE]


def leaderboard(results: Results) -> list[LeaderboardEntry]:
    """Return the evaluated models, best macro-F1 first, or as a paired comparison has them."""
    models = _models(results)
    times = raced(results)
    comparison = comparison_of(results)
    ranked = {model.model: model for model in comparison.models} if comparison else {}
    order = {name: place for place, name in enumerate(ranked)}
    board: list[tuple[int, LeaderboardEntry]] = []
    for step, result in models.items():
        name = step if step in ranked else result.model  # two may have the same name
        here = ranked.get(name)
        entry = LeaderboardEntry(
            step,
            result.model,
            result.scores,
            times.get(step, cast(float | None, result.metrics.get("p95_ms"))),
            cast(float | None, result.metrics.get("size_bytes")),
            *((here.rank, here.to_champion, here.to_next) if here else ()),
        )
        board.append((order.get(name, len(order)), entry))
    board.sort(key=lambda placed: (placed[0], -placed[1].headline.value))
    return [entry for _, entry in board]


def raced(results: Results) -> dict[str, float]:
    """Return the p95 in milliseconds of the results whose models took part in a race, by name.

    A step that races models records ``race``: rows with ``step``, the name of a result, and
    ``p95_ms``. One model then has one latency in a run. Damaged rows are left out.
    """
    races = [(result.model_extra or {}).get("race") for result in results.values()]
    rows = [row for race in races if isinstance(race, list) for row in race]
    return {
        row["step"]: float(row["p95_ms"])
        for row in rows
        if isinstance(row, dict)
        and isinstance(row.get("step"), str)
        and type(row.get("p95_ms")) in (int, float)
    }


def score_names(scores: Iterable[Mapping[str, Estimate]]) -> list[str]:
    """Return the names of the scores of some models, those that every model has first."""
    return list(dict.fromkeys([*REQUIRED_SCORES, *(name for found in scores for name in found)]))


def _models(results: Results) -> dict[str, ModelResult]:
    """Return the results of models."""
    return {step: result for step, result in results.items() if isinstance(result, ModelResult)}


def comparison_of(results: Results) -> RecordedComparison | None:
    """Return the paired comparison of a run where it has every model, else None.

    Ranks among some of the models would mislead.
    """
    evaluation = evaluation_of(results)
    found = comparison_in(evaluation[1]) if evaluation else None
    names = {model.model for model in found.models} if found else set()
    covers = all({step, r.model} & names for step, r in _models(results).items())
    return found if covers else None


def data_issues(results: Results) -> list[str]:
    """Return what the validation of the data objected to; nothing where it passed or was not run.

    Each issue is a sentence that begins with the step which found it.
    """
    return [
        f"{step}: {issue}"
        for step, result in results.items()
        if result.validation and not result.validation.valid
        for issue in result.validation.issues or ["not valid"]
    ]


def verdict_of(results: Results) -> list[str]:
    """Return the verdict on a run as a few plain sentences; bad data comes first."""
    board = leaderboard(results)
    issues = data_issues(results)
    sentences = _data_warning(issues)
    if not board:
        return [*sentences, _NO_MODEL]
    best, f1 = board[0], board[0].headline
    sentences.append(
        f"Best so far: {best.model}, macro-F1 {f1.value:.3f} "
        f"(95 % interval {f1.low:.3f} to {f1.high:.3f}, {f1.n:,} queries)."
    )
    if len(board) > 1:
        comparison = comparison_of(results)
        sentences.append(
            f"Second: {board[1].model}, {board[1].headline.value:.3f}{_lead(board[1])}. "
            + (comparison.sentence if comparison else _UNPAIRED)
        )
    return sentences + _release_verdict(_models(results)[best.step], bad_data=bool(issues))


def _data_warning(issues: Sequence[str]) -> list[str]:
    if not issues:
        return []
    count = f"{len(issues)} issue{'s' * (len(issues) > 1)}"
    found_by = issues[0].partition(":")[0]
    return [f"✘ The data did not pass validation: {count}, listed in {found_by}."]


def _lead(entry: LeaderboardEntry) -> str:
    if (apart := entry.to_champion) is None:
        return ""
    return (
        f" ({apart.value.value:+.3f}, paired 95 % interval {apart.value.low:+.3f} to "
        f"{apart.value.high:+.3f}, corrected p {p_value(apart.p_corrected)})"
    )


def _release_verdict(best: ModelResult, *, bad_data: bool) -> list[str]:
    """Return the objectives of the best model by verdict, and whether it may be released."""
    sentences = []
    for status, sentence in _VERDICTS.items():
        found = [f"{j.objective} (found {j.found})" for j in best.judgements if j.status == status]
        if found:
            sentences.append(sentence.format("; ".join(found)))
    if best.objectives and best.objectives.missing:
        sentences.append(best.objectives.missing)
    if bad_data or any(judged.status != "met" for judged in best.judgements):
        sentences.append("It is not ready for release.")
    elif best.judgements:
        sentences.append(
            "Every objective is met out of fold. Whether it may be released, the holdout says."
        )
    return sentences


def chosen_model(run: RunDirectory, name: str | None = None) -> tuple[str, ModelResult]:
    """Return the name and result of a model of a run, of the best one unless named.

    Raises
    ------
    DataError
        No model was evaluated in the run, or none of that name, or its results are damaged.
    """
    for damaged, error in run.damaged().items():
        if name in (None, damaged):  # it might be the best one
            raise error
    results = run.results()
    names = [entry.step for entry in leaderboard(results)]
    if not names:
        raise DataError(f"No model was evaluated in {relative(run.path)}; run `nivesh run`.")
    if name is not None and name not in names:
        raise DataError(f"{relative(run.path)} has no model {name!r}; it has {', '.join(names)}.")
    chosen = name or names[0]
    return chosen, _models(results)[chosen]


def best_model(run: RunDirectory) -> Path:
    """Return the directory of a run's best model.

    Raises
    ------
    ModelError
        The run has no evaluated model, or the results of one are damaged.
    """
    board = leaderboard(run.results())
    for name, error in run.damaged().items():
        if not board or run.model(name).is_dir():  # it might be the best one
            raise ModelError(f"{error}, or pass --model DIRECTORY")
    if not board:
        raise NoModelError("no model yet. `nivesh run` trains them, or pass --model DIRECTORY")
    return run.model(board[0].step)
