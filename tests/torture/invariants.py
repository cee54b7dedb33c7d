"""What holds in a home at any moment: ``python -m tests.torture.invariants HOME MOMENT``.

After a kill (MOMENT is ``killed``): every file that claims to be complete can be read, the latest
run is a complete one, and no earlier run is open in MLflow. After a command that went to its end
(``ended``) moreover: no run is open, no unfinished file is left, and the ``fingerprint`` of the
last run is printed, to be compared with that of a run that nobody disturbed.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from nivesh_lib.models.base import load_model
from nivesh_lib.models.directory import model_hash
from nivesh_lib.pipeline.cache import intact
from nivesh_lib.runs.directories import all_runs, latest_run
from nivesh_lib.runs.layout import RunDirectory

# What differs between two runs of the same notebooks: times, ids, where they ran.
VARYING = {"seconds", "mlflow_run_id", "experiment_id"}


def whole_page(path: Path) -> None:
    """Raise ValueError for a page that was cut off."""
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("the page has no end")


READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".ipynb": lambda path: nbformat.read(path, as_version=4),
    ".parquet": pd.read_parquet,
    ".html": whole_page,
}


def unreadable(home: Path) -> Iterator[str]:
    """Yield each file below ``data`` and ``reports`` that claims to be complete and is not.

    Names with a dot in front claim nothing, and neither do logs nor, before the record of its
    step, a figure or drift page.
    """
    for path in sorted(p for part in ("data", "reports/runs") for p in (home / part).rglob("*")):
        inside = path.relative_to(home)
        if any(part.startswith(".") for part in inside.parts) or "drift" in inside.parts:
            continue
        try:
            if path.is_dir() and path.parent.name == "models":
                load_model(path)
            elif path.is_file() and path.suffix in READERS:
                READERS[path.suffix](path)
        except Exception as error:
            yield f"{inside}: {error!r}"
    for run in all_runs():
        for record in run.path.glob("steps/*.json"):
            finished = run.finished(record.stem)
            if finished is None or (finished.status == "done" and not intact(run, finished)):
                yield f"{record.relative_to(home)}: its files are not those that it names"


def wrong_latest(home: Path) -> Iterator[str]:
    """Yield what is wrong with the link to the last good run."""
    link = home / "reports" / "latest"
    if link.is_symlink() or link.exists():
        record = latest_run().sound_record()
        if record is None or not record.complete or not latest_run().index.is_file():
            yield f"reports/latest -> {link.readlink()}: no complete run"


def open_runs(home: Path, *, ended: bool) -> Iterator[str]:
    """Yield each MLflow run that is still open, of those that the last command had to close."""
    database = home / "mlruns" / "mlflow.db"
    if not database.exists():
        return
    with sqlite3.connect(database) as store:
        ((sound,),) = store.execute("pragma integrity_check").fetchall()
        if sound != "ok":
            yield f"mlflow.db: {sound}"
        found = store.execute(
            "select r.run_uuid, t.value from runs r left join tags t on t.run_uuid = r.run_uuid "
            "and t.key = 'nivesh.run' where r.status = 'RUNNING'"
        ).fetchall()
    newest = all_runs()[-1].name if all_runs() else ""
    yield from (f"{run} of {name}" for run, name in found if ended or name != newest)


def unfinished(home: Path) -> Iterator[str]:
    """Yield each file and folder that is there under the name of an unfinished one."""
    for part in ("data", "reports", "mlruns"):
        for path in (home / part).rglob(".*"):
            yield str(path.relative_to(home))


def fingerprint(run: RunDirectory, *, all_equal: bool) -> dict[str, Any]:
    """Return what two runs of the same notebooks have in common.

    ``all_equal`` is for notebooks that measure no time: their results and models are equal too.
    """
    record = run.sound_record()
    found: dict[str, Any] = {
        name: step.status for name, step in (record.steps if record else {}).items()
    }
    for path in sorted(run.path.glob("oof/*.parquet")):
        found[path.name] = hashlib.sha256(pd.read_parquet(path).to_csv().encode()).hexdigest()
    for name, result in run.results().items():
        facts = {k: v for k, v in result.as_dict().items() if k not in VARYING}
        found[f"{name}.json"] = facts if all_equal else sorted(facts["metrics"])
    for folder in sorted(run.path.glob("models/*")):
        found[f"models/{folder.name}"] = model_hash(folder) if all_equal else True
    return found


def main(home: Path, moment: str) -> None:
    """Check a home, which is NIVESH_HOME, and print what was found as JSON."""
    ended = moment != "killed"
    found: dict[str, Any] = {
        "unreadable": list(unreadable(home)),
        "open": list(open_runs(home, ended=ended)),
        "wrong": list(wrong_latest(home)),
    }
    if ended:
        found["wrong"] += [f"left: {name}" for name in unfinished(home)]
        tiny = (home / "data" / "toy").exists()
        runs = all_runs()
        found["fingerprint"] = fingerprint(runs[-1], all_equal=tiny) if runs else {}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
