"""Keep the committed notebooks executed: ``python -m nivesh_lib.pipeline.refresh``.

Each committed notebook carries, in its metadata, the hash of the source that it was
executed at. A notebook whose source differs is stale.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError, StepFailed
from nivesh_lib.files import atomic_path
from nivesh_lib.pipeline.cache import sha256_source
from nivesh_lib.pipeline.run import raise_for_failures, run_pipeline
from nivesh_lib.pipeline.spec import load_pipeline, read_notebook
from nivesh_lib.reproducibility import disable_telemetry, thread_environment
from nivesh_lib.runs.layout import RunDirectory

_TEMPLATE = "_template"


def executed_at(notebook: Path) -> str:
    """Return the source hash that a notebook's outputs belong to, or nothing."""
    metadata = read_notebook(notebook).get("metadata", {})
    return str(metadata.get("nivesh", {}).get("executed_at", ""))


def is_stale(notebook: Path) -> bool:
    """Return whether a notebook's outputs belong to another source."""
    return executed_at(notebook) != sha256_source(notebook)


def notebooks() -> list[Path]:
    """Return the pipeline's notebooks in reading order, then the template."""
    folder = paths.notebooks_dir()
    steps = [step.notebook for step in load_pipeline(folder).steps]
    template = folder / f"{_TEMPLATE}.ipynb"
    return [*steps, template] if template.is_file() else steps


def stale() -> list[Path]:
    """Return the notebooks that have to be executed again."""
    return [notebook for notebook in notebooks() if is_stale(notebook)]


def strip(notebook: Any) -> Any:
    """Remove from an executed notebook what differs from one execution to the next."""
    kept = {k: notebook.metadata[k] for k in ("kernelspec", "nivesh") if k in notebook.metadata}
    notebook.metadata = {**kept, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def execute(notebook: Path) -> None:
    """Execute a notebook at its default parameters, and write its outputs back.

    Raises
    ------
    StepFailed
        A cell raised; the committed notebook stays as it was.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    source = sha256_source(notebook)
    loaded = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        loaded,
        timeout=3600,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--IPKernelApp.log_level=50"],  # else it warns of its own defaults
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise StepFailed(f"{notebook.name}: {error.ename}: {error.evalue}") from None
    loaded.metadata["nivesh"] = {"executed_at": source}
    with atomic_path(notebook) as partial:
        nbformat.write(strip(loaded), partial)


def take_over(run: RunDirectory) -> None:
    """Write the executed notebooks of a run into the committed ones: all are of one run.

    Raises
    ------
    StepFailed
        A notebook changed since the run, or the run was made with other parameters.
    """
    import nbformat

    for step in load_pipeline(paths.notebooks_dir()).steps:
        executed, source = run.notebook(step.name), sha256_source(step.notebook)
        if not executed.is_file() or sha256_source(executed) != source:
            raise StepFailed(
                f"{step.notebook.name} is not what the run {run.path.name} executed. `nivesh run` "
                "at default parameters executes it"
            )
        loaded = nbformat.read(executed, as_version=4)
        loaded.metadata["nivesh"] = {"executed_at": source}
        with atomic_path(step.notebook) as partial:
            nbformat.write(strip(loaded), partial)


def refresh(report: Any = sys.stdout.write) -> int:
    """Run the pipeline where a notebook is stale, and take its executed notebooks over."""
    wanted = stale()
    disable_telemetry()
    if any(notebook.stem != _TEMPLATE for notebook in wanted):
        made = run_pipeline(report=lambda line: report(f"{line}\n"))
        assert made is not None  # only a dry run makes none
        raise_for_failures(*made)
        take_over(made[1])
    for notebook in (notebook for notebook in wanted if notebook.stem == _TEMPLATE):
        report(f"  {notebook.name}\n")
        _execute_apart(notebook)
    if not wanted:
        report("Every committed notebook was executed at its present source.\n")
    return len(wanted)


def _execute_apart(notebook: Path) -> None:
    """Execute a notebook that is no step in a temporary run directory."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "NIVESH_MODE": "nbval",
            "NIVESH_RUN_DIR": folder,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            **thread_environment(1),
        }
        execute(notebook)


def main() -> int:
    """Refresh, list or check the notebooks; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nivesh_lib.pipeline.refresh")
    parser.add_argument("--check", action="store_true", help="fail when one is stale")
    parser.add_argument("--list", action="store_true", help="print all committed notebooks")
    parser.add_argument("--quick", action="store_true", help="with --list: only the quick ones")
    options = parser.parse_args()
    if options.list:
        steps = load_pipeline(paths.notebooks_dir()).steps
        chosen = [s.notebook for s in steps if s.quick] if options.quick else notebooks()
        sys.stdout.write("\n".join(map(paths.relative, chosen)) + "\n")
        return 0
    if options.check:
        names = [notebook.name for notebook in stale()]
        if names:
            sys.stderr.write(f"stale: {', '.join(names)}. `make notebooks` executes them again\n")
        return bool(names)
    try:
        refresh()
    except NiveshError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
