"""Names in rules and dashboard are those that a server exports, and every one of these is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry

from nivesh_lib.serving import metrics
from tests.conftest import REPOSITORY
from tests.deploy.test_rules import RULES

SOURCE = Path(metrics.__file__).read_text()
DASHBOARD = json.loads((REPOSITORY / "deploy" / "grafana" / "nivesh.json").read_text())
# What Prometheus itself adds: its own series, and labels of every series that it reads.
OWN, GIVEN = {"up", "ALERTS"}, {"job", "instance", "le"}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
VALUES = {"status": metrics.OUTCOMES, "agrees": metrics.AGREES}
GROUPING = r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"


def targets(dashboard: dict) -> list[str]:
    """Return the expressions of a dashboard's panels and variables."""
    found = [one["expr"] for panel in dashboard["panels"] for one in panel.get("targets", ())]
    lists = [one["query"]["query"] for one in dashboard["templating"]["list"]]
    values = [re.sub(r"label_values\((\w+), (\w+)\)", r"group by (\2) (\1)", one) for one in lists]
    notes = [one["expr"] for one in dashboard["annotations"]["list"]]
    return [one.replace("$__rate_interval", "5m") for one in found + values + notes]


def expressions() -> list[str]:
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    return rules + targets(DASHBOARD)


def recorded() -> set[str]:
    return {one["record"] for group in RULES["groups"] for one in group["rules"] if "record" in one}


class Series(NamedTuple):
    metric: str
    labels: frozenset[str]


def exported(source: str) -> dict[str, Series]:
    """Return the series that a source of `metrics` exports."""
    registry = CollectorRegistry()
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("Counter", "Gauge", "Histogram"):
            made = partial(getattr(prometheus_client, kind), registry=registry)
            patch.setattr(prometheus_client, kind, made)
        exec(source, {"__name__": "a_copy_of_metrics"})
    series = {}
    for collector in registry._collector_to_names:
        (metric,) = collector.describe()
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        for ending in endings.get(metric.type, [""]):
            series[metric.name + ending] = Series(metric.name, frozenset(collector._labelnames))
    return series


def selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each name of a series in an expression, and what its labels are matched with."""
    rest = re.sub(r"\[[^\]]*\]", "", re.sub(GROUPING, "", expression))
    for name, called, matchers in re.findall(
        r"(?<![\w.\"$])([a-zA-Z_:][\w:]*)\s*(\()?(?:\{([^}]*)\})?", _without_strings(rest)
    ):
        if not called and name not in KEYWORDS:
            yield name, _matchers(rest, name) if matchers else {}


def _without_strings(text: str) -> str:
    return re.sub(r'"[^"]*"', '""', text)


def _matchers(text: str, name: str) -> dict[str, str]:
    blocks = re.findall(rf"\b{re.escape(name)}\{{([^}}]*)\}}", text)
    return dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', ",".join(blocks)))


def mistakes(series: dict[str, Series], found: list[str]) -> list[str]:
    """Return what is wrong with the names in some expressions, by what a server exports."""
    said, used = [], set()
    for expression in found:
        grouped = {
            label.strip() for _, one in re.findall(GROUPING, expression) for label in one.split(",")
        }
        for name, matched in selectors(expression):
            if name in series:
                used.add(series[name].metric)
                strange = (grouped | set(matched)) - series[name].labels - GIVEN
                said += [f"{name} has no label {label}" for label in sorted(strange)]
            elif name not in recorded() | OWN:
                said.append(f"{name}: no such series")
    unused = {one.metric for one in series.values()} - used
    return said + [f"{name} is used nowhere" for name in sorted(unused)]


def test_names_and_labels_are_those_of_the_server_and_all_are_used():
    assert mistakes(exported(SOURCE), expressions()) == []


def test_values_of_labels_are_those_of_the_server():
    pairs = [pair for e in expressions() for _, m in selectors(e) for pair in m.items()]
    checked = [(label, value) for label, value in pairs if label in VALUES]
    assert {label for label, _ in checked} == set(VALUES)
    for label, value in checked:
        assert set(value.split("|")) <= set(VALUES[label]), (label, value)


def test_the_copy_exports_what_the_server_does():
    text = metrics.exposition().decode()
    told = {re.sub(r"_total$", "", name) for name in re.findall(r"^# TYPE (\S+)", text, re.M)}
    ours = {one.metric for one in exported(SOURCE).values()}
    assert {name for name in told if not re.search(r"^(python|process)_|_created$", name)} == ours


NAMES = sorted({one.metric for one in exported(SOURCE).values()})
LABELS = sorted({label for one in exported(SOURCE).values() for label in one.labels})


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_that_is_renamed_is_found(name):
    renamed = re.sub(rf'"{name}(_total)?"', f'"x_{name}"', SOURCE)
    said = mistakes(exported(renamed), expressions())
    assert f"x_{name} is used nowhere" in said
    assert any(re.fullmatch(rf"{name}\w*: no such series", one) for one in said)


@pytest.mark.parametrize("label", LABELS)
def test_a_label_that_is_renamed_is_found(label):
    renamed = SOURCE.replace(f'"{label}"', f'"x_{label}"')
    assert any(f"has no label {label}" in one for one in mistakes(exported(renamed), expressions()))


def test_a_series_that_no_server_exports_is_found():
    added = [*expressions(), "rate(model_prediction_total[5m])", 'model_degraded{release="1"}']
    said = mistakes(exported(SOURCE), added)
    assert said == ["model_prediction_total: no such series", "model_degraded has no label release"]
