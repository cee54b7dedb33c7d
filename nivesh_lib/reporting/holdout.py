"""The openings in the holdout ledger, as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nivesh_lib.errors import NiveshError
from nivesh_lib.ledger import NO_SCORES, Opening, openings
from nivesh_lib.records.schema import NUMBER, fits
from nivesh_lib.releases.log import read_log, registered_name

_ESTIMATE = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": int}
_SCORE_NAMES = {
    "macro_f1": "macro-F1",
    "out_of_scope": "out-of-scope queries turned away",
    "in_scope": "in-scope queries turned away",
    "accuracy_of_answered": "accuracy where it answers",
    "p95_ms": "latency p95 in ms",
}


def holdout(dataset: str) -> dict[str, Any]:
    """Return the openings of the holdout for the report.

    Returns
    -------
    dict
        ``sentence`` on the openings of ``dataset``; ``openings`` of every dataset, each with its
        scores as text in ``shown``; ``why``, the error of a damaged ledger, else empty.
    """
    try:
        known = openings()
    except NiveshError as error:
        return {"sentence": "The ledger of openings is damaged.", "why": str(error), "openings": []}
    opened = [opening for opening in known if opening.data == dataset]
    return {
        "sentence": _summary(dataset, opened),
        "why": "",
        "openings": [{**asdict(o), "shown": _scores_of(o.scores)} for o in known],
    }


def releases(dataset: str) -> list[dict[str, Any]]:
    """Return what the release log says of the models of a dataset, oldest first.

    Of a damaged log, one line says what is wrong with it.
    """
    try:
        entries = read_log(registered_name(dataset))
    except NiveshError as error:
        return [{"kind": "damaged", "why": str(error)}]
    return [
        entry | {"missed": [g["name"] for g in entry.get("gates", ()) if g["verdict"] != "met"]}
        for entry in entries
    ]


def _summary(dataset: str, opened: Sequence[Opening]) -> str:
    if not opened:
        return f"The last test, on the holdout of {dataset}, was not made."
    times, models = len(opened), len({opening.model_hash for opening in opened})
    sentence = (
        f"The holdout of {dataset} was opened {times} time{'s' * (times > 1)}, "
        f"for {models} model{'s' * (models > 1)}."
    )
    return sentence + " Every further opening makes its scores a little less honest."


def _scores_of(scores: Mapping[str, Any] | None) -> list[str]:
    """Return each score that has an interval, and the verdict, as text."""
    if scores is None:
        return [NO_SCORES]
    shown = [
        f"{_SCORE_NAMES.get(name, name)} {value['value']:.3f} "
        f"({value['low']:.3f} to {value['high']:.3f})"
        for name, value in scores.items()
        if fits(value, _ESTIMATE) and name != "reference_ms"
    ]
    return shown + ([f"objectives: {scores['verdict']}"] if "verdict" in scores else [])
