"""Findings about a model of rules: how many there are, and what they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import share_of
from nivesh_lib.records.finding import Finding
from nivesh_lib.wording import counted, of_100, sentence, shown

_LONGEST = 60  # characters of a pattern in a table


def rules_per_label(
    rules: Sequence[Mapping[str, Any]], labels: Sequence[str], *, mined: bool = False
) -> Finding:
    """Count the rules of each label.

    Parameters
    ----------
    rules
        Mappings with label, pattern and weight, as `RulesClassifier.rules_`.
    mined
        They come from training rows and not from a person.
    """
    of_label = {
        label: sorted((r for r in rules if r["label"] == label), key=lambda r: -r["weight"])
        for label in labels
    }
    counts = {label: len(found) for label, found in of_label.items()}
    fewest, most = min(counts.values()), max(counts.values())
    made = "mined from the training rows" if mined else "written by hand"
    each = f"{most}" if fewest == most else f"{fewest} to {most}"
    return Finding(
        name="rules_per_label",
        claim=f"{counted(len(rules), 'rule was', 'rules were')} {made}, {each} for each label.",
        cells=[
            {"label": shown(label), "rules": len(found),
             "heaviest": _cut(found[0]["pattern"]) if found else ""}
            for label, found in of_label.items()
        ],
        plot=plots.bars(counts, "rules"),
        source="nivesh_lib.models.text.rules.RulesClassifier",
    )  # fmt: skip


def _cut(pattern: str) -> str:
    return pattern if len(pattern) <= _LONGEST else pattern[: _LONGEST - 1] + "…"


def coverage(rows: pd.DataFrame, matched: np.ndarray, *, mined: bool = False) -> Finding:
    """Say how many queries match a rule, and how many answers are right with and without a match.

    Parameters
    ----------
    rows
        n rows that count for scores, with the columns intent and predicted.
    matched
        Shape (n,): whether a rule matches, as `RulesClassifier.coverage`.
    mined
        As for `rules_per_label`.
    """
    right = (rows["intent"] == rows["predicted"]).to_numpy(dtype=bool)
    share = share_of(matched)
    parts = {"a rule matches": matched, "no rule matches": ~matched}
    found = {name: share_of(right[mask]) for name, mask in parts.items() if mask.any()}
    said = [f"where {name}, {of_100(one, 'answers')} are right" for name, one in found.items()]
    return Finding(
        name="coverage",
        claim=sentence(f"a rule matches {of_100(share)}; {'; '.join(said)}"),
        estimate=share,
        cells=[
            {"queries": name, "number": one.n, **one.columns("right"),
             "most frequent answer": shown(rows["predicted"][parts[name]].mode()[0])}
            for name, one in found.items()
        ],
        plot=plots.intervals(
            {"matched": share} | {f"right where {n}": e for n, e in found.items()},
            "share of queries",
        ),
        caveats=["The rules are those mined from all training rows."] if mined else [],
        source="nivesh_lib.models.text.rules.RulesClassifier.coverage",
    )  # fmt: skip
