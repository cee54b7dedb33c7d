"""Evidently's page on labels, text descriptors and model predictions, below our verdict."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from nivesh_lib.errors import DataError
from nivesh_lib.files import write_text
from nivesh_lib.records.finding import Finding
from nivesh_lib.reporting.figures import ACCENT, INK, SOFT
from nivesh_lib.reporting.findings import SIGNS
from nivesh_lib.reporting.markup import content_policy
from nivesh_lib.reproducibility import disable_telemetry

NUMERICAL = ["words", "characters", "digits_share", "confidence"]
CATEGORICAL = ["intent", "predicted", "language", "income_segment"]
# Evidently's colours of current and reference -> ours of now and before.
_COLOURS = {"#ed0400": ACCENT, "#4d4d4d": INK, "green": INK, "LightGreen": SOFT}
# The report in Evidently's page: two variables, each with JSON that has no line break.
# What Evidently concludes of a column, from a threshold that chance alone often passes.
_VERDICT = re.compile(
    r"Data drift (?:not )?detected\. Drift detection method: (.*)\. Drift score: "
)
_TITLE = ("Drift in column", "Column")
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


def write_drift_page(
    reference: pd.DataFrame, current: pd.DataFrame, html: Path, *, verdict: Finding
) -> None:
    """Write Evidently's interactive page on the columns that have values in both frames.

    It draws them and tells their distances: Wasserstein's of numbers, in standard deviations,
    Jensen and Shannon's of categories. The verdict is ours, and stands above.

    Parameters
    ----------
    reference, current : DataFrame
        As `describe_texts` returns them, (n, n_columns) and (m, n_columns).

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
    before, now = (
        Dataset.from_pandas(frame[categorical + numerical].copy(), data_definition=definition)
        for frame in (reference, current)
    )
    methods = dict.fromkeys(categorical, "jensenshannon") | dict.fromkeys(numerical, "wasserstein")
    metrics = [ValueDrift(column=column, method=method) for column, method in methods.items()]
    write_text(html, _page(Report(metrics).run(now, before), verdict))


def _page(snapshot: Any, verdict: Finding) -> str:
    """Return Evidently's page below a verdict, all labels as text; only its own scripts run.

    Evidently writes labels into a script as they are, where ``</script>`` ends it.
    """
    page, found = _REPORT.subn(
        lambda match: f"{match[1]}{_script_json(_plain_figures(json.loads(match[2])))};",
        snapshot.get_html_str(as_iframe=False),
    )
    page, bodies = re.subn("<body[^>]*>", lambda body: body[0] + _above(verdict), page, count=1)
    if (found, bodies) != (2, 1):
        raise DataError(
            "Evidently's page is not of the known form, so it was not written; install the version "
            "of Evidently that requirements.lock names"
        )
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = content_policy(scripts, img="data: blob:", font="data:")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return page.strip().replace("<head>", f"<head>\n    {meta}", 1)


def _above(verdict: Finding) -> str:
    lines = [f"{SIGNS[verdict.verdict]}: {verdict.mark}.", *verdict.caveats]
    small = "".join(f"<p>{escape(line)}</p>" for line in lines)
    style = "font: 16px sans-serif; max-width: 60em; margin: 1em auto; padding: 0 1em"
    claim = f'<h1 style="font-size: 1.2em">{escape(verdict.claim)}</h1>'
    return f'<header style="{style}">{claim}{small}</header>'


def _script_json(value: Any) -> str:
    return json.dumps(value).replace("<", r"\u003c")


def _plain_figures(value: Any) -> Any:
    """Return a report in which no text of a figure's data is markup: Plotly draws some tags."""
    if isinstance(value, list):
        return [_plain_figures(one) for one in value]
    if isinstance(value, str):
        return _VERDICT.sub(r"\1 between before and now: ", value).replace(*_TITLE)
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
