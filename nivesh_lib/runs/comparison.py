"""The paired comparison of a run's models, as recorded by the notebook that evaluated them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nivesh_lib.records.base import Record
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.results import REQUIRED_SCORES, StepResult

Results = Mapping[str, StepResult]
Evaluation = Mapping[str, Any]  # what the notebook that evaluates the models together recorded


class RecordedDifference(Record):
    """A paired difference between two models; p-values are corrected for all pairs.

    ``p_corrected`` tests the metric, ``p_mcnemar_corrected`` the accuracies.
    """

    value: Estimate
    p_corrected: float
    p_mcnemar_corrected: float
    differs: bool


class RankedModel(Record):
    """The rank of a model, such as ``2=``, and its differences.

    ``to_champion`` is None for the champion, ``to_next`` (the next lower score) for the last.
    """

    rank: str
    model: str
    to_champion: RecordedDifference | None
    to_next: RecordedDifference | None


class RecordedComparison(Record):
    """The models, best first, and a ``sentence`` that names the best."""

    metric: str
    champion: str
    n: int
    pairs: int
    sentence: str
    models: list[RankedModel]

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
    """Return the last step that compared the models and what it recorded, if one did.

    Steps come in the order of their names, and a later one has more models to compare.
    """
    found = [step for step, result in results.items() if "comparison" in (result.model_extra or ())]
    return (found[-1], dict(results[found[-1]])) if found else None


def comparison_in(evaluation: Evaluation) -> RecordedComparison | None:
    """Return the comparison that an evaluation holds, or None where it is missing or damaged."""
    try:
        return RecordedComparison.model_validate(evaluation.get("comparison"))
    except ValidationError:
        return None


def score_title(name: str) -> str:
    """Return the name of a score in text."""
    if name in REQUIRED_SCORES:  # without a second of imports
        return REQUIRED_SCORES[name]
    from nivesh_lib.evaluation.scores import METRICS

    return METRICS[name].title if name in METRICS else name


def p_value(p: float) -> str:
    """Return a p-value with three digits, or below the smallest of them."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
