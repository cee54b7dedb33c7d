"""Records of releases, in small."""

from __future__ import annotations

from typing import Any

from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.release import AnsweredRow, Release


def release(**changed: Any) -> Release:
    """Return a release of intents@1.0.0 with three labels."""
    fields: dict[str, Any] = {
        "name": "intent_classifier", "version": "1.0.0", "digest": "d" * 64, "base": "b" * 64,
        "kind": "calibrated", "algorithm": "tfidf", "temperature": 0.5, "min_confidence": 0.7,
        "labels": ["tax", "rent", "loan"], "response": ["intent", "confidence"],
        "dataset": "intents@1.0.0", "data_sha256": "s" * 64, "commit": "c" * 40,
        "lock_sha256": "l" * 64, "run": "20260101-101500", "step": "03_tfidf", "parameters": {},
        "train_seconds": 2.0, "size_bytes": 3_000_000, "rows": 300, "metrics": {}, "slices": [],
        "openings": ["o" * 64], "in_place": None, "predecessor": "", "bump": [], "changes": [],
        "gates": {}, "who": "Asha", "why": "a candidate", "created": "2026-01-01T10:00:00+00:00",
        "environment": {},
    }  # fmt: skip
    return Release.model_validate(fields | changed)


def scored(accuracy: float, n: int = 300, **more: Any) -> dict[str, Any]:
    """Return metrics with an accuracy and its Wilson interval."""
    from nivesh_lib.evaluation.intervals import wilson

    return {"accuracy": Estimate(accuracy, *wilson(accuracy, n), n).as_dict(), **more}


def answers(right: list[bool], before: list[bool] | None = None) -> list[AnsweredRow]:
    """Return answered rows; every second one is in the slice ``language=hi``."""
    was = before or right
    return [
        AnsweredRow(
            id=f"r{i}",
            label="tax",
            predicted="tax" if now else "rent",
            confidence=0.8,
            before="tax" if then else "rent",
            slices=["language=hi"] if i % 2 else ["language=en"],
        )
        for i, (now, then) in enumerate(zip(right, was, strict=True))
    ]
