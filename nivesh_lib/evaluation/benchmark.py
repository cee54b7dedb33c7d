"""Latency, throughput, size on disk and peak memory of models.

Times are measured in this process, in turns with other models, or in subprocesses that load the
saved model with a fixed number of threads, as a server would.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib import paths
from nivesh_lib.errors import ModelError
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.reproducibility import environment, thread_environment, threads

BATCH_SIZES = (1, 8, 32)
_FEWEST = 5  # calls that are timed whatever time they take

Predict = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Speed:
    """Latency and throughput of a model for batches of one size, and where it was measured.

    Milliseconds are of one call, that is of ``batch_size`` queries; ``per_second`` counts queries
    over all ``n`` calls. ``threads`` is 0 where their number was not limited; ``flags`` are the
    processor's features that decide the speed of int8 and bfloat16.
    """

    batch_size: int
    threads: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_second: float
    n: int
    processor: str
    flags: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self) | {"flags": list(self.flags)}


@dataclass(frozen=True)
class RelativeSpeed:
    """The speed of one model relative to the first in `benchmark_interleaved`.

    ``ms`` is the median over rounds, ``times_as_fast`` as the first model the median of the
    rounds' ratios.
    """

    model: str
    ms: float
    times_as_fast: float


def measure_latency(
    predict: Predict,
    queries: Sequence[str],
    *,
    warmup: int = 20,
    repeats: int = 200,
) -> dict[str, float]:
    """Time single queries, one call each, after a warm-up.

    Parameters
    ----------
    predict : callable
        Takes a list of one query.
    queries : sequence of str
        Distinct queries, used in turn.
    warmup, repeats : int
        Calls before the measurement, and measured calls.

    Returns
    -------
    dict
        ``p50_ms``, ``p95_ms``, ``p99_ms``, ``n`` and ``threads`` (0: not limited).
    """
    (speed,) = speed_of(
        predict, queries, batch_sizes=(1,), warmup=warmup, repeats=repeats, seconds=math.inf
    )
    row = speed.as_dict()
    return {name: row[name] for name in ("p50_ms", "p95_ms", "p99_ms", "n", "threads")}


def speed_of(
    predict: Predict,
    queries: Sequence[str],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    warmup: int = 10,
    repeats: int = 200,
    seconds: float = 5.0,
) -> list[Speed]:
    """Time batches of each size, after a warm-up; one `Speed` for each size.

    Cleaning and tokenising in ``predict`` are included. The number of threads is fixed when the
    libraries are loaded; `benchmark_served` sets it.

    Parameters
    ----------
    predict : callable
        Takes a list of queries.
    queries : sequence of str
        Used in turn; at least as many distinct ones as the largest batch, so that no batch holds
        one twice.
    warmup, repeats : int
        Calls before the measurement, and measured calls, for each size.
    seconds : float
        Time limit of the warm-up and of the measurement for each size; at least five calls are
        measured, and ``n`` has their number.

    Raises
    ------
    ValueError
        Too few distinct queries, or a batch size or number of repeats below 1.
    """
    if min(batch_sizes, default=0) < 1:
        raise ValueError(f"batch sizes {list(batch_sizes)}: need at least one, none below 1")
    _check(queries, max(batch_sizes), repeats)
    limits: dict[str, Any] = {"warmup": warmup, "repeats": repeats, "seconds": seconds}
    with _frozen_objects():
        return [_speed(_elapsed_ms(predict, queries, size, **limits), size) for size in batch_sizes]


def benchmark_interleaved(
    models: Mapping[str, Predict],
    queries: Sequence[str],
    *,
    rounds: int = 7,
    calls: int = 30,
    batch_size: int = 1,
) -> list[RelativeSpeed]:
    """Time several models in turn, round after round, so that other load slows all of them.

    Each round gives every model the same batches, in reverse order every other round, and takes
    the median of its calls. Ratios are taken within a round, so they are stable where times are
    not.

    Parameters
    ----------
    models : mapping
        Name -> callable that takes a list of queries. The first one is the reference.
    rounds, calls : int
        Measured rounds, after one of warm-up; calls of each model in a round.

    Raises
    ------
    ValueError
        No model, no round, or fewer distinct queries than a batch holds.
    """
    if not models or rounds < 1 or calls < 1:
        raise ValueError(f"{len(models)} models, {rounds} rounds, {calls} calls: need one of each")
    _check(queries, batch_size)
    names, times = list(models), np.empty((rounds + 1, len(models)))
    with _frozen_objects():
        for lap in range(rounds + 1):
            for at in range(len(names))[:: -1 if lap % 2 else 1]:
                predict = models[names[at]]
                elapsed = _elapsed_ms(predict, queries, batch_size, warmup=1, repeats=calls)
                times[lap, at] = np.median(elapsed)
    times = times[1:]
    medians = np.median(times, axis=0), np.median(times[:, :1] / times, axis=0)
    rows = np.column_stack(medians).tolist()
    return [RelativeSpeed(name, *row) for name, row in zip(names, rows, strict=True)]


def _check(queries: Sequence[str], batch_size: int = 1, repeats: int = 1) -> None:
    if repeats < 1:
        raise ValueError(f"{repeats} repeats: need at least one measured call")
    if isinstance(queries, str) or not queries:
        raise ValueError("queries is empty or one string; pass a list of at least one")
    if batch_size < 1:
        raise ValueError(f"a batch of {batch_size} queries: need at least one")
    distinct = len(set(queries))
    if distinct < batch_size:
        raise ValueError(f"{distinct} distinct queries do not fill a batch of {batch_size}")


def _batches(queries: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield batches of distinct queries in turn, without end."""
    endless = cycle(dict.fromkeys(queries))
    while True:
        yield list(islice(endless, size))


