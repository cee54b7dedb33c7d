from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

gc.disable()  # until tests are collected: each import would have it look through the others
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks of two layers gain nothing from more
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin slow the other tests

REPOSITORY = Path(__file__).resolve().parent.parent
LABELS = ("tax_planning", "loan_inquiry", "goal_planning")
SYLLABLES = ("ka", "ri", "mo", "tel", "dun", "ba", "shi", "vor", "en", "gul", "pim", "ozo", "tra")


# Started first, the longest before the others, so that processes end together.
LONGEST = (
    *("test_smoke.py", "test_run.py", "test_contract.py", "test_smoke_other_data.py"),
    *("test_release.py", "test_optimized.py", "test_onnx_classifier.py", "test_versions.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where processes share the tests, start the longest files first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish() -> None:
    """Keep what is there by now, modules above all, out of every later garbage collection."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _modules_out_of_the_collector() -> None:
    """Do the same for what tests of other files imported: a whole collection takes 0.3 s then."""
    gc.collect(1)
    gc.freeze()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated MLflow database without runs; making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("store")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    try:
        from nivesh_lib.tracking.store import prepare_store

        prepare_store()
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking store of the test's own, set as the one in use."""
    database = tmp_path / "mlruns" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(empty_store, database)
    uri = f"sqlite:///{database}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the garbage collection before each timing: here it takes a third of a second."""
    monkeypatch.setattr("nivesh_lib.evaluation.benchmark._frozen_objects", contextlib.nullcontext)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder of the test's own."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def make_rows() -> Callable[..., pd.DataFrame]:
    """Rows whose texts are made of invented words, so that none is near another."""

    def make(n: int, seed: int = 0, labels: tuple[str, ...] = LABELS, **columns) -> pd.DataFrame:
        rng = random.Random(seed)
        texts = [" ".join("".join(rng.choices(SYLLABLES, k=3)) for _ in range(6)) for _ in range(n)]
        intents = [labels[i % len(labels)] for i in range(n)]
        return pd.DataFrame({"query": texts, "intent": intents, **columns})

    return make
