"""What stays while modules move: help, validation, comparison, report, answers of saved models.

``NIVESH_RENEW_FROZEN=1`` writes the expected files anew in place of comparing, so that git shows
what changed. The saved home and the saved models are inputs: they are never written again.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from nivesh_lib.cli.app import app
from nivesh_lib.models.base import load_model
from nivesh_lib.reporting.html import write_report
from nivesh_lib.runs.layout import RunDirectory

FROZEN = Path(__file__).resolve().parent
REPOSITORY = FROZEN.parent.parent
RUN = "20260125-101500"
RENEW = os.environ.get("NIVESH_RENEW_FROZEN") == "1"
HOW = "If that is meant: NIVESH_RENEW_FROZEN=1 pytest tests/frozen, then read git diff."
BAD = """query,intent
how do i save tax under 80c this year,tax
how do i save tax under 80c this year,tax
how do i save tax under 80c this year,rent
how do i save the tax under 80c this year,tax
my pan is ABCPE1234F and my number 9876543210, tax
write to asha@example.com about the rent,Rent
is the rent of 20000 too high for me,rent
   ,rent
pay rent or buy,
x,loan?
"""
MODELS = sorted(path.name for path in (FROZEN / "models").iterdir() if path.is_dir())
TOLERANCE = {"onnx": 0.05, "abstaining": 1e-4}  # int8 sums and distances vary with the processor


def compare_text(name: str, found: str) -> None:
    path = FROZEN / name
    if RENEW:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(found.encode())
    kept = path.read_bytes().decode() if path.is_file() else ""
    if kept != found:  # pytest's own comparison of long pages takes minutes
        lines = difflib.unified_diff(kept.splitlines(), found.splitlines(), "kept", "found", n=0)
        shown = "\n".join(line[:200] for line, _ in zip(lines, range(20), strict=False))
        pytest.fail(f"{name} changed. {HOW}\n{shown}", pytrace=False)


def compare_json(name: str, found: Any, tolerance: float) -> None:
    path = FROZEN / name
    if RENEW:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    shown = "\n".join(list(differences(kept, found, tolerance))[:20])
    assert not shown, f"{name} changed. {HOW}\n{shown}"


def differences(kept: Any, found: Any, tolerance: float, at: str = "") -> Iterator[str]:
    """Yield where two JSON values differ; the order of names counts, as a reader sees it."""
    if isinstance(kept, dict) and isinstance(found, dict) and list(kept) == list(found):
        for name in kept:
            yield from differences(kept[name], found[name], tolerance, f"{at}.{name}")
    elif isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        for n, pair in enumerate(zip(kept, found, strict=True)):
            yield from differences(*pair, tolerance, f"{at}[{n}]")
    elif isinstance(kept, float) and isinstance(found, float):
        if found != pytest.approx(kept, rel=tolerance, abs=tolerance):
            yield f"{at}: {kept} is now {found}"
    elif type(kept) is not type(found) or kept != found:
        yield f"{at}: {kept!r} is now {found!r}"


def invoke(*arguments: str, exit_code: int = 0) -> str:
    environment = {"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    done = CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)
    assert done.exit_code == exit_code, done.output
    return done.output


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


HELP = {"-".join(("nivesh", *path)): path for path in commands(typer.main.get_command(app))}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the saved home: a dataset, a run of three models and a ledger of openings."""
    folder = shutil.copytree(FROZEN / "home", tmp_path / "home")
    monkeypatch.setenv("NIVESH_HOME", str(folder))
    return folder


@pytest.mark.parametrize("name", HELP)
def test_help(name):
    compare_text(f"help/{name}.txt", invoke(*HELP[name], "--help"))


def test_no_command_is_gone():
    for path in (FROZEN / "help").glob("*.txt"):
        if RENEW and path.stem not in HELP:
            path.unlink()
        else:
            assert path.stem in HELP, f"a command is gone. {HOW}"


def test_validation_of_the_own_data(monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(REPOSITORY))
    found = json.loads(invoke("data", "validate", "intents@1.1.0", "--json"))
    compare_json("validate/intents.json", found, 1e-9)


def test_validation_of_bad_data(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(BAD, encoding="utf-8")
    found = json.loads(invoke("data", "validate", str(path), "--json", exit_code=1))
    compare_json("validate/bad.json", found, 1e-9)


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy"])
def test_comparison(home, metric):
    found = json.loads(invoke("compare", RUN, "--metric", metric, "--json"))
    compare_json(f"compare/{metric}.json", found, 1e-6)


def test_comparison_as_text(home):
    compare_text("compare/macro_f1.txt", invoke("compare", RUN))


def test_report(home, tmp_path):
    run = shutil.copytree(REPOSITORY / "reports" / "example", tmp_path / "run")
    (run / "index.html").unlink()
    for path in (run / "results").glob("*.json"):
        for figure in json.loads(path.read_text(encoding="utf-8")).get("figures", []):
            (run / figure["file"]).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(run / figure["file"])
    compare_text("report.html", write_report(RunDirectory(run)).read_bytes().decode())


@pytest.mark.parametrize("name", MODELS)
def test_saved_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the encoder that it was fitted with is not here
    path = FROZEN / "models" / "expected.json"
    expected = json.loads(path.read_text(encoding="utf-8"))
    model = load_model(FROZEN / "models" / name)
    found = {
        "kind": model.kind,
        "classes": model.classes_.tolist(),
        "proba": model.predict_proba(expected["texts"]).tolist(),
    }
    if hasattr(model, "accepts"):
        found["accepts"] = model.accepts(expected["texts"]).tolist()
        found["certainty"] = model.certainty(expected["texts"]).tolist()
    if RENEW:
        expected["models"][name] = found
        path.write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    shown = "\n".join(differences(expected["models"][name], found, TOLERANCE.get(name, 1e-5)))
    assert not shown, f"the saved {name} answers otherwise. {HOW}\n{shown}"


def test_every_saved_model_has_its_answers():
    expected = json.loads((FROZEN / "models" / "expected.json").read_text(encoding="utf-8"))
    assert sorted(expected["models"]) == MODELS, "a model or its answers were left out"
