"""The package's core is what serving needs: it answers without any package of the extras."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.serve_lock import LOCK, closure, core, normal, serve_lock

MODELS = REPOSITORY / "tests" / "frozen" / "models"
SERVED = ["rules", "tfidf", "static", "onnx", "cascade", "calibrated"]
# Refuses to import what the core does not install.
CORE_ALONE = """
import importlib.abc, json, sys
absent = set(json.loads(sys.argv[1]))

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            raise ModuleNotFoundError(f"{name} is not in the core", name=name)

sys.meta_path.insert(0, Refused())
"""
ANSWER = """
from nivesh_lib.serving.predictor import Predictor
for directory in sys.argv[2:]:
    (answer,) = Predictor.from_directory(directory).predict(["how do I save tax under 80C?"])
    print(answer["intent"])
"""


@pytest.fixture(scope="module")
def absent() -> set[str]:
    """The top-level modules of installed distributions that the core does not install."""
    installed = closure(core()) | {"nivesh-workbench"}
    providers = importlib.metadata.packages_distributions()
    return {name for name, by in providers.items() if not installed & {normal(one) for one in by}}


def with_the_core_alone(code: str, absent: set[str], *arguments: str):
    call = [sys.executable, "-c", CORE_ALONE + code, json.dumps(sorted(absent)), *arguments]
    return subprocess.run(call, capture_output=True, text=True, cwd=REPOSITORY)


def test_saved_models_answer_with_the_core_alone(absent):
    done = with_the_core_alone(ANSWER, absent, *(str(MODELS / kind) for kind in SERVED))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(SERVED)


@pytest.mark.parametrize(
    "call",
    [
        ["compare"],
        ["predict", "tax?", "--model", str(MODELS / "transformer")],
        ["predict", "tax?", "--model", "models:/x/1"],
    ],
    ids=["compare", "transformer", "stored"],
)
def test_what_needs_more_names_the_extra(absent, call):
    code = f"sys.argv[1:] = {call!r}\nfrom nivesh_lib.__main__ import main\nmain()"
    done = with_the_core_alone(code, absent)
    assert done.returncode == 1 and "nivesh-workbench[workbench]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_state_of_what_runs_is_told(absent, tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    call = ["status", "--url", "http://127.0.0.1:9"]
    code = f"sys.argv[1:] = {call!r}\nfrom nivesh_lib.__main__ import main\nmain()"
    done = with_the_core_alone(code, absent)
    assert done.returncode == 0 and "nothing answers" in done.stdout, done.stderr


def test_a_server_is_told_which_package_its_model_needs(absent):
    code = f"""
from nivesh_lib.errors import ModelError
from nivesh_lib.serving.classifier import IntentClassifier
try:
    IntentClassifier({str(MODELS / "transformer")!r}).load_model()
except ModelError as error:
    print(error)
"""
    done = with_the_core_alone(code, absent)
    assert "the package transformers" in done.stdout
    assert "nivesh-workbench[workbench]" in done.stdout


def test_the_core_installs_none_of_the_heavy_packages(absent):
    heavy = {"torch", "transformers", "mlflow", "pandas", "matplotlib", "evidently", "jupyterlab"}
    assert heavy <= absent


def test_the_lock_of_a_server_is_what_the_core_needs_of_the_lock():
    assert LOCK.read_text() == serve_lock(), "run `make serve-lock`"
