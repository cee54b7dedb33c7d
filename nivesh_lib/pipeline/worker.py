"""Execute one notebook in its own process: ``python -m nivesh_lib.pipeline.worker job.json``.

The record ``steps/<step>.json`` is written last. A step without one was not
finished, whatever other files exist.
"""

from __future__ import annotations

# ruff: noqa: E402
import sys

# jsonschema would parse a grammar of IRIs for a second at each start; notebooks hold none.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import contextlib
import itertools
import json
import os
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from nivesh_lib.files import atomic_path, locked, sha256_file, write_text
from nivesh_lib.pipeline.spec import changed_parameters
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.run import FinishedStep
from nivesh_lib.reporting.html import render_notebook
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.tracking.logger import attach, close_run

_KEPT = 10_000  # characters of the beginning, and of the end, of one long output
_MARGIN = 1_000  # characters beyond, so that personal data at the cut is seen whole
_KEPT_HTML = 200_000  # characters of a table; it is kept whole or not at all


class _OneAtATimeClient(PapermillNotebookClient):
    """Start kernels under a lock: those that start together can choose the same port."""

    async def async_start_new_kernel(self, **kwargs: Any) -> None:
        run = RunDirectory(Path(os.environ["NIVESH_RUN_DIR"]))
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(locked(run.partial("").parent))
        try:
            await super().async_start_new_kernel(**kwargs)
        except BaseException:
            self._lock.close()
            raise

    async def async_start_new_kernel_client(self, **kwargs: Any) -> Any:
        try:
            return await super().async_start_new_kernel_client(**kwargs)
        finally:
            self._lock.close()


class _Engine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, execution_timeout: int, **kwargs: Any
    ) -> Any:
        client = _OneAtATimeClient(
            nb_man,
            kernel_name=kernel_name,
            timeout=execution_timeout,
            extra_arguments=["--IPKernelApp.log_level=50"],  # else it warns of its own defaults
        )
        return client.execute()


def _die_with_parent() -> None:
    """End this process and its kernel when the pipeline process that started it ends."""
    parent = int(os.environ.get("NIVESH_PARENT_PID", "0"))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def _execute(job: dict[str, Any], output: Path) -> dict[str, Any] | None:
    """Run the notebook; return None, or the cause, detail and cell of its failure."""
    papermill_engines.register("nivesh", _Engine)
    try:
        papermill.execute_notebook(
            job["notebook"],
            str(output),
            parameters=changed_parameters(Path(job["notebook"]), job["parameters"]),
            engine_name="nivesh",
            kernel_name="python3",
            cwd=str(Path(job["notebook"]).parent),
            language="python",  # a notebook's metadata may lack it
            progress_bar=False,
            log_output=False,
            execution_timeout=job["timeout_s"],
        )
    except PapermillExecutionError as error:
        cause = "the memory is used up" if error.ename == "MemoryError" else "exception"
        return _failure(cause, f"{error.ename}: {error.evalue}", error.exec_count)
    except NoSuchKernel:
        return _failure("missing kernel", "no kernel `python3`. `make clean run` installs it again")
    except CellTimeoutError:
        return _failure("timeout", f"a cell took longer than {job['timeout_s']} s")
    except DeadKernelError:
        return _failure("the kernel died", "killed, most often because the memory is used up")
    except Exception as error:
        traceback.print_exc()
        return _failure(type(error).__name__, str(error))
    return None


def _failure(cause: str, detail: str, cell: int | None = None) -> dict[str, Any]:
    return {"cause": cause, "detail": _clean(detail)[:500], "cell": cell}


def _last_cell(notebook: Any) -> int | None:
    """Return the number of the cell at which execution stopped."""
    numbers = [cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code"]
    return max((n for n in numbers if n), default=None)


def _clean(text: str) -> str:
    """Return a text anonymised; of a long one only the beginning and the end."""
    if len(text) <= 2 * (_KEPT + _MARGIN):
        return anonymize_query(text)
    left_out = f"\n[{len(text) - 2 * _KEPT:,} characters left out here]\n"
    # The cut may go through personal data, so it is made where both of its sides were seen.
    head = anonymize_query(text[: _KEPT + _MARGIN])[:-_MARGIN]
    tail = anonymize_query(text[-_KEPT - _MARGIN :])[_MARGIN:]
    return head + left_out + tail


def _clean_data(data: dict[str, Any]) -> None:
    """Clean the textual forms of one output in place."""
    for mime, content in list(data.items()):
        if not (mime.startswith("text/") and isinstance(content, str)):
            continue
        if mime != "text/html":
            data[mime] = _clean(content)
        elif len(content) <= _KEPT_HTML:
            data[mime] = anonymize_query(content)
        else:  # half a table would break the page; the plain form is shown in its place
            del data[mime]
            data.setdefault("text/plain", f"[{len(content):,} characters of HTML left out here]")


def _join_streams(outputs: list[Any]) -> list[Any]:
    """Return the outputs with neighbouring parts of one stream joined."""
    joined: list[Any] = []
    for stream, group in itertools.groupby(outputs, key=lambda output: output.get("name")):
        parts = list(group)
        if stream:  # outputs of other kinds have no name
            parts[0].text = "".join(part.text for part in parts)
        joined += parts[:1] if stream else parts
    return joined


def _clean_outputs(notebook: Any) -> None:
    """Shorten and anonymise all textual outputs of cells: any of them may quote a query."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = _join_streams(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _clean(output.text)
            elif output.output_type == "error":
                output.evalue = _clean(output.evalue)
                output.traceback = [_clean(line) for line in output.traceback]
            _clean_data(output.get("data", {}))


def _keep(notebook: Any, kept: Path, *, dataset: str, remarks: bool) -> list[Path]:
    """Write the executed notebook and its page, cleaned, and return both."""
    _clean_outputs(notebook)
    with atomic_path(kept) as partial:
        nbformat.write(notebook, partial)
    page = kept.with_suffix(".html")
    write_text(page, render_notebook(notebook, step=kept.stem, dataset=dataset, remarks=remarks))
    return [kept, page]


def main(job_file: str) -> int:
    """Execute the job and write its record; return the exit code."""
    job = json.loads(Path(job_file).read_text())
    _die_with_parent()
    run, step = RunDirectory(Path(job["run_dir"])), job["step"]
    executed = run.partial(f"{step}.ipynb")
    started = time.time()
    failure = _execute(job, executed)
    cells, kept = 0, []
    if executed.is_file():
        notebook = nbformat.read(executed, as_version=4)
        cells = sum(cell.cell_type == "code" for cell in notebook.cells)
        if failure and failure["cell"] is None:
            failure["cell"] = _last_cell(notebook)
        dataset = str(job["parameters"].get("DATASET", ""))
        kept = _keep(notebook, run.notebook(step), dataset=dataset, remarks=job["remarks"])
        executed.unlink()
    mlflow_run_id = run.open_steps().get(step) or None
    if mlflow_run_id:
        attach(mlflow_run_id, kept)
        close_run(mlflow_run_id, "FAILED" if failure else "FINISHED")
    record = {
        "step": step,
        "status": "failed" if failure else "done",
        **{name: job[name] for name in ("key", "ingredients", "parameters", "threads")},
        "mlflow_run_id": mlflow_run_id,
        "cells": cells,
        "seconds": round(time.time() - started, 1),
        "failure": failure,
        "files": {str(p.relative_to(run.path)): sha256_file(p) for p in run.files_of(step)},
    }
    run.write_finished(step, FinishedStep.model_validate(record))
    run.close_step(step)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
