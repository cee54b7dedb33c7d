"""Keep what the repository shows in step with the last run: ``make showcase``.

The example report is a copy of the last good run's pages; the tables of the README
are written from it and from ``pipeline.toml``.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from nivesh_lib import paths
from nivesh_lib.errors import SpecError
from nivesh_lib.pipeline.spec import load_pipeline
from nivesh_lib.reporting.site import human_bytes, leaderboard, read_results
from nivesh_lib.tracking.runs import write_json

_PAGES = ("index.html", "run.json", "notebooks/*.html", "results/*.json", "drift/*/evidently.html")


def example() -> Path:
    """Return the folder of the committed example report."""
    return paths.reports_dir() / "example"


def copy_example(run: Path) -> None:
    """Replace the example by the pages and results of a run."""
    target = example()
    shutil.rmtree(target, ignore_errors=True)
    for pattern in _PAGES:
        for path in sorted(run.glob(pattern)):
            place = target / path.relative_to(run)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    record = json.loads((target / "run.json").read_text(encoding="utf-8"))
    record.pop("mlflow_uri", None)  # an address on the machine that made it
    write_json(target / "run.json", record)


def notebook_table() -> str:
    """Return the README's table of notebooks, from ``pipeline.toml``."""
    rows = ["| notebook | question | needs |", "|---|---|---|"]
    for step in load_pipeline(paths.notebooks_dir()).steps:
        needs = ", ".join(step.needs) or "nothing"
        rows.append(f"| [{step.name}](notebooks/{step.name}.ipynb) | {step.help} | {needs} |")
    return "\n".join(rows)


def results_table(run: Path) -> str:
    """Return the README's table of results, from the records of a run."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    rows = [
        f"On {record['dataset']['ref']}, profile {record['profile']}, out of fold over natural "
        "training rows, 95 % intervals:",
        "",
        "| model | macro-F1 | accuracy | one query, p95 | size on disk |",
        "|---|---|---|---|---|",
    ]
    for m in leaderboard(read_results(run)):
        f1, accuracy = (
            f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]" for e in (m["f1"], m["accuracy"])
        )
        rows.append(
            f"| {m['model']} | {f1} | {accuracy} | {m['p95']:.1f} ms | {human_bytes(m['bytes'])} |"
        )
    return "\n".join(rows)


def filled(readme: str) -> str:
    """Return the README's text with its generated tables written anew."""
    for name, table in (("notebooks", notebook_table()), ("results", results_table(example()))):
        parts = re.split(rf"(<!-- {name}:start[^>]*-->\n|<!-- {name}:end -->)", readme)
        if len(parts) != 5:
            raise SpecError(f"README.md: no markers {name}:start and {name}:end")
        readme = "".join([*parts[:2], table + "\n", *parts[3:]])
    return readme


def main() -> int:
    """Copy the last good run and rewrite the README's tables."""
    run = paths.latest_run()
    if not run.exists():
        sys.stderr.write("error: no good run yet. `make run` makes one\n")
        return 1
    copy_example(run)
    readme = paths.home() / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
