"""Latency, throughput, size on disk and peak memory of models.

Times are measured in this process, in turns with other models, or in subprocesses that load the
saved model with a fixed number of threads, as a server would.

Whatever else the machine computes makes a model look slow. A reference loop, which always takes
the same work, is therefore timed between the calls of the model: where its own times vary, the
machine was busy, and `objectives.judge` does not call a model too slow.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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

_FEWEST = 5  # calls that are timed whatever time they take
_ROUNDS = 10  # blocks of calls, each with the reference loop before it
_REFERENCES = 10  # times that the loop is timed in a round, at most
_PAUSE = 0.02  # seconds before the loop: the threads of a model spin a while after a call
_DRAWS = 1000  # of the bootstrap

Predict = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Speed:
    """Latency and throughput of a model for batches of one size, and where it was measured.

    Milliseconds are of one call, that is of ``batch_size`` queries; ``per_second`` counts queries
    over all ``n`` calls. ``threads`` is 0 where their number was not limited; ``flags`` are the
    processor's features that decide the speed of int8 and bfloat16. ``p95_ms_low`` and
    ``p95_ms_high`` are the 95 % interval of ``p95_ms``. ``reference_ms`` is the median of the
    reference loop, from its fastest time (low) to its upper quartile (high): on an idle machine a
    tenth of its times is doubled, where two threads are woken on one core.
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
    p95_ms_low: float
    p95_ms_high: float
    reference_ms: float
    reference_ms_low: float
    reference_ms_high: float
    reference_ms_n: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self) | {"flags": list(self.flags)}

    def latency(self) -> dict[str, float]:
        """Return the milliseconds of a call, their intervals, ``n`` and ``threads``."""
        row = self.as_dict()
        return {k: v for k, v in row.items() if k in ("n", "threads") or "_ms" in k}


def measure_latency(
    predict: Predict,
    queries: Sequence[str],
    *,
    warmup: int = 20,
    repeats: int = 200,
) -> dict[str, float]:
    """Time single queries, one call each, after a warm-up, and a reference loop between them.

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
        As `Speed.latency`: ``p50_ms``, ``p95_ms`` with ``p95_ms_low`` and ``p95_ms_high``,
        ``p99_ms``, ``n``, ``threads`` (0: not limited), and ``reference_ms`` of the loop.
    """
    return speed_of(predict, queries, warmup=warmup, repeats=repeats, seconds=math.inf).latency()


def speed_of(
    predict: Predict,
    queries: Sequence[str],
    *,
    batch_size: int = 1,
    warmup: int = 10,
    repeats: int = 200,
    seconds: float = 5.0,
) -> Speed:
    """Time batches of one size, after a warm-up, and a reference loop between them.

    Cleaning and tokenising in ``predict`` are included. The number of threads is fixed when the
    libraries are loaded; `benchmark_served` sets it.

    Parameters
    ----------
    predict : callable
        Takes a list of queries.
    queries : sequence of str
        Used in turn; at least as many distinct ones as a batch has, so that none holds one twice.
    warmup, repeats : int
        Calls before the measurement, and measured calls.
    seconds : float
        Time limit of the warm-up and of the measurement; at least five calls are measured, and
        ``n`` has their number.

    Raises
    ------
    ValueError
        Too few distinct queries, or a batch size or number of repeats below 1.
    """
    _check(queries, batch_size, repeats)
    every, beside = math.ceil(repeats / _ROUNDS), list[int]()

    def batches() -> Iterator[list[str]]:
        for number, batch in enumerate(islice(_batches(queries, batch_size), repeats)):
            if number % every == 0:
                time.sleep(_PAUSE)
                beside.extend(_nanoseconds(loop) for _ in range(min(every, _REFERENCES)))
                predict(batch)  # not timed: the loop has left the caches cold
            yield batch

    with _frozen_objects(), reference_loop() as loop:
        loop()
        _calls(predict, islice(_batches(queries, batch_size), warmup), seconds, fewest=1)
        elapsed = _calls(predict, batches(), seconds)
    return _speed(np.array(elapsed) / 1e6, np.array(beside) / 1e6, batch_size)


