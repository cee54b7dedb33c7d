"""The openings in the holdout ledger, as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nivesh_lib.errors import NiveshError
from nivesh_lib.ledger import NO_SCORES, Opening, openings
from nivesh_lib.records.schema import NUMBER, fits

_ESTIMATE = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": int}
_SCORE_NAMES = {
    "macro_f1": "macro-F1",
    "out_of_scope": "out-of-scope queries turned away",
    "in_scope": "in-scope queries turned away",
    "accuracy_of_answered": "accuracy where it answers",
}


def holdout(dataset: str) -> dict[str, Any]:
    """Return a ``sentence`` on this data, every opening there was, and ``why`` it is damaged."""
    try:
        known = openings()
    except NiveshError as error:
        return {"sentence": "The ledger of openings is damaged.", "why": str(error), "openings": []}
    of_it = [opening for opening in known if opening.data == dataset]
    return {
        "sentence": _opened(dataset, of_it),
        "why": "",
        "openings": [{**asdict(o), "shown": _scores_of(o.scores)} for o in known],
    }


def _opened(dataset: str, of_it: Sequence[Opening]) -> str:
    if not of_it:
        return f"The holdout of {dataset} was not opened."
    times, models = len(of_it), len({opening.model_hash for opening in of_it})
    sentence = (
        f"The holdout of {dataset} was opened {times} time{'s' * (times > 1)}, "
        f"for {models} model{'s' * (models > 1)}."
    )
    return sentence + " Every further opening makes its scores a little less honest."


def _scores_of(scores: Mapping[str, Any] | None) -> list[str]:
    """Return the scores that have an interval, and the verdict."""
    if scores is None:
        return [NO_SCORES]
    shown = [
        f"{_SCORE_NAMES.get(name, name)} {value['value']:.3f} "
        f"({value['low']:.3f} to {value['high']:.3f})"
        for name, value in scores.items()
        if fits(value, _ESTIMATE)
    ]
    return shown + ([f"objectives: {scores['verdict']}"] if "verdict" in scores else [])
