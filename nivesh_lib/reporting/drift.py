"""Evidently's drift report over labels, text descriptors and model predictions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from nivesh_lib.errors import DataError
from nivesh_lib.files import write_text
from nivesh_lib.reporting.figures import ACCENT, INK, SOFT
from nivesh_lib.reporting.markup import content_policy
from nivesh_lib.reproducibility import disable_telemetry

NUMERICAL = ["words", "characters", "digits_share", "confidence"]
CATEGORICAL = ["intent", "predicted", "language", "income_segment"]
# Evidently's colours of current and reference -> ours of now and before.
_COLOURS = {"#ed0400": ACCENT, "#4d4d4d": INK, "green": INK, "LightGreen": SOFT}
# The report in Evidently's page: two variables, each with JSON that has no line break.
_REPORT = re.compile(r"^( *var (?:additional_graphs_)?metric_\w+ = )(.*);$", re.MULTILINE)


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

    Raises
    ------
    DataError
        Evidently's page is not of the form that can be made safe.
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
        write_text(html, _page(snapshot))
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


def _page(snapshot: Any) -> str:
    """Return Evidently's page with all labels as text, in which only its own scripts run.

    Evidently writes labels into a script as they are, where ``</script>`` ends it.
    """
    page, found = _REPORT.subn(
        lambda match: f"{match[1]}{_script_json(_plain_figures(json.loads(match[2])))};",
        snapshot.get_html_str(as_iframe=False),
    )
    if found != 2:
        raise DataError(
            "Evidently's page is not of the known form, so it was not written; install the version "
            "of Evidently that requirements.lock names"
        )
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = content_policy(scripts, img="data: blob:", font="data:")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return page.strip().replace("<head>", f"<head>\n    {meta}", 1)


def _script_json(value: Any) -> str:
    return json.dumps(value).replace("<", r"\u003c")


def _plain_figures(value: Any) -> Any:
    """Return a report in which no text of a figure's data is markup: Plotly draws some tags."""
    if isinstance(value, list):
        return [_plain_figures(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() >= {"data", "layout"}:
        return _in_percent(value | {"data": _escaped(value["data"])})
    return {key: _plain_figures(one) for key, one in value.items()}


def _in_percent(figure: dict[str, Any]) -> dict[str, Any]:
    """Return a figure that opens on shares: counts of unequal samples cannot be compared."""
    for menu in figure["layout"].get("updatemenus", []):
        for number, button in enumerate(menu["buttons"]):
            if button["label"] == "perc":
                traces, axes = button["args"]
                shown = zip(figure["data"], traces["visible"], strict=True)
                figure["data"] = [trace | {"visible": visible} for trace, visible in shown]
                figure["layout"] |= axes
                menu["active"] = number
    return figure


def _escaped(value: Any) -> Any:
    """Return a value of JSON with all its texts escaped, and the colours of our figures."""
    if isinstance(value, str):
        return escape(value, quote=False)
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    if not isinstance(value, dict):
        return value
    escaped = {key: _escaped(one) for key, one in value.items()}
    if isinstance(colour := value.get("color"), str):
        escaped["color"] = _COLOURS.get(colour, escaped["color"])
    return escaped
