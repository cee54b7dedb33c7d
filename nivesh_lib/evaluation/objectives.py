"""The marks that were set before training, and sentences that judge against them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import DataError

_UNITS = {"p95_ms": " ms"}
_NAMES = {"macro_f1": "macro-F1", "p95_ms": "latency p95"}


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
    """``status`` is met, not met or undecided (the interval holds the target)."""

    objective: Objective
    status: str
    value: float
    low: float
    high: float

    @property
    def found(self) -> str:
        """The value, with its interval where there is one."""
        digits = ".1f" if self.objective.metric == "p95_ms" else ".3f"
        shown = f"{self.value:{digits}}"
        if self.low < self.high:
            shown += f" [{self.low:{digits}}, {self.high:{digits}}]"
        return shown + _UNITS.get(self.objective.metric, "")

    def __str__(self) -> str:
        return f"{self.objective}: {self.status}, {self.found}"


def objectives_file() -> Path:
    """Return the path of the objectives file."""
    return paths.data_dir() / "objectives.toml"


def _read() -> dict[str, Any]:
    path = objectives_file()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Mend the TOML") from None


class _Objectives(Mapping[str, dict[str, Any]]):
    """Read-only view of ``data/objectives.toml``; read anew at each access."""

    def __getitem__(self, model: str) -> dict[str, Any]:
        return {k: v for k, v in _read()[model].items() if k != "marks"}

    def __iter__(self) -> Iterator[str]:
        return iter(_read())

    def __len__(self) -> int:
        return len(_read())


MODEL_OBJECTIVES = _Objectives()


def objectives_for(step: str, model: str = "intent_classifier") -> list[Objective]:
    """Return the release objectives of ``model`` and the mark of one notebook, if it has one."""
    table = _read().get(model, {})
    found = []
    if "accuracy_target" in table:
        found.append(Objective(model, "accuracy", float(table["accuracy_target"])))
    if "latency_target_ms" in table:
        found.append(Objective(model, "p95_ms", float(table["latency_target_ms"]), at_most=True))
    mark = table.get("marks", {}).get(step)
    if mark is not None:
        found.append(Objective(step, "macro_f1", float(mark)))
    return found


def judge(objective: Objective, estimate: Mapping[str, float]) -> Judgement:
    """Judge an estimate (``value``, ``low``, ``high``) by its interval, not by its point."""
    value = estimate["value"]
    low, high = estimate.get("low", value), estimate.get("high", value)
    if objective.at_most:
        status = "met" if high <= objective.target else "not met"
        if low <= objective.target < high:
            status = "undecided"
    else:
        status = "met" if low >= objective.target else "not met"
        if low < objective.target <= high:
            status = "undecided"
    return Judgement(objective, status, value, low, high)


def judge_all(metrics: Mapping[str, Any], objectives: list[Objective]) -> list[Judgement]:
    """Judge each objective whose metric was measured."""
    return [judge(o, metrics[o.metric]) for o in objectives if o.metric in metrics]


def verdict(metrics: Mapping[str, Any], objectives: list[Objective]) -> str:
    """Return the judgements as Markdown, one bullet each, digits included."""
    marks = {"met": "✔ **Met**", "not met": "✘ **Not met**", "undecided": "~ **Undecided**"}
    lines = []
    for judged in judge_all(metrics, objectives):
        lines.append(f"- {marks[judged.status]}: {judged.objective} (found {judged.found})")
    return "\n".join(lines) or "- No objective is set for this notebook in data/objectives.toml."
