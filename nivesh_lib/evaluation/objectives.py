"""Objectives that were set before training, and verdicts on measured metrics.

``data/objectives.toml`` holds those of the assistant's dataset, ``intents``; another
dataset has a file of the same shape in its folder, or no objectives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from nivesh_lib import paths
from nivesh_lib.errors import DataError
from nivesh_lib.records.metrics import estimate_in, flat_metrics
from nivesh_lib.records.schema import read_toml

Status = Literal["met", "not met", "undecided"]
_UNITS = {"p95_ms": " ms"}
_KNOWN = (
    "accuracy_target",
    "latency_target_ms",
    "min_confidence",
    "max_optimisation_loss",
    "business_impact",
    "marks",
    "staging",
    "production",
    "serving",
)
# Marks of a stage -> whether they are shares of 1; the others are numbers above 0.
_STAGE_MARKS = {
    "accuracy": True,
    "macro_f1": True,
    "calibration_error": True,
    "accuracy_loss": True,
    "slice_loss": True,
    "latency_ms": False,
    "size_mb": False,
    "hours_in_staging": False,
}
# The mark of a server, and the traffic that it holds for.
_SERVING_MARKS = {"latency_ms": False, "requests_per_second": False}
_SHARES = ("accuracy_target", "min_confidence", "max_optimisation_loss")
# The upper quartile of the reference loop is 1.05 to 1.2 times its fastest on an idle machine, and
# 2 to 6 times with a second program on each core.
BUSY = 1.5
ALLOWED_LOSS = 0.005  # accuracy, absolute, of an optimised model, where a file does not say
_NAMES = {
    "macro_f1": "macro-F1",
    "p95_ms": "latency p95",
    "calibration_error": "calibration error",
    "let_through": "share of queries of no intent that is let through",
}


@dataclass(frozen=True)
class Objective:
    """One mark: ``metric`` must be at least (or at most) ``target``."""

    model: str
    metric: str
    target: float
    at_most: bool = False

    def __str__(self) -> str:
        bound = "at most" if self.at_most else "at least"
        name = _NAMES.get(self.metric, self.metric)
        return f"{name} {bound} {self.target:g}{_UNITS.get(self.metric, '')}"


@dataclass(frozen=True)
class Judgement:
    """``status`` is met, not met or undecided: the interval holds the target, or it was busy.

    ``slowdown`` says how busy the machine was: the upper quartile of the reference loop beside a
    latency, over its fastest time.
    """

    objective: Objective
    status: Status
    value: float
    low: float
    high: float
    slowdown: float = 1.0

    @property
    def found(self) -> str:
        """The value found, with its interval where there is one, and whether this can be told."""
        digits = ".1f" if self.objective.metric == "p95_ms" else ".3f"
        shown = f"{self.value:{digits}}"
        if self.low < self.high:
            shown += f" [{self.low:{digits}}, {self.high:{digits}}]"
        shown += _UNITS.get(self.objective.metric, "")
        if self.slowdown <= BUSY:
            return shown
        return (
            f"{shown}; the machine was busy, which makes it longer: a reference loop took "
            f"{self.slowdown:.1f} times its fastest"
        )

    def __str__(self) -> str:
        return f"{self.objective}: {self.status}, {self.found}"

    def as_dict(self) -> dict[str, str]:
        """Return objective, status and what was found, as text."""
        return {"objective": str(self.objective), "status": self.status, "found": self.found}


def read_objectives(dataset: str = "intents") -> dict[str, dict[str, Any]]:
    """Return the tables of a dataset's objectives, one for each model; none without a file.

    Raises
    ------
    DataError
        The file is not TOML, or a value in it cannot be an objective.
    """
    path = paths.objectives_file(dataset)
    tables = read_toml(path)
    for model, table in tables.items():
        if not isinstance(table, dict):
            raise DataError(f"{path}: {model} = {table!r} stands alone. Put it below [{model}]")
        _check(table, f"{path}, [{model}]")
    return tables


def _check(table: Mapping[str, Any], place: str) -> None:
    """Raise a `DataError` for a value that is invalid for its name."""
    # Other models have other marks, so only near misses are typos.
    for name in set(table) - set(_KNOWN):
        for meant in get_close_matches(name, _KNOWN, n=1, cutoff=0.85):
            raise DataError(f"{place}: {name} is not known. Write {meant}")
    marks = table.get("marks", {})
    if not isinstance(marks, dict):
        raise DataError(f"{place}: marks = {marks!r} is no table. Write one line for each notebook")
    shares = {name: table[name] for name in _SHARES if name in table}
    for name, value in (shares | {f"marks.{step}": mark for step, mark in marks.items()}).items():
        if not (_is_number(value) and 0 <= value <= 1):
            raise DataError(f"{place}: {name} = {value!r} is not a number from 0 to 1. Mend it")
    for stage in ("staging", "production"):
        _check_marks(table.get(stage, {}), _STAGE_MARKS, f"{place[:-1]}.{stage}]")
    _check_marks(table.get("serving", {}), _SERVING_MARKS, f"{place[:-1]}.serving]", least=1)
    latency = table.get("latency_target_ms", 1)
    if not (_is_number(latency) and 0 < latency < math.inf):
        raise DataError(
            f"{place}: latency_target_ms = {latency!r} is not a number above 0. Mend it"
        )


def _check_marks(table: Any, shares: Mapping[str, bool], place: str, *, least: float = 0) -> None:
    """Raise a `DataError` for a mark that is unknown or out of range, as a share of 1 or above."""
    if not isinstance(table, dict):
        raise DataError(f"{place}: is no table. Write one line for each mark")
    for name, value in table.items():
        if name not in shares:
            raise DataError(f"{place}: {name} is not known. Known are {', '.join(shares)}")
        share = shares[name]
        if not (_is_number(value) and least <= value < math.inf and (value <= 1 or not share)):
            wanted = "a number from 0 to 1" if share else f"a number of {least:g} or more"
            raise DataError(f"{place}: {name} = {value!r} is not {wanted}. Mend it")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # true and false are none


class _Objectives(Mapping[str, dict[str, Any]]):
    """Read-only view of ``data/objectives.toml``; read anew at each access."""

    def __getitem__(self, model: str) -> dict[str, Any]:
        return _without_marks(read_objectives()[model])

    def __iter__(self) -> Iterator[str]:
        return iter(read_objectives())

    def __len__(self) -> int:
        return len(read_objectives())


MODEL_OBJECTIVES = _Objectives()


def _without_marks(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if not isinstance(value, dict)}


def stage_marks(dataset: str, stage: str, *, model: str = "intent_classifier") -> dict[str, float]:
    """Return the marks that a release has to reach for a stage, by name.

    Those of production that its table does not set are the objectives of ``model``.
    """
    table = read_objectives(dataset).get(model, {})
    names = {"accuracy": "accuracy_target", "latency_ms": "latency_target_ms"}
    inherited = {mark: table[name] for mark, name in names.items() if name in table}
    return (inherited if stage == "production" else {}) | table.get(stage, {})


def serving_marks(dataset: str, *, model: str = "intent_classifier") -> dict[str, float]:
    """Return ``latency_ms`` of 95 of 100 requests, and ``requests_per_second`` that it holds for.

    None of them are there where the file of the dataset does not set them.
    """
    return dict(read_objectives(dataset).get(model, {}).get("serving", {}))


def values_for(dataset: str, *, model: str = "intent_classifier") -> dict[str, Any]:
    """Return the objectives of ``model`` in a dataset's file, without the marks of notebooks."""
    return _without_marks(read_objectives(dataset).get(model, {}))


