"""What steps record, in small: contents of results and of a comparison."""

from __future__ import annotations

from typing import Any

from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.metrics import flat_metrics
from nivesh_lib.records.results import ModelResult


def estimate(value: float, spread: float = 0.05) -> dict[str, Any]:
    return Estimate(value, value - spread, value + spread, 100).as_dict()


def contents(model: str, f1: float, **fields: Any) -> dict[str, Any]:
    """Return the contents of the result of a model."""
    metrics = {"macro_f1": estimate(f1), "accuracy": estimate(f1), "size_bytes": 12_300}
    common = {"model": model, "headline": f"{model} said", "figures": []}
    return {**common, "metrics": flat_metrics(metrics), **fields}


def result(model: str, f1: float, **fields: Any) -> ModelResult:
    return ModelResult.model_validate(contents(model, f1, **fields))


def comparison(
    *, best: str = "rules", other: str = "tfidf", third: str = "", differs: bool = False
) -> dict[str, Any]:
    """Return what a comparison of two or three models records."""
    apart = {"value": estimate(-0.02), "p_corrected": 0.3, "p_mcnemar_corrected": 0.2}
    models = [
        {"rank": "1=", "model": best, "to_champion": None, "to_next": None},
        {
            "rank": "1=",
            "model": other,
            "to_champion": {**apart, "differs": differs},
            "to_next": None,
        },
    ]
    models += [{**models[-1], "model": third}] if third else []
    fields = {"metric": "macro_f1", "champion": best, "n": 100, "pairs": 1, "alpha": 0.05}
    return {"comparison": {**fields, "models": models, "sentence": f"{best} cannot be told."}}
