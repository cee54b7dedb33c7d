"""deploy/prometheus/rules.yml: what promtool says of it, and that its series test something."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())
SERIES = yaml.safe_load((PROMETHEUS / "rules.test.yml").read_text())
ALERTS = {
    rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule
}
PAGE = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
SEED = {"HighErrorRate": ("5m", "critical"), "HighLatency": ("10m", "warning")}
SEED["AccuracyDrop"] = ("1h", "critical")


def without(alert: str) -> list[dict[str, Any]]:
    """Return the rules with one condition of an alert left out, or the time that it waits."""
    rule = ALERTS[alert]
    conditions = re.split(r"\s+and\s+", rule["expr"])
    rest = [conditions[:i] + conditions[i + 1 :] for i in range(len(conditions))]
    changes: list[dict[str, str]] = [{"expr": " and ".join(one)} for one in rest if one]
    changes += [{"for": "0s"}] if "for" in rule else []
    mutants = []
    for change in changes:
        mutant = copy.deepcopy(RULES)
        rules = [one for group in mutant["groups"] for one in group["rules"]]
        next(one for one in rules if one.get("alert") == alert).update(change)
        mutants.append({"what": change, "rules": mutant})
    return mutants


# In this one the first condition holds wherever the second one does; it makes the alert show the
# estimate.
SAME = "ml_model_accuracy_high < ml_model_accuracy_least"
MUTANTS = [
    (alert, mutant["what"], mutant["rules"])
    for alert in ALERTS
    for mutant in without(alert)
    if mutant["what"].get("expr") != SAME
]


def test_promtool_accepts_the_rules(promtool):
    call = [promtool, "check", "rules", "rules.yml"]
    done = subprocess.run(call, cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_alert_fires_and_stays_silent_where_it_should(promtool):
    call = [promtool, "test", "rules", "rules.test.yml"]
    done = subprocess.run(call, cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_series_that_fire_it_and_series_that_do_not(alert):
    fires, silent = set(), set()
    for group in SERIES["tests"]:
        found = [t for t in group.get("alert_rule_test", ()) if t["alertname"] == alert]
        if found:
            (fires if any(t["exp_alerts"] for t in found) else silent).add(group["name"])
    assert fires and silent


def of_alert(alert: str) -> dict[str, Any]:
    """Return the series that test an alert, and what they say of that one alone."""
    groups = []
    for group in SERIES["tests"]:
        found = [t for t in group.get("alert_rule_test", ()) if t["alertname"] == alert]
        if found:
            groups.append({**group, "alert_rule_test": found, "promql_expr_test": []})
    return {**SERIES, "tests": groups}


@pytest.mark.parametrize(
    ("alert", "what", "rules"), MUTANTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_condition_of_an_alert_can_be_left_out(promtool, alert, what, rules, tmp_path: Path):
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "test.yml").write_text(yaml.safe_dump(of_alert(alert)))
    call = [promtool, "test", "rules", "test.yml"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and f"alertname: {alert}" in done.stdout + done.stderr, what


@pytest.mark.parametrize("alert", SEED)
def test_the_seed_s_alerts_wait_and_matter_as_it_says(alert):
    rule = ALERTS[alert]
    assert (rule["for"], rule["labels"]["severity"]) == SEED[alert]


def test_the_seed_s_thresholds():
    errors, latency, accuracy = (ALERTS[alert]["expr"] for alert in SEED)
    assert errors.partition(" and ")[0].endswith("> 0.01") and latency.endswith("> 0.5")
    assert accuracy.endswith("< ml_model_accuracy_least")
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    (least,) = (rule for rule in rules if rule.get("record") == "ml_model_accuracy_least")
    assert least["expr"].endswith("+ 0.95") and "< 0.95" in least["expr"]


def test_the_page_has_an_entry_for_every_alert_and_no_other():
    entries = re.findall(r"^### (\w+)$", PAGE, re.M)
    assert sorted(entries) == sorted(ALERTS)
    for alert, rule in ALERTS.items():
        page = rule["annotations"]["runbook_url"]
        assert page == f"docs/monitoring.md#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_an_entry_says_what_it_means_what_to_look_at_and_what_to_do(alert):
    entry = re.search(rf"^### {alert}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)[1]
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert part in entry
    waits, severity = ALERTS[alert].get("for", "at once"), ALERTS[alert]["labels"]["severity"]
    assert entry.lstrip().startswith(f"*{severity}, ") and waits in entry.splitlines()[1]


def test_severities_are_two():
    assert {rule["labels"]["severity"] for rule in ALERTS.values()} == {"critical", "warning"}
