"""How long one query takes, and how much room a model needs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def measure_latency(
    predict: Callable[[list[str]], Any],
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
    if not queries:
        raise ValueError("queries is empty; pass at least one")
    for i in range(warmup):
        predict([queries[i % len(queries)]])
    elapsed = np.empty(repeats)
    for i in range(repeats):
        query = [queries[i % len(queries)]]
        started = time.perf_counter_ns()
        predict(query)
        elapsed[i] = time.perf_counter_ns() - started
    p50, p95, p99 = np.percentile(elapsed / 1e6, [50, 95, 99])
    threads = int(os.environ.get("NIVESH_THREADS", "0"))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "n": repeats, "threads": threads}


def directory_bytes(directory: Path | str) -> int:
    """Return the size of all files below ``directory``, in bytes."""
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def saved_bytes(model: Any) -> int:
    """Return how much room ``model.save`` takes on disk, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        return directory_bytes(model.save(Path(folder) / "model"))
