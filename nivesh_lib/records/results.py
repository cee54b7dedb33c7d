"""What a step of a run found: ``results/<step>.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import field_validator

from nivesh_lib.records.base import Record, read_json, validated
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.metrics import estimate_in, scores_in

# The scores that every evaluated model has, with their titles; the first ranks models unless
# another one is asked for.
REQUIRED_SCORES = {"macro_f1": "macro-F1", "accuracy": "accuracy"}
HEADLINE = next(iter(REQUIRED_SCORES))
_WHAT = "the results of a step"


class Figure(Record):
    """A figure of a step; ``file`` is relative to the run directory, ``alt`` describes it."""

    name: str
    file: str
    title: str
    alt: str


class Validation(Record):
    """The outcome of validating the data; ``issues`` are sentences."""

    valid: bool
    issues: list[str]


class DriftedColumn(Record):
    """The distance of one column between two samples, and the threshold it is compared with."""

    column: str
    method: str
    value: float
    threshold: float
    drifted: bool


class Drift(Record):
    """The outcome of a drift analysis."""

    sentences: list[str]
    rows: list[DriftedColumn]


class JudgedObjective(Record):
    """An objective in words, ``status`` (met, not met, undecided), and the value found."""

    objective: str
    status: str
    found: str


class ObjectivesFile(Record):
    """The file of the objectives and the impact it states, or a sentence that none are set."""

    file: str
    missing: str
    impact: str = ""


class StepResult(Record):
    """What any step recorded. A notebook may leave further fields, and need not leave all.

    ``metrics`` are numbers or estimates; ``params`` are the notebook's parameters.
    """

    step: str = ""
    dataset: str | None = None
    params: dict[str, Any] = {}
    mlflow_run_id: str = ""
    experiment_id: str = ""
    seconds: float = 0.0
    model: str = ""
    headline: str = ""
    metrics: dict[str, Any] = {}
    figures: list[Figure] = []
    findings: list[Finding] = []
    validation: Validation | None = None
    drift: Drift | None = None
    data_card: dict[str, str] | None = None
    example_query: str = ""

    def __or__(self, fields: Mapping[str, Any]) -> Self:
        """Return a copy with further or other fields, as of two dicts."""
        return type(self).model_validate({**self.as_dict(), **fields})


class ModelResult(StepResult):
    """The evaluation of one model, its ``metrics`` in the flat form (`records.metrics`)."""

    model: str
    metrics: dict[str, bool | int | float | str | None]
    judgements: list[JudgedObjective] = []
    objectives: ObjectivesFile | None = None
    per_class: list[dict[str, Any]] = []
    confusion: dict[str, Any] = {}
    slices: list[dict[str, Any]] = []
    folds: list[dict[str, int | float]] = []

    @field_validator("metrics", mode="before")
    @classmethod
    def _has_scores(cls, metrics: Any) -> Any:
        nested = [name for name, value in dict(metrics).items() if isinstance(value, Mapping)]
        if nested:
            raise ValueError(f"{nested[0]} is nested, as an older version wrote it")
        missing = [name for name in REQUIRED_SCORES if estimate_in(metrics, name) is None]
        if missing:
            raise ValueError(f"{missing[0]} is missing or has no finite interval")
        for name in ("p95_ms", "size_bytes"):
            if not isinstance(metrics.get(name), int | float | None):
                raise ValueError(f"{name} is no number")
        return metrics

    @property
    def scores(self) -> dict[str, Estimate]:
        """The scores of the model with their intervals."""
        return scores_in(self.metrics)


def is_evaluation(contents: Mapping[str, Any]) -> bool:
    """Return whether the contents of a result are the evaluation of one model."""
    metrics = contents.get("metrics")
    return bool(contents.get("model")) and isinstance(metrics, Mapping) and HEADLINE in metrics


def kind_of(contents: Mapping[str, Any]) -> type[StepResult]:
    """Return the type of result that contents are."""
    return ModelResult if is_evaluation(contents) else StepResult


def read_result(path: Path) -> StepResult:
    """Return the result in a file; raises DataError where it is damaged or of an older version."""
    contents = read_json(path, _WHAT)
    return validated(path, kind_of(contents), contents, _WHAT)
