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
from nivesh_lib.pipeline.spec import load_pipeline, read_notebook
from nivesh_lib.reproducibility import disable_telemetry, thread_environment

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


def execute(notebook: Path, *, keep: bool) -> None:
    """Execute a notebook at its default parameters; with ``keep``, write its outputs back.

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
    if not keep:
        return
    loaded.metadata["nivesh"] = {"executed_at": source}
    with atomic_path(notebook) as partial:
        nbformat.write(strip(loaded), partial)


def refresh(report: Any = sys.stdout.write) -> int:
    """Execute the stale notebooks and the steps that they need, in a temporary run directory."""
    wanted = stale()
    pipeline = load_pipeline(paths.notebooks_dir())
    names = [n.stem for n in wanted if n.stem != _TEMPLATE]
    steps = pipeline.with_needs(names) if names else ()
    chain = [(step.notebook, step.threads) for step in steps]
    chain += [(notebook, 1) for notebook in wanted if notebook.stem == _TEMPLATE]
    disable_telemetry()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "NIVESH_MODE": "nbval",
            "NIVESH_RUN_DIR": folder,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        for notebook, threads in chain:
            os.environ |= thread_environment(threads)
            report(f"  {notebook.name}\n")
            execute(notebook, keep=notebook in wanted)
    if not wanted:
        report("Every committed notebook was executed at its present source.\n")
    return len(wanted)


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
