"""Speed and memory of a saved model, measured in a process of its own.

Numeric libraries take the number of their threads when they are loaded, and memory that something
else has used cannot be told from a model's: so a fresh process loads the model, with both fixed.
It is started as ``python -m nivesh_lib.evaluation.isolated``; what it reads is JSON on its standard
input, so that no query is written to a file.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import ModelError
from nivesh_lib.evaluation.latency import BATCH_SIZES, Speed, check_queries, speed_of
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.reproducibility import thread_environment

# As text, since a process that only waits for the numbers needs no model.
LOADER = "nivesh_lib.models.base:load_model"


def speed_in_process(
    model_directory: Path | str,
    queries: Sequence[str],
    *,
    threads: Sequence[int] = (1, 2),
    batch_sizes: Sequence[int] = BATCH_SIZES,
    warmup: int = 10,
    repeats: int = 200,
    seconds: float = 5.0,
    loader: str = LOADER,
) -> list[Speed]:
    """Time a saved model with each number of threads, each in a fresh process; see `speed_of`.

    Parameters
    ----------
    loader : str
        ``module:function`` that takes the directory as text and returns something with
        ``predict``, or a callable that takes a list of queries.

    Raises
    ------
    ModelError
        The process ended without an answer; the message has its last words.
    """
    return _measured(
        model_directory,
        queries,
        threads=threads,
        batch_sizes=batch_sizes,
        warmup=warmup,
        repeats=repeats,
        seconds=seconds,
        loader=loader,
    )[0]


def _measured(
    directory: Path | str,
    queries: Sequence[str],
    *,
    batch_sizes: Sequence[int],
    threads: Sequence[int] = (1, 2),
    loader: str = LOADER,
    **limits: Any,
) -> tuple[list[Speed], int]:
    """Return the speeds, and the most memory that one of the processes held."""
    what = {"speed": {"batch_sizes": list(batch_sizes), **limits}}
    told = [_ask(directory, queries, number, loader, what) for number in threads]
    rows = [row for one in told for row in one["speeds"]]
    speeds = [Speed(**{**row, "flags": tuple(row["flags"])}) for row in rows]
    return speeds, max((one["peak"] for one in told), default=0)


def peak_memory_of(
    model_directory: Path | str,
    queries: Sequence[str],
    *,
    batch_size: int = 32,
    threads: int = 1,
    loader: str = LOADER,
) -> int:
    """Return the most memory a fresh process held that loads a model and answers, in bytes.

    Resident memory, the interpreter and its libraries in it: what a server has to have. Queries
    are asked in batches. ``loader`` and errors: see `speed_in_process`.

    Raises
    ------
    ValueError
        ``batch_size`` or ``threads`` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"a batch of {batch_size} queries: need at least one")
    peak: int = _ask(model_directory, queries, threads, loader, {"memory": batch_size})["peak"]
    return peak


def as_served(
    model: Any, queries: Sequence[str], *, batch_sizes: Sequence[int] = BATCH_SIZES, **options: Any
) -> tuple[list[Speed], int]:
    """Save a model, and return its speeds and its peak memory in bytes in fresh processes.

    ``options`` are those of `speed_in_process`; a batch holds no more than all distinct queries.
    The memory is the most that any of its processes held. The saved files are gone afterwards.

    Raises
    ------
    ValueError
        No queries.
    """
    check_queries(queries)
    sizes = sorted({min(size, len(set(queries))) for size in batch_sizes})
    with tempfile.TemporaryDirectory() as folder:
        saved = model.save(Path(folder) / "model")
        return _measured(saved, queries, batch_sizes=sizes, **options)


def _ask(
    directory: Path | str, queries: Sequence[str], threads: int, loader: str, what: dict[str, Any]
) -> dict[str, Any]:
    if threads < 1:
        raise ValueError(f"threads {threads!r} is not 1 or more")
    check_queries(queries)
    job = {"directory": str(directory), "queries": list(queries), "loader": loader, **what}
    library = str(paths.package_dir().parent)
    known = os.pathsep.join([library, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "nivesh_lib.evaluation.isolated"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, **thread_environment(threads), "PYTHONPATH": known},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(
            f"{directory}: could not be measured ({anonymize_query(lines[-1][:500])}). "
            "Load it and ask it in this process to see why"
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    module, _, name = job["loader"].partition(":")
    model = getattr(importlib.import_module(module), name)(job["directory"])
    predict = getattr(model, "predict", model)
    queries = job["queries"]
    speeds: list[Speed] = []
    if "speed" in job:
        speeds = speed_of(predict, queries, **job["speed"])
    else:
        for start in range(0, len(queries), job["memory"]):
            predict(queries[start : start + job["memory"]])
    return {"speeds": [speed.as_dict() for speed in speeds], "peak": _peak_bytes()}


def _peak_bytes() -> int:
    """Return the most memory that this process held so far."""
    # Not getrusage on Linux: its maximum outlives exec, so that it can be the parent's.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Read a job from standard input and write its answer as the last line of the output."""
    told, sys.stdout = sys.stdout, sys.stderr  # a library that prints does so beside the answer
    answer = _answer(json.load(sys.stdin))
    told.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