def race(
    models: Mapping[str, Predict], queries: Sequence[str], *, calls: int = 200
) -> dict[str, Speed]:
    """Time single queries of several models in turn, so that other load slows all of them.

    Each round begins with the reference loop, which is that of all models, and gives every model
    the same queries, in reverse order every other round.

    Parameters
    ----------
    models : mapping
        Name -> callable that takes a list of queries.
    queries : sequence of str
        Distinct queries, used in turn.
    calls : int
        Timed calls of each model, at least; a multiple of the rounds is made.

    Raises
    ------
    ValueError
        No model, no query or no call.
    """
    if not models:
        raise ValueError("there is no model to time")
    _check(queries, repeats=calls)
    endless, per_turn = _batches(queries, 1), math.ceil(calls / _ROUNDS)
    elapsed: dict[str, list[int]] = {name: [] for name in models}
    beside: list[int] = []
    with _frozen_objects(), reference_loop() as loop:
        for predict in models.values():
            _calls(predict, islice(_batches(queries, 1), _FEWEST))
        for lap in range(math.ceil(calls / per_turn)):
            asked = list(islice(endless, per_turn))
            time.sleep(_PAUSE)
            beside += [_nanoseconds(loop) for _ in range(min(per_turn, _REFERENCES))]
            for name in list(models)[:: -1 if lap % 2 else 1]:
                models[name](asked[0])  # not timed: the loop has left the caches cold
                elapsed[name] += _calls(models[name], iter(asked))
    return {
        name: _speed(np.array(elapsed[name]) / 1e6, np.array(beside) / 1e6, 1) for name in models
    }


def _check(queries: Sequence[str], batch_size: int = 1, repeats: int = 1) -> None:
    if repeats < 1:
        raise ValueError(f"{repeats} repeats: need at least one measured call")
    if isinstance(queries, str) or not queries:
        raise ValueError("queries is empty or one string; pass a list of at least one")
    distinct = len(set(queries))
    if not 1 <= batch_size <= distinct:
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


@contextmanager
def reference_loop() -> Iterator[Callable[[], object]]:
    """Yield a function that takes about a millisecond of the same work in each thread.

    It has as many threads as a model may use, so that one core that is taken shows; each keeps to
    a core, as two that wake up on one would look like a busy machine. The work hardly touches
    memory, so that it leaves the caches to the model.
    """
    pinned = hasattr(os, "sched_setaffinity")  # on Linux
    cores = sorted(os.sched_getaffinity(0)) if pinned else list(range(os.cpu_count() or 1))
    pools = [
        ThreadPoolExecutor(1, initializer=functools.partial(_keep_to, core) if pinned else None)
        for core in cores[: min(threads() or 8, 8)]
    ]
    try:
        yield lambda: [done.result() for done in [pool.submit(_fixed_work) for pool in pools]]
    finally:
        for pool in pools:
            pool.shutdown()


def _keep_to(core: int) -> None:
    os.sched_setaffinity(0, {core})  # of this thread alone


def _fixed_work() -> bytes:
    return hashlib.pbkdf2_hmac("sha256", b"fixed", b"work", 4000)  # without Python's lock


def _calls(
    predict: Predict,
    batches: Iterator[list[str]],
    seconds: float = math.inf,
    *,
    fewest: int = _FEWEST,
) -> list[int]:
    """Predict each batch until the calls took this long; return the nanoseconds of each."""
    elapsed: list[int] = []
    for batch in batches:
        elapsed.append(_nanoseconds(functools.partial(predict, batch)))
        if len(elapsed) >= fewest and sum(elapsed) > 1e9 * seconds:
            break
    return elapsed


