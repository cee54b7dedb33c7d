"""How the models of a run compare, as the record of the notebook that judged them says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nivesh_lib.records.schema import NUMBER, fits
from nivesh_lib.reporting.tables import interval, number, text

# Records of models have none of these; what they may have too stands in `sections.KEYS`.
JUDGED = (
    *("comparison", "calibration", "routing", "segments", "gaps", "flips", "behaviour"),
    *("overlaps", "flipped", "leaks", "help"),
)
_ESTIMATE = {"value": NUMBER, "low": NUMBER, "high": NUMBER}
_COMPARISON = {
    "metric": str,
    "champion": str,
    "n": int,
    "pairs": int,
    "alpha": NUMBER,
    "sentence": str,
    "models": [{"rank": str, "model": str}],
}
_RANKED = {"rank": str, "model": str}
_ALPHA = 0.05
_METRICS = {"macro_f1": "macro-F1"}
_TIES = (
    "Models that share a rank (=) cannot be told from the first of it: no difference shown, "
    "which is no proof of none."
)
_TO = ("to_champion", "to_next")
_APART = {"value": _ESTIMATE, "p_corrected": NUMBER, "differs": bool}

Record = Mapping[str, Any]
Row = Mapping[str, Any]


def evaluation_of(results: Mapping[str, Record]) -> tuple[str, Record] | None:
    """Return the step that evaluated the models together and its record, if one did."""
    return next(((s, r) for s, r in results.items() if set(JUDGED) & set(r)), None)


def comparison_of(results: Mapping[str, Record]) -> dict[str, Any] | None:
    """Return how the models of a run compare, or None.

    Returns
    -------
    dict
        ``champion``, ``metric`` (empty where the record does not say), ``sentence``, ``note`` and
        ``models``, each with ``rank``, ``model``, ``to_champion`` and ``to_next`` (the next lower
        score): None, or ``value``, ``low``, ``high``, ``p`` (corrected), ``p_mcnemar`` (corrected,
        or None where it was not recorded) and ``differs``.
    """
    found = evaluation_of(results)
    told: Any = found[1].get("comparison") if found else None
    if fits(told, _COMPARISON) and all(_is_apart(m.get(to)) for m in told["models"] for to in _TO):
        return _whole(told)
    if fits(told, [_RANKED]) and told:
        return _from_rows(told)
    return None


def _is_apart(apart: Any) -> bool:
    return apart is None or fits(apart, _APART)


def _whole(told: Mapping[str, Any]) -> dict[str, Any]:
    models = [
        {
            "rank": model["rank"],
            "model": model["model"],
            **{to: model.get(to) and _flat(model[to]) for to in _TO},
        }
        for model in told["models"]
    ]
    name = _METRICS.get(told["metric"], told["metric"])
    pairs = told["pairs"]
    note = (
        f"Differences in {name} on the same {told['n']:,} queries, paired, with their 95 % "
        f"interval; p, and that of McNemar's test of the accuracies, are corrected for {pairs} "
        f"pair{'s' * (pairs != 1)} of models (Holm). {_TIES}"
    )
    return {
        "champion": told["champion"],
        "metric": name,
        "sentence": told["sentence"],
        "note": note,
        "models": models,
    }


def _flat(apart: Mapping[str, Any]) -> dict[str, Any]:
    told = {"p": apart["p_corrected"], "p_mcnemar": number(apart, "p_mcnemar_corrected")}
    return {**apart["value"], **told, "differs": apart["differs"]}


def _from_rows(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return a comparison that was recorded as its table, one row a model."""
    models = []
    for row in rows:
        value, p = interval(row, "difference"), number(row, "p")
        apart = None
        if row.get("difference") is not None:  # None of the champion
            if value is None or p is None or value.low is None or value.high is None:
                return None
            mcnemar = number(row, "p_mcnemar")
            apart = {**value._asdict(), "p": p, "p_mcnemar": mcnemar, "differs": p < _ALPHA}
        told = {"rank": row["rank"], "model": row["model"], "to_champion": apart, "to_next": None}
        models.append(told)
    champions = [model["model"] for model in models if not model["to_champion"]]
    if len(champions) != 1:
        return None
    ties = [m["model"] for m in models if m["to_champion"] and not m["to_champion"]["differs"]]
    said = (
        f"cannot be told from {', '.join(ties)}"
        if ties
        else "differs from each of the others by more than chance"
    )
    return {
        "champion": champions[0],
        "metric": "",
        "sentence": f"{champions[0]} {said}." if len(models) > 1 else "",
        "note": f"Paired differences on the same queries; p is corrected (Holm). {_TIES}",
        "models": models,
    }


def rows_of(record: Record, key: str, *needed: str) -> list[Row]:
    """Return the rows under a key that have what is needed; one row may stand without a list.

    A dict of dicts is read as a row for each model.
    """
    told = record.get(key)
    if isinstance(told, Mapping):
        nested = told and all(isinstance(row, Mapping) for row in told.values())
        named = [{"model": name, **row} for name, row in told.items()] if nested else []
        told = named if named and not set(needed) & set(told) else [told]
    if not isinstance(told, list):
        return []
    return [row for row in told if isinstance(row, Mapping) and all(name in row for name in needed)]


def ranked(record: Record, key: str, *names: str) -> list[Row]:
    """Return the rows of models that have an estimate, in the order of the comparison."""
    told = comparison_of({"": record})
    order = [model["model"] for model in told["models"]] if told else []
    rows = [row for row in rows_of(record, key, "model") if interval(row, *names)]
    known = {name: place for place, name in enumerate(order)}
    return sorted(rows, key=lambda row: known.get(text(row, "model"), len(order)))
