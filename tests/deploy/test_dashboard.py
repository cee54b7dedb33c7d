"""deploy/grafana/nivesh.json: expressions that Prometheus reads, and panels that the page names."""

from __future__ import annotations

import re
import subprocess
from itertools import combinations
from pathlib import Path

import yaml

from tests.deploy.test_metric_names import DASHBOARD, targets
from tests.deploy.test_rules import PAGE

PANELS = DASHBOARD["panels"]


def cells(panel: dict) -> set[tuple[int, int]]:
    """Return the cells of the grid that a panel covers."""
    at = panel["gridPos"]
    columns = range(at["x"], at["x"] + at["w"])
    return {(x, y) for x in columns for y in range(at["y"], at["y"] + at["h"])}


def test_prometheus_reads_every_expression(promtool, tmp_path: Path):
    rules = [{"record": f"r{i}", "expr": one} for i, one in enumerate(targets(DASHBOARD))]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(rules)} rules" in done.stdout, done.stderr


def test_panels_do_not_cover_each_other():
    for one, other in combinations(PANELS, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])
    assert max(x for panel in PANELS for x, _ in cells(panel)) == 23
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_the_page_names_panels_that_are_there():
    named = set(re.findall(r"(?<![*\w])\*([A-Z][^*]+)\*(?!\*)", PAGE.partition("## Alerts")[2]))
    assert len(named) >= 6
    assert named <= {panel["title"] for panel in PANELS}


def test_every_panel_reads_the_one_source():
    sources = [panel["datasource"]["uid"] for panel in PANELS if panel["type"] != "row"]
    sources += [one["datasource"]["uid"] for panel in PANELS for one in panel.get("targets", ())]
    assert set(sources) == {"prometheus"}