@contextmanager
def _frozen_objects() -> Iterator[None]:
    """Exclude existing objects from garbage collection; garbage of the calls still counts."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _elapsed_ms(
    predict: Predict,
    queries: Sequence[str],
    size: int,
    *,
    warmup: int,
    repeats: int,
    seconds: float = math.inf,
) -> np.ndarray:
    """Return the milliseconds of each measured call, shape (n,)."""
    _calls(predict, islice(_batches(queries, size), warmup), seconds, fewest=1)
    timed = islice(_batches(queries, size), repeats)
    return np.array(_calls(predict, timed, seconds, fewest=_FEWEST)) / 1e6


def _calls(
    predict: Predict, batches: Iterator[list[str]], seconds: float, *, fewest: int
) -> list[int]:
    """Predict each batch within the time limit; return the nanoseconds of each call."""
    elapsed: list[int] = []
    until = time.perf_counter_ns() + 1e9 * seconds
    for batch in batches:
        if len(elapsed) >= fewest and time.perf_counter_ns() > until:
            break
        started = time.perf_counter_ns()
        predict(batch)
        elapsed.append(time.perf_counter_ns() - started)
    return elapsed


def _speed(elapsed: np.ndarray, size: int) -> Speed:
    p50, p95, p99 = (float(value) for value in np.percentile(elapsed, [50, 95, 99]))
    processor = environment()["processor"]
    return Speed(
        batch_size=size,
        threads=threads(),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        per_second=float(1000 * size * len(elapsed) / elapsed.sum()),
        n=len(elapsed),
        processor=processor["model"],
        flags=tuple(processor["flags"]),
    )


def directory_bytes(directory: Path | str) -> int:
    """Return the size of all files below ``directory``, in bytes."""
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def saved_bytes(model: Any) -> int:
    """Return the bytes of the files that ``model.save`` writes, or ``model.size_bytes``.

    An encoder that a model refers to counts as if each part that uses it had its own copy.
    """
    if hasattr(model, "size_bytes"):
        return int(model.size_bytes)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(model.save(Path(folder) / "model"))
        cards = [json.loads(card.read_text("utf-8")) for card in saved.rglob("model.json")]
        referred = [card.get("state", {}).get("encoder", {}).get("bytes", 0) for card in cards]
        return directory_bytes(saved) + sum(referred)


# As text, since the process that waits for the numbers imports no model.
LOADER = "nivesh_lib.models.base:load_model"


def benchmark_served(
    model: Any,
    queries: Sequence[str],
    *,
    threads: Sequence[int] = (1, 2),
    batch_sizes: Sequence[int] = BATCH_SIZES,
    warmup: int = 10,
    repeats: int = 200,
    seconds: float = 5.0,
    loader: str = LOADER,
) -> tuple[list[Speed], int]:
    """Save a model and measure it in a fresh process for each number of threads; see `speed_of`.

    Parameters
    ----------
    batch_sizes : sequence of int
        Limited to the number of distinct queries.
    loader : str
        ``module:function`` that takes the directory as text and returns an object with
        ``predict``, or a callable that takes a list of queries.

    Returns
    -------
    speeds : list of Speed
        For each number of threads and each batch size.
    peak : int
        The largest peak memory of these processes in bytes: resident memory, including the
        interpreter and its libraries.

    Raises
    ------
    ValueError
        No queries, or a number of threads below 1.
    ModelError
        A process failed; the message has the end of its stderr.
    """
    _check(queries)
    sizes = sorted({min(size, len(set(queries))) for size in batch_sizes})
    limits = {"batch_sizes": sizes, "warmup": warmup, "repeats": repeats, "seconds": seconds}
    with tempfile.TemporaryDirectory() as folder:
        saved = model.save(Path(folder) / "model")
        job = {"directory": str(saved), "queries": list(queries), "loader": loader, **limits}
        answers = [_in_subprocess(job, number) for number in threads]
    rows = [row for answer in answers for row in answer["speeds"]]
    speeds = [Speed(**{**row, "flags": tuple(row["flags"])}) for row in rows]
    return speeds, max((answer["peak"] for answer in answers), default=0)


def _in_subprocess(job: dict[str, Any], threads: int) -> dict[str, Any]:
    if threads < 1:
        raise ValueError(f"threads {threads!r} is not 1 or more")
    library = str(paths.package_dir().parent)
    known = os.pathsep.join([library, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "nivesh_lib.evaluation.benchmark"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, **thread_environment(threads), "PYTHONPATH": known},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(
            f"{job['directory']}: could not be measured ({anonymize_query(lines[-1][:500])}). "
            "Load it and call it in this process to see why"
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    module, _, name = job.pop("loader").partition(":")
    model = getattr(importlib.import_module(module), name)(job.pop("directory"))
    speeds = speed_of(getattr(model, "predict", model), job.pop("queries"), **job)
    return {"speeds": [speed.as_dict() for speed in speeds], "peak": _peak_bytes()}


def _peak_bytes() -> int:
    """Return the peak resident memory of this process so far."""
    # Not getrusage on Linux: its maximum survives exec, so it can be the parent's.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Read a job from standard input and write its answer as the last line of the output."""
    stdout, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print stays out of the answer
    answer = _answer(json.load(sys.stdin))
    stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
