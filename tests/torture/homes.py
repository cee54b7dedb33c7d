"""Home folders to be tormented: one of tiny notebooks, one of the shipped ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from nivesh_lib.tracking.store import prepare_store
from tests.models.conftest import tiny
from tests.pipeline.conftest import build_home, copy_notebooks, publish_sample, write_notebook

# As the real notebooks do: data, a session, a model, a table, results; all of it in MLflow too.
MODEL = """
import pandas as pd
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.models.text.tfidf import TfidfClassifier
from nivesh_lib.notebook.session import start_run
run = start_run("{name}", {{"DATASET": DATASET}})
data = load_dataset(DATASET)
model = TfidfClassifier(word_ngram_max=1, char_ngram_max=0)
model.fit(data.train["query"], data.train["intent"])
proba = pd.DataFrame(model.predict_proba(data.train["query"]), columns=list(model.classes_))
table = pd.concat([data.train[["id", "fold"]].reset_index(drop=True), proba], axis=1)
result = {{"headline": "a model", "metrics": {{"mean": float(proba.iloc[:, 0].mean())}}}}
run.log(result, dataset=data, model=model, oof=table)
"""
RESULT = """
from nivesh_lib.notebook.session import start_run
run = start_run("{name}", {{"DATASET": DATASET}})
run.log({{"headline": "said by {name}", "metrics": {{"one": 1.0}}}})
"""
NOTEBOOKS = {"01_a": MODEL, "02_b": RESULT, "03_c": RESULT}  # 02_b needs 01_a
DATASETS = {"tiny": "toy@1.0.0", "smoke": "intents@1.1.0"}


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command in a home: nothing of this process's own project."""
    ours = ("NIVESH_", "MLFLOW_", "GIT_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "NIVESH_HOME": str(home),
        "GIT_CEILING_DIRECTORIES": str(home.parent),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_OFFLINE": "1",
    }


def build(kind: str, home: Path) -> Path:
    """Make the home of a kind, ``tiny`` or ``smoke``, with an empty MLflow store; return it."""
    home.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home).items():
            patch.setenv(name, value)
        if kind == "smoke":
            copy_notebooks(home)
            publish_sample(home)
            shutil.copytree(tiny(), home / "backbone")
        else:
            build_home(home)
            for name, source in NOTEBOOKS.items():
                write_notebook(home / "notebooks" / f"{name}.ipynb", [source.format(name=name)])
        prepare_store()
    return home


def command(kind: str, home: Path, only: Sequence[str] = ()) -> list[str]:
    """Return the arguments of ``python -m nivesh_lib`` that run the pipeline of a kind."""
    run = ["run", "--dataset", DATASETS[kind]]
    if kind == "tiny":
        return run
    chosen = [f"--only={step}" for step in only] or ["--set", f"BACKBONE={home / 'backbone'}"]
    return [*run, "--profile", "smoke", *chosen]
