from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nivesh_lib.data.publishing import publish
from nivesh_lib.pipeline.run import run_pipeline

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


@pytest.fixture
def change() -> Callable[[Path, str, list[str]], None]:
    """Rewrite one toy notebook."""

    def rewrite(home: Path, name: str, cells: list[str]) -> None:
        write_notebook(home / "notebooks" / f"{name}.ipynb", cells)

    return rewrite