def _nanoseconds(call: Callable[[], object]) -> int:
    started = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - started


def _speed(elapsed: np.ndarray, beside: np.ndarray, size: int) -> Speed:
    p50, p95, p99 = (float(value) for value in np.percentile(elapsed, [50, 95, 99]))
    low, high = interval_of_p95(elapsed)
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
        p95_ms_low=min(low, p95),
        p95_ms_high=max(high, p95),
        reference_ms=float(np.median(beside)),
        reference_ms_low=float(beside.min()),
        reference_ms_high=float(np.percentile(beside, 75)),
        reference_ms_n=len(beside),
    )


def interval_of_p95(elapsed: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the 95th percentile of times, which are in their order.

    The bootstrap is circular, of blocks (Politis and Romano 1992): whole rounds are drawn, since
    calls that follow each other share what the machine does.
    """
    n = len(elapsed)
    length = math.ceil(n / _ROUNDS)
    starts = np.random.default_rng(42).integers(n, size=(_DRAWS, math.ceil(n / length), 1))
    drawn = ((starts + np.arange(length)) % n).reshape(_DRAWS, -1)[:, :n]
    low, high = np.percentile(np.percentile(elapsed[drawn], 95, axis=1), [2.5, 97.5])
    return float(low), float(high)


def directory_bytes(directory: Path | str) -> int:
    """Return the size of all files below ``directory``, in bytes."""
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def model_bytes(saved: Path) -> int:
    """Return the size of a model directory, in bytes.

    An encoder that a model refers to counts as if each part that uses it had its own copy.
    """
    cards = [json.loads(card.read_text("utf-8")) for card in saved.rglob("model.json")]
    referred = [card.get("state", {}).get("encoder", {}).get("bytes", 0) for card in cards]
    return directory_bytes(saved) + sum(referred)


def saved_bytes(model: Any) -> int:
    """Return the `model_bytes` of what ``model.save`` writes, or ``model.size_bytes``."""
    if hasattr(model, "size_bytes"):  # it cannot be saved
        return int(model.size_bytes)
    with tempfile.TemporaryDirectory() as folder:
        return model_bytes(Path(model.save(Path(folder) / "model")))


def benchmark_served(
    model: Any, queries: Sequence[str], *, batch_size: int = 32, seconds: float = 5.0
) -> tuple[Speed, int]:
    """Save a model and measure it in a fresh process with one thread; see `speed_of`.

    Parameters
    ----------
    batch_size : int
        Limited to the number of distinct queries.

    Returns
    -------
    speed : Speed
    peak : int
        The peak memory of this process in bytes: resident memory, including the interpreter and
        its libraries.

    Raises
    ------
    ValueError
        No queries.
    ModelError
        The process failed; the message has the end of its stderr.
    """
    _check(queries)
    limits = {"batch_size": min(batch_size, len(set(queries))), "seconds": seconds}
    library = str(paths.package_dir().parent)
    known = os.pathsep.join([library, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        saved = str(model.save(Path(folder) / "model"))
        done = subprocess.run(
            [sys.executable, "-m", "nivesh_lib.evaluation.benchmark"],
            input=json.dumps({"directory": saved, "queries": list(queries), **limits}),
            capture_output=True,
            text=True,
            env={**os.environ, **thread_environment(1), "PYTHONPATH": known},
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(
            f"{saved}: could not be measured ({anonymize_query(lines[-1][:500])}). "
            "Load it and call it in this process to see why"
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    return Speed(**answer["speed"] | {"flags": tuple(answer["speed"]["flags"])}), answer["peak"]


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    # By name, since the process that waits for the numbers imports no model.
    models = importlib.import_module("nivesh_lib.models.base")
    model = models.load_model(job.pop("directory"))
    speed = speed_of(model.predict, job.pop("queries"), **job)
    return {"speed": speed.as_dict(), "peak": _peak_bytes()}


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
