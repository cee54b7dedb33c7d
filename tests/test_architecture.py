"""The import table of the library: which part may use which, and where heavy packages live."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import nivesh_lib

PACKAGE = Path(nivesh_lib.__file__).parent
CORE = {
    "wording",
    "errors",
    "terminal",
    "files",
    "paths",
    "reproducibility",
    "privacy",
    "records",
    "hash_chain",
    "ledger",
}
MODELS = {"models.base", "models.directory"}
EVALUATION = {"evaluation.scores", "evaluation.intervals", "evaluation.resampling"}
# A package or module -> the packages and modules that it may import beside its own.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "terminal": set(),
    "paths": set(),
    "wording": {"records"},
    "files": {"errors"},
    "records": {"errors", "files", "paths"},
    "reproducibility": CORE,
    "privacy": CORE,
    "hash_chain": CORE,
    "ledger": CORE,
    "data": CORE,
    "models.directory": CORE,
    "models.base": CORE | {"models.directory"},
    "models.text": CORE | MODELS,
    "models.neural": CORE | MODELS | {"models.text"},
    "models.wrappers": CORE | MODELS | {"models.text", "models.neural"},
    "models.compact": CORE | MODELS | {"models.text", "models.neural", "models.wrappers"},
    # Of the models, only the telling of languages.
    "evaluation": CORE
    | EVALUATION
    | {"evaluation.robustness", "models.text.hinglish", "models.wrappers.ensemble"},
    "evaluation.resampling": CORE | {"evaluation.scores", "evaluation.intervals"},
    "evaluation.confidence": CORE | EVALUATION,
    "evaluation.robustness": CORE | EVALUATION,
    "evaluation.findings": CORE
    | EVALUATION
    | {"evaluation", "evaluation.confidence", "evaluation.robustness", "evaluation.compression"},
    "evaluation.compression": CORE | EVALUATION | {"evaluation", "evaluation.confidence"},
    "tracking": CORE | {"data.versions", "models.directory"},
    # Aliases say what the log says, so the registry reads the log itself.
    "tracking.registry": CORE | {"releases.log", "tracking"},
    "runs": CORE
    | {"data.versions", "models.base", "evaluation.resampling", "evaluation.scores"}
    | {"tracking.logger"},
    # Where the stages meet.
    "notebook": CORE
    | {"data.versions", "data.leakage", "data.validation", "evaluation", "evaluation.findings"}
    | {"data.schema", "data.splits", "models.neural", "models.text"}
    | {"data.importing", "data.publishing", "data.review", "models.directory"}
    | {"evaluation.resampling", "evaluation.robustness", "evaluation.confidence"}
    | {"evaluation.compression", "evaluation.scores", "models", "models.base", "models.wrappers"}
    | {"runs", "tracking.logger", "reporting", "reporting.figures", "reporting.findings"}
    | {"releases", "serving"},
    "releases": CORE
    | {"data", "models.wrappers", "evaluation", "evaluation.confidence", "runs"}
    | MODELS
    | {"tracking.registry", "tracking.store"},
    "releases.log": CORE,
    # A run is made again, so it reads what a run leaves and which steps one consists of.
    "releases.reproduce": CORE
    | {"data.versions", "evaluation.confidence", "evaluation.resampling", "pipeline.cache"}
    | MODELS
    | {"pipeline.spec", "runs"},
    "reporting": CORE | {"runs", "releases.log"},
    # The verdict on drift is that of `nivesh drift`, and the one on a canary is written where it
    # is found; the core has what both need.
    "serving": CORE
    | MODELS
    | {
        "evaluation.drift",
        "evaluation.intervals",
        "evaluation.sequential",
        "runs",
        "tracking.models",
    }
    | {"releases.canary", "releases.log", "releases.package"},
    "pipeline": CORE
    | {"data.versions", "runs", "tracking.store", "tracking.logger", "tracking.removal"}
    | {"reporting.html"},
    # What of a run is committed: pages, pictures, tables, and a model that answers before any run.
    "pipeline.showcase": CORE
    | {"data.versions", "models.base", "reporting.figures", "runs", "serving.predictor"},
    # No command imports another.
    "cli": CORE
    | {"data", "evaluation", "runs", "releases", "serving", "pipeline"}
    | {"cli.options"},
    "cli.drift": CORE
    | {"cli.options", "data", "evaluation", "evaluation.findings", "models.base", "runs"}
    | {"serving", "reporting"},
    "cli.doctor": CORE | {"cli.options", "models.neural", "tracking.store"},
    "cli.app": {"cli"} | CORE | {"data", "evaluation", "runs", "serving", "pipeline"},
}
HOMES = {
    "fcntl": {"files"},
    "pydantic": {"records", "runs", "notebook", "pipeline", "serving"},
    "statsmodels": {"evaluation"},
    "pandera": {"data"},
    "torch": {"models"},
    "transformers": {"models"},
    "onnx": {"models"},
    "onnxruntime": {"models"},
    "mlflow": {"tracking"},
    "evidently": {"reporting"},
    "bleach": {"reporting"},
    "bs4": {"reporting"},
    "matplotlib": {"reporting"},
    "jinja2": {"reporting", "releases"},
    "huggingface_hub": {"models", "releases"},
    "nbconvert": {"reporting"},
    "cleanlab": {"evaluation"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "structlog": {"serving"},
    "cachetools": {"serving"},
    "prometheus_client": {"serving"},
    "papermill": {"pipeline"},
    "ray": {"pipeline"},
    "model_signing": {"releases"},
}
# Run by MLflow as a script, never imported by the library.
SCRIPTS = {"tracking.pyfunc_model"}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py")
}


@functools.cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path) -> set[str]:
    """Return every module that a file imports, at its top or inside functions."""
    found = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of_ours(path: Path) -> set[str]:
    ours = {name.removeprefix("nivesh_lib.") for name in imported(path) if "nivesh_lib" in name}
    return {name for name in ours if name in MODULES}


def part(module: str) -> str:
    return module.split(".")[0]


def package(module: str) -> str:
    return module.rpartition(".")[0] or module


def rule(module: str) -> str:
    """Return the row of the table that holds for a module: its own, or its package's."""
    return module if module in MAY_IMPORT else package(module)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_part_may(module):
    if module in SCRIPTS:
        return
    own = set() if package(module) == "cli" else {package(module)}
    allowed = MAY_IMPORT[rule(module)] | own
    strange = {name for name in of_ours(MODULES[module]) if not {package(name), name} & allowed}
    assert not strange, f"{module} must not import {strange}"


