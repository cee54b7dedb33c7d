"""Executors of notebooks: one interface; ``local`` starts a process for each notebook."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nivesh_lib.errors import SpecError
from nivesh_lib.reproducibility import NO_TELEMETRY, thread_environment
from nivesh_lib.runs.layout import RunDirectory


@dataclass(frozen=True)
class Job:
    """The inputs of one notebook's execution, as JSON-serialisable values."""

    step: str
    notebook: str
    run_dir: str
    parameters: dict[str, Any]
    remarks: bool
    key: str
    ingredients: dict[str, Any]
    threads: int
    timeout_s: int
    tracking_uri: str


class LocalExecutor:
    """One process for each notebook on this machine; it leaves a record in the run directory."""

    def __init__(self, slots: int | None = None) -> None:
        self.slots = slots or max(1, os.cpu_count() or 1)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, job: Job) -> None:
        """Start a worker process in a process group of its own."""
        run = RunDirectory(Path(job.run_dir))
        log, request = run.log(job.step), run.partial(f"{job.step}.job.json")
        log.parent.mkdir(parents=True, exist_ok=True)
        request.write_text(json.dumps(asdict(job)))
        environment = {
            **os.environ,
            **NO_TELEMETRY,
            **thread_environment(job.threads),
            "NIVESH_RUN_DIR": job.run_dir,
            "NIVESH_RUN_ID": run.name,
            "NIVESH_MODE": "pipeline",
            "NIVESH_PARENT_PID": str(os.getpid()),
            "MLFLOW_TRACKING_URI": job.tracking_uri,
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        with log.open("wb") as output:
            self._running[job.step] = subprocess.Popen(
                [sys.executable, "-m", "nivesh_lib.pipeline.worker", str(request)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> list[str]:
        """Return the steps whose process ended."""
        while True:
            ended = [step for step, process in self._running.items() if process.poll() is not None]
            if ended or not self._running:
                for step in ended:
                    del self._running[step]
                return ended
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill the workers and their child processes."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()


EXECUTORS = {"local": LocalExecutor}


def get_executor(name: str, slots: int | None = None) -> LocalExecutor:
    """Return the executor registered under ``name``."""
    if name not in EXECUTORS:
        raise SpecError(f"unknown executor {name!r}; there are: {', '.join(EXECUTORS)}")
    return EXECUTORS[name](slots)
