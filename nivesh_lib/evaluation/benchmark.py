"""How long queries take, and how much room a model needs on disk."""

from __future__ import annotations

import gc
import importlib
import json
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
_FEWEST = 5  # calls that are timed however long they take

Predict = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Speed:
    """How fast a model answers batches of one size, and on what it was measured.

    Milliseconds are those of one call, thus of ``batch_size`` queries; ``per_second`` counts
    queries over all ``n`` calls, the slow ones among them. ``threads`` is 0 where their number was
    not limited; ``flags`` are those of the processor that decide what int8 and bfloat16 bring.
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
class Raced:
    """One model of a `race`.

    ``ms`` is the median of its rounds and ``worst_ms`` the slowest of them. ``times_as_fast`` as
    the first model is the median of the rounds' ratios, ``times_low`` and ``times_high`` the
    least and greatest of them.
    """

    model: str
    ms: float
    worst_ms: float
    times_as_fast: float
    times_low: float
    times_high: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


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
        Calls that are thrown away, calls that count.

    Returns
    -------
    dict
        ``p50_ms``, ``p95_ms``, ``p99_ms``, ``n`` and ``threads`` (0: not limited).
    """
    _check(queries, 1, repeats)
    with _nothing_old_to_collect():
        elapsed = _elapsed_ms(predict, queries, 1, warmup=warmup, repeats=repeats)
    p50, p95, p99 = np.percentile(elapsed, [50, 95, 99])
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "n": repeats, "threads": threads()}


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

    What ``predict`` does with a text, cleaning and tokenising, is in the time. How many threads it
    may use is decided when its libraries are loaded: `isolated.speed_in_process` sets their number.

    Parameters
    ----------
    predict : callable
        Takes a list of queries.
    queries : sequence of str
        Used in turn; at least as many distinct ones as the largest batch, so that no batch holds
        one twice.
    warmup, repeats : int
        Calls that are thrown away, calls that count, for each size.
    seconds : float
        Time after which no further call begins for a size, once at least five were timed: fewer
        calls tell less of the tail, and ``n`` says how many there were. A warm-up ends then too.

    Raises
    ------
    ValueError
        Too few distinct queries, or a batch size or number of repeats below 1.
    """
    if min(batch_sizes, default=0) < 1:
        raise ValueError(f"batch sizes {list(batch_sizes)}: need at least one, none below 1")
    _check(queries, max(batch_sizes), repeats)
    limits: dict[str, Any] = {"warmup": warmup, "repeats": repeats, "seconds": seconds}
    with _nothing_old_to_collect():
        return [_speed(_elapsed_ms(predict, queries, size, **limits), size) for size in batch_sizes]


def race(
    models: Mapping[str, Predict],
    queries: Sequence[str],
    *,
    rounds: int = 7,
    calls: int = 30,
    batch_size: int = 1,
) -> list[Raced]:
    """Time several models in turn, round after round, so that a busy machine slows all of them.

    Each round asks every model the same batches, in reverse order every other round, and takes the
    median of its calls. Ratios are taken inside a round, so they hold where times do not.

    Parameters
    ----------
    models : mapping
        Name -> callable that takes a list of queries. The first one is what others are held to.
    rounds, calls : int
        Rounds that count, after one that does not; calls of each model in a round.

    Raises
    ------
    ValueError
        No model, no round, or fewer distinct queries than a batch holds.
    """
    if not models or rounds < 1 or calls < 1:
        raise ValueError(f"{len(models)} models, {rounds} rounds, {calls} calls: need one of each")
    _check(queries, batch_size)
    names, times = list(models), np.empty((rounds + 1, len(models)))
    with _nothing_old_to_collect():
        for lap in range(rounds + 1):
            for at in range(len(names))[:: -1 if lap % 2 else 1]:
                predict = models[names[at]]
                elapsed = _elapsed_ms(predict, queries, batch_size, warmup=1, repeats=calls)
                times[lap, at] = np.median(elapsed)
    times = times[1:]
    ratios = times[:, :1] / times
    table = np.column_stack(
        [
            np.median(times, axis=0),
            times.max(axis=0),
            np.median(ratios, axis=0),
            ratios.min(axis=0),
            ratios.max(axis=0),
        ]
    )
    return [Raced(name, *row) for name, row in zip(names, table.tolist(), strict=True)]


def check_queries(queries: Sequence[str]) -> None:
    """Raise ValueError where there is no query, or one string in place of a list."""
    if isinstance(queries, str) or not queries:
        raise ValueError("queries is empty or one string; pass a list of at least one")


def _check(queries: Sequence[str], batch_size: int, repeats: int = 1) -> None:
    if repeats < 1:
        raise ValueError(f"{repeats} repeats: need at least one call that counts")
    check_queries(queries)
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
def _nothing_old_to_collect() -> Iterator[None]:
    """Keep the collector out of what was there before; the garbage of the calls still counts."""
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
    seconds: float = float("inf"),
) -> np.ndarray:
    """Return the milliseconds of each call that counts, shape (n,)."""
    _calls(predict, islice(_batches(queries, size), warmup), seconds, fewest=1)
    timed = islice(_batches(queries, size), repeats)
    return np.array(_calls(predict, timed, seconds, fewest=_FEWEST)) / 1e6


def _calls(
    predict: Predict, batches: Iterator[list[str]], seconds: float, *, fewest: int
) -> list[int]:
    """Ask for each batch, or until the time is over; return the nanoseconds of each call."""
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
    """Return the bytes that ``model.save`` writes; ``model.size_bytes`` of one that has it."""
    if hasattr(model, "size_bytes"):
        return int(model.size_bytes)
    with tempfile.TemporaryDirectory() as folder:
        return directory_bytes(model.save(Path(folder) / "model"))


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
        [sys.executable, "-m", "nivesh_lib.evaluation.benchmark"],
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