def test_every_row_of_the_table_is_of_a_package_or_module():
    packages = {package(module) for module in MODULES}
    assert set(MAY_IMPORT) <= packages | set(MODULES)


@pytest.mark.parametrize("package", HOMES)
def test_a_heavy_package_lives_in_one_part(package):
    users = {
        m for m, path in MODULES.items() if package in {n.split(".")[0] for n in imported(path)}
    }
    assert {part(user) for user in users} <= HOMES[package]


def test_names_come_from_the_module_that_defines_them():
    packages = {f"nivesh_lib.{package(module)}" for module in MODULES if "." in module}
    for module, path in MODULES.items():
        for node in imports(path):
            if isinstance(node, ast.ImportFrom) and node.module in packages:
                names = {f"{node.module}.{a.name}".removeprefix("nivesh_lib.") for a in node.names}
                assert names <= set(MODULES), f"{module} imports from the package {node.module}"


def test_there_is_no_import_circle():
    graph = {module: of_ours(path) for module, path in MODULES.items()}
    done: set[str] = set()
    while len(done) < len(graph):
        free = {m for m, needs in graph.items() if m not in done and needs <= done}
        assert free, f"a circle among {sorted(set(graph) - done)}"
        done |= free


def test_all_says_what_is_there():
    assert all(hasattr(nivesh_lib, name) for name in nivesh_lib.__all__)


def test_only_the_layout_names_the_files_of_a_run():
    names = {"run.json", "index.html"}
    for module, path in MODULES.items():
        strings = {
            n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)
        }
        assert module == "runs.layout" or not names & strings, f"{module}: {names & strings}"


def test_one_module_opens_the_files_of_model_directories():
    opening = {"open", "read_text", "read_bytes", "load_file", "safe_open", "from_pretrained"}
    # What else they read: a person's rules, the package's own glosses, checkpoints after a check.
    others = {"models.text.rules": {"read_text"}, "models.text.hinglish": {"read_text"}}
    others["models.neural.backbones"] = {"from_pretrained"}
    others["models.directory"] = opening
    for module in (name for name in MODULES if part(name) == "models"):
        calls = [
            n for n in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(n, ast.Call)
        ]
        # A function of that name is `directory.read_bytes`, which takes the folder.
        names = {c.func.attr for c in calls if isinstance(c.func, ast.Attribute)}
        names |= {c.func.id for c in calls if isinstance(c.func, ast.Name)} - {"read_bytes"}
        assert not (names & opening) - others.get(module, set()), module
