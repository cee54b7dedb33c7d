"""Evidently's drift report over labels, text descriptors and model predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nivesh_lib.files import atomic_path
from nivesh_lib.reproducibility import disable_telemetry

NUMERICAL = ["words", "characters", "digits_share", "confidence"]
CATEGORICAL = ["intent", "predicted", "language", "income_segment"]


def describe_texts(frame: pd.DataFrame, text: str = "query") -> pd.DataFrame:
    """Return the frame with descriptors of a text column in place of the column.

    Adds ``words`` and ``characters`` (counts) and ``digits_share`` (of the characters, from 0 to
    1), so that Evidently's report contains no query.
    """
    texts = frame[text].astype(str)
    # Not `str.count(r"\d")`: pandas' Arrow strings match only the digits 0 to 9.
    digits = texts.map(lambda query: sum(map(str.isdecimal, query)))
    return frame.drop(columns=[text]).assign(
        words=texts.map(lambda text: len(text.split())),
        characters=texts.str.len(),
        digits_share=digits / texts.str.len().clip(lower=1),
    )


def drift_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    thresholds: Mapping[str, float] | None = None,
    html: Path | None = None,
) -> list[dict[str, Any]]:
    """Return the drift of each column that has values in both frames.

    Parameters
    ----------
    reference, current : DataFrame
        As `describe_texts` returns them, (n, n_columns) and (m, n_columns).
    thresholds : mapping, optional
        Column -> distance from which it counts as drifted; 0.1 for a column without one.
    html : path, optional
        File for Evidently's interactive page.

    Returns
    -------
    list of dict
        ``column``, ``method``, ``value``, ``threshold``, ``drifted``. Numbers are compared by
        normalised Wasserstein distance, categories by Jensen-Shannon distance. Both are effect
        sizes; the p-value of a test would fall with the number of rows.
    """
    disable_telemetry()
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    shared = reference.dropna(axis="columns", how="all").columns.intersection(
        current.dropna(axis="columns", how="all").columns
    )
    numerical = [c for c in NUMERICAL if c in shared]
    categorical = [c for c in CATEGORICAL if c in shared]
    definition = DataDefinition(numerical_columns=numerical, categorical_columns=categorical)
    columns = categorical + numerical
    before, now = (
        Dataset.from_pandas(frame[columns].copy(), data_definition=definition)
        for frame in (reference, current)
    )
    bounds = thresholds or {}
    methods = dict.fromkeys(categorical, "jensenshannon") | dict.fromkeys(numerical, "wasserstein")
    metrics = [
        ValueDrift(column=column, method=method, threshold=bounds.get(column, 0.1))
        for column, method in methods.items()
    ]
    snapshot = Report(metrics, include_tests=True).run(now, before)
    if html is not None:
        with atomic_path(html) as partial:
            snapshot.save_html(str(partial))
    return [
        {
            "column": config["column"],
            "method": config["method"],
            "value": float(metric["value"]),
            "threshold": float(config["threshold"]),
            "drifted": float(metric["value"]) >= float(config["threshold"]),
        }
        for metric in snapshot.dict()["metrics"]
        if (config := metric["config"]).get("column")
    ]
