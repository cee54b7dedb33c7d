"""The paired comparison of a run's models, as the notebook that evaluated them recorded it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nivesh_lib.records.results import REQUIRED_SCORES, StepResult
from nivesh_lib.records.schema import NUMBER, fits

Results = Mapping[str, StepResult]
Evaluation = Mapping[str, Any]  # what the notebook that evaluates the models together recorded

# The result of one model has none of these; what it may have too stands in `sections.KEYS`.
EVALUATION_KEYS = (
    *("comparison", "calibration", "routing", "segments", "gaps", "flips", "behaviour"),
    *("overlaps", "flipped", "leaks", "help"),
)
_ESTIMATE = {"value": NUMBER, "low": NUMBER, "high": NUMBER}
_DIFFERENCE = {
    "value": _ESTIMATE,
    "p_corrected": NUMBER,
    "p_mcnemar_corrected": NUMBER,
    "differs": bool,
}
_COMPARISON = {
    "metric": str,
    "champion": str,
    "n": int,
    "pairs": int,
    "alpha": NUMBER,
    "sentence": str,
    "models": [
        {"rank": str, "model": str, "to_champion": dict | None, "to_next": dict | None},
    ],
}


@dataclass(frozen=True)
class RecordedDifference:
    """A paired difference between two models: 95 % interval, p-values corrected for all pairs.

    ``p`` tests the metric, ``p_mcnemar`` the accuracies.
    """

    value: float
    low: float
    high: float
    p: float
    p_mcnemar: float
    differs: bool


@dataclass(frozen=True)
class RankedModel:
    """The rank of a model, such as ``2=``, and its differences.

    ``to_champion`` is None for the champion, ``to_next`` (the next lower score) for the last.
    """

    rank: str
    model: str
    to_champion: RecordedDifference | None
    to_next: RecordedDifference | None


@dataclass(frozen=True)
class RecordedComparison:
    """Which model leads, in a ``sentence``; ``models`` by name, best first."""

    champion: str
    metric: str
    n: int
    pairs: int
    sentence: str
    models: dict[str, RankedModel]

    @property
    def note(self) -> str:
        """How the models were compared."""
        pairs = f"{self.pairs} pair{'s' * (self.pairs != 1)}"
        return (
            f"Differences in {score_title(self.metric)} on the same {self.n:,} queries, paired, "
            f"with their 95 % interval; p, and that of McNemar's test of the accuracies, are "
            f"corrected for {pairs} of models (Holm). Models that share a rank (=) cannot be told "
            "from the first of it: no difference shown, which is no proof of none."
        )


def evaluation_of(results: Results) -> tuple[str, Evaluation] | None:
    """Return the step that evaluated the models together and what it recorded, if one did."""
    for step, result in results.items():
        if set(EVALUATION_KEYS) & set(result.model_extra or ()):
            return step, dict(result)
    return None


def comparison_in(evaluation: Evaluation) -> RecordedComparison | None:
    """Return the comparison that an evaluation holds, or None where it holds no sound one."""
    found: Any = evaluation.get("comparison")
    if not fits(found, _COMPARISON):
        return None
    differences = (model[to] for model in found["models"] for to in ("to_champion", "to_next"))
    if not all(one is None or fits(one, _DIFFERENCE) for one in differences):
        return None
    models = {
        model["model"]: RankedModel(
            model["rank"],
            model["model"],
            _difference(model["to_champion"]),
            _difference(model["to_next"]),
        )
        for model in found["models"]
    }
    fields = {name: found[name] for name in ("champion", "metric", "n", "pairs", "sentence")}
    return RecordedComparison(**fields, models=models)


def _difference(recorded: Mapping[str, Any] | None) -> RecordedDifference | None:
    if recorded is None:
        return None
    value = {end: recorded["value"][end] for end in ("value", "low", "high")}
    tests = {"p": recorded["p_corrected"], "p_mcnemar": recorded["p_mcnemar_corrected"]}
    return RecordedDifference(**value, **tests, differs=recorded["differs"])


def score_title(name: str) -> str:
    """Return the name of a score in text."""
    if name in REQUIRED_SCORES:  # without a second of imports
        return REQUIRED_SCORES[name]
    from nivesh_lib.evaluation.scores import METRICS

    return METRICS[name].title if name in METRICS else name


def p_value(p: float) -> str:
    """Return a p-value with three digits, or below the smallest of them."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
