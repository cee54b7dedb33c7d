from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "torch transformers mlflow pandas sklearn evidently papermill"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("nivesh_lib", f"{HEAVY} numpy matplotlib typer"),
        ("nivesh_lib.__main__", f"{HEAVY} numpy matplotlib typer"),
        ("nivesh_lib.cli.app", f"{HEAVY} matplotlib"),
        ("nivesh_lib.releases.promotion", f"{HEAVY} scipy statsmodels"),
    ],
)
def test_importing_loads_no_heavy_library(module, absent):
    code = f"import sys, {module}; print(*sorted(set({absent.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
