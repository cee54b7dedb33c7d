from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.pipeline import worker
from nivesh_lib.pipeline.executors import EXECUTORS, Job
from nivesh_lib.pipeline.run import run_pipeline
from nivesh_lib.records.run import RunRecord
from nivesh_lib.runs.layout import RunDirectory
from tests.conftest import REPOSITORY
from tests.models.conftest import tiny

PARAMETERS = 'DATASET: str = "toy@1.0.0"\nSLEEP: float = 0.0  # seconds'
# What a toy notebook does: wait, then leave a result as the real ones do.
RECORD = """
import json, os, pathlib, time
time.sleep(SLEEP)
run = pathlib.Path(os.environ["NIVESH_RUN_DIR"]) / "results"
run.mkdir(exist_ok=True)
(run / "{name}.json").write_text(json.dumps({{"headline": "said by {name}", "dataset": DATASET}}))
"""


def write_notebook(path: Path, cells: list[str], parameters: str = PARAMETERS) -> None:
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    code = [new_code_cell(source) for source in cells]
    notebook = new_notebook(cells=[new_markdown_cell(f"# {path.stem}"), tagged, *code])
    nbformat.write(notebook, path)


def build_home(folder: Path) -> None:
    """Write a toy dataset and three toy notebooks: a, b after a, c alone."""
    (folder / "data").mkdir()
    (folder / "requirements.lock").write_text("nothing==1.0\n")
    words = ("rent", "salary", "gold", "bonus", "chai", "petrol", "school", "train")
    rows = [
        {"query": f"{word} {other} {n}", "intent": intent}
        for n, intent in enumerate(("spend", "save"))
        for word in words
        for other in words[:3]
    ]
    publish(pd.DataFrame(rows), "toy", "1.0.0", description="toy")
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    for name in ("01_a", "02_b", "03_c"):
        write_notebook(notebooks / f"{name}.ipynb", [RECORD.format(name=name)])
    (notebooks / "pipeline.toml").write_text(
        'profiles = ["smoke", "default"]\n'
        '[[step]]\nname = "01_a"\nhelp = "a"\nprofiles.smoke = { SLEEP = 0.1 }\n'
        '[[step]]\nname = "02_b"\nhelp = "b"\nneeds = ["01_a"]\n'
        '[[step]]\nname = "03_c"\nhelp = "c"\n'
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> Path:
    """A home folder in which nothing has been run."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    build_home(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A home folder after one whole run; copied, never changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIVESH_HOME", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_store}")
        build_home(folder)
        run_pipeline(dataset="toy@1.0.0")
    return folder


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, finished: Path) -> Path:
    """A home folder of the test's own in which everything has been run once."""
    folder = tmp_path / "home"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.setenv("NIVESH_HOME", str(folder))
    return folder


def execute_here(job: dict[str, Any], output: Path) -> dict[str, Any] | None:
    """Do what the worker's function does, with `exec` in place of a kernel."""
    notebook = nbformat.read(job["notebook"], as_version=4)
    names: dict[str, Any] = {}
    nbformat.write(notebook, output)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        try:
            exec(cell.source, names)
        except Exception as error:
            return worker._failure("exception", f"{type(error).__name__}: {error}")
        names |= job["parameters"] if "parameters" in cell.metadata.get("tags", []) else {}
    return None


class HereExecutor:
    """The worker in this process, one step after the other."""

    slots = 1

    def __init__(self, slots: int | None = None) -> None:
        self._ended: list[str] = []

    def start(self, job: Job) -> None:
        request = RunDirectory(Path(job.run_dir)).partial(f"{job.step}.job.json")
        request.write_text(json.dumps(asdict(job)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NIVESH_RUN_DIR", job.run_dir)
            patch.setattr(worker, "_execute", execute_here)
            worker.main(str(request))
        self._ended.append(job.step)

    def wait(self) -> list[str]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Nothing runs between two calls."""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute notebooks in this process: enough where a test is about what is run and recorded.

    A process and a kernel for each step cost seconds; tests without this fixture have them.
    """
    monkeypatch.setitem(EXECUTORS, "local", HereExecutor)


SHIPPED = [
    *("id", "query", "intent", "income_segment", "created_at", "language", "selection", "source")
]  # columns of the shipped data, without those that publishing makes


def copy_notebooks(folder: Path) -> None:
    """Copy into a home folder what every run of the shipped notebooks reads, without data."""
    shutil.copytree(REPOSITORY / "notebooks", folder / "notebooks")
    shutil.copy(REPOSITORY / "requirements.lock", folder)
    (folder / "data").mkdir()
    shutil.copy(REPOSITORY / "data" / "objectives.toml", folder / "data")


def publish_sample(folder: Path) -> None:
    """Publish a sample of the shipped data in the home in use: the same versions, two folds.

    It keeps what notebooks branch on: all labels, rows of both selections with segments, dates
    and languages, a parent version, rules, behavioural test cases, queries out of scope.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIVESH_HOME", str(REPOSITORY))
        first, second, third = (load_dataset(f"intents@1.{n}.0").train for n in range(3))
        outside = load_dataset("out_of_scope@1.1.0").train
    added = second[~second["id"].isin(first["id"])]
    latest = third[~third["id"].isin(second["id"])]
    by_intent = first.groupby("intent")
    (folder / "data" / "intents").mkdir()
    for name in ("rules.toml", "probes.toml"):
        shutil.copy(REPOSITORY / "data" / "intents" / name, folder / "data" / "intents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nivesh_lib.data.split_assignment.N_FOLDS", 2)
        publish(by_intent.head(4)[SHIPPED], "intents", "1.0.0", description="a sample")
        publish(
            added.groupby("intent").head(2)[SHIPPED],
            "intents",
            "1.1.0",
            description="a sample",
            parent="1.0.0",
            holdout_rows=by_intent.tail(1)[SHIPPED],
        )
        publish(
            latest.groupby("intent").head(2)[SHIPPED],
            "intents",
            "1.2.0",
            description="a sample",
            parent="1.1.0",
        )
        publish(
            outside.groupby("kind").head(3)[["id", "query", "kind", "language"]],
            "out_of_scope",
            "1.1.0",
            description="a sample",
            task="out_of_scope",
        )


@pytest.fixture(scope="session")
def finished_smoke(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> tuple[Path, RunRecord, Path, str]:
    """Home, record, run directory and store of one run of all shipped notebooks, smoke profile.

    It takes minutes, so its users are all in test_smoke.py: a file has one process.
    """
    home = tmp_path_factory.mktemp("smoke")
    shutil.copy(empty_store, home / "mlflow.db")
    store, lines = f"sqlite:///{home}/mlflow.db", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIVESH_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", store)
        copy_notebooks(home)
        publish_sample(home)
        backbone = f"BACKBONE={tiny()}"  # nbval takes the real one
        record, run = run_pipeline(profile="smoke", settings=[backbone], report=lines.append)
    assert {step.status for step in record.steps.values()} == {"done"}, lines
    return home, record, run.path, store


@pytest.fixture
def change() -> Callable[[Path, str, list[str]], None]:
    """Rewrite one toy notebook."""

    def rewrite(home: Path, name: str, cells: list[str]) -> None:
        write_notebook(home / "notebooks" / f"{name}.ipynb", cells)

    return rewrite
