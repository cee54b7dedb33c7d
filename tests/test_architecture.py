"""The import table of the library: which part may use which, and where heavy packages live."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nivesh_lib

PACKAGE = Path(nivesh_lib.__file__).parent
CORE = {"errors", "paths", "reproducibility", "privacy", "records", "ledger"}
MAY_IMPORT = {
    "errors": set(),
    "paths": set(),
    "reproducibility": CORE,
    "privacy": CORE,
    "records": set(),
    "ledger": CORE,
    "data": CORE | {"data"},
    "models": CORE | {"models", "data.schema"},
    "evaluation": CORE | {"evaluation"},
    "tracking": CORE | {"tracking"},
    "reporting": CORE | {"reporting"},
    "serving": CORE | {"serving", "models.base", "tracking.registry"},
    "pipeline": CORE | {"pipeline", "data.versions", "tracking.runs", "reporting.site"},
}
HOMES = {
    "pandera": {"data"},
    "torch": {"models"},
    "transformers": {"models"},
    "onnx": {"models"},
    "onnxruntime": {"models"},
    "mlflow": {"tracking"},
    "evidently": {"reporting"},
    "matplotlib": {"reporting"},
    "jinja2": {"reporting"},
    "nbconvert": {"reporting"},
    "fairlearn": {"evaluation"},
    "cleanlab": {"evaluation"},
    "fastapi": {"serving"},
    "prometheus_client": {"serving"},
    "papermill": {"pipeline"},
    "ray": {"pipeline"},
}
# Run by MLflow as a script, never imported by the library.
SCRIPTS = {"tracking.pyfunc_model"}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py")
}


def imported(path: Path) -> set[str]:
    """Return every module that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
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


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("cli")])
def test_a_module_imports_only_what_its_part_may(module):
    if module in SCRIPTS:
        return
    allowed = MAY_IMPORT[part(module)]
    strange = {name for name in of_ours(MODULES[module]) if not {part(name), name} & allowed}
    assert not strange, f"{module} must not import {strange}"


@pytest.mark.parametrize("package", HOMES)
def test_a_heavy_package_lives_in_one_part(package):
    users = {
        m for m, path in MODULES.items() if package in {n.split(".")[0] for n in imported(path)}
    }
    assert {part(user) for user in users} <= HOMES[package]


def test_names_come_from_the_module_that_defines_them():
    packages = {f"nivesh_lib.{p.name}" for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
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