def allowed_loss_for(dataset: str, *, model: str = "intent_classifier") -> float:
    """Return the accuracy, absolute, that an optimised ``model`` may lose to its original."""
    return float(values_for(dataset, model=model).get("max_optimisation_loss", ALLOWED_LOSS))


def objectives_for(step: str, *, dataset: str, model: str = "intent_classifier") -> list[Objective]:
    """Return the release objectives of ``model`` and the mark of one notebook, if it has one.

    Parameters
    ----------
    dataset : str
        Such as ``intents@1.2.0``; objectives are those of its own file.
    """
    table = read_objectives(dataset).get(model, {})
    found = []
    if "accuracy_target" in table:
        found.append(Objective(model, "accuracy", float(table["accuracy_target"])))
    if "latency_target_ms" in table:
        found.append(Objective(model, "p95_ms", float(table["latency_target_ms"]), at_most=True))
    mark = table.get("marks", {}).get(step)
    if mark is not None:
        found.append(Objective(step, "macro_f1", float(mark)))
    return found


def judge(
    objective: Objective, value: float, low: float, high: float, *, slowdown: float = 1.0
) -> Judgement:
    """Judge a value by its 95 % interval, not by its point; without one, all three are equal.

    A busy machine only makes a latency longer: one that is met then is met, but one that is not
    is undecided.

    Parameters
    ----------
    slowdown
        Of the reference loop beside a latency; above `BUSY` the machine was busy.
    """
    best, worst = (low, high) if objective.at_most else (-high, -low)
    target = objective.target if objective.at_most else -objective.target
    missed: Status = "undecided" if slowdown > BUSY else "not met"
    status: Status = "met" if worst <= target else "undecided" if best <= target else missed
    return Judgement(objective, status, value, low, high, slowdown)


def verdict_of(met: bool, missed: bool) -> Status:
    """Return the word for what is shown to be met, or to be missed, or neither."""
    return "met" if met else "not met" if missed else "undecided"


def judge_all(metrics: Mapping[str, Any], objectives: Sequence[Objective]) -> list[Judgement]:
    """Judge each objective whose metric was measured.

    Parameters
    ----------
    metrics
        Numbers and estimates by name, or the flat form that a model's result holds.
    """
    flat = flat_metrics(metrics)
    measured = [(o, flat[o.metric]) for o in objectives if o.metric in flat]
    return [
        judge(
            o,
            value,
            *(flat.get(f"{o.metric}_{end}", value) for end in ("low", "high")),
            slowdown=_slowdown(flat) if o.metric == "p95_ms" else 1.0,
        )
        for o, value in measured
    ]


def _slowdown(flat: Mapping[str, Any]) -> float:
    """Return how much longer the reference loop took than at its fastest; 1 without one."""
    reference = estimate_in(flat, "reference_ms")
    return reference.high / reference.low if reference and reference.low > 0 else 1.0


def file_of(dataset: str) -> str:
    """Return the path of a dataset's objectives file, relative to the home folder."""
    return paths.objectives_file(dataset).relative_to(paths.home()).as_posix()


def impact_of(dataset: str) -> str:
    """Return what meeting a dataset's objectives is to bring, in the words of its file, or ""."""
    return str(values_for(dataset).get("business_impact", "")).rstrip(".")


def none_set(dataset: str) -> str:
    """Return the message for a dataset without objectives, with the file to write them to."""
    return f"No objective is set for {dataset.partition('@')[0]}; write {file_of(dataset)}."
