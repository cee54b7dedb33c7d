"""How `make bench-engines` sums up its rounds and prints them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.peer_tables import interval, megabytes, table

# 21.2 MFLOP a token (six layers of width 384) in int8 on one core with VNNI.
FLOOR_MS, FLOOR_TOKENS = 0.35, 16

Told = Mapping[str, Any]  # what a worker answers
Speeds = Mapping[str, Mapping[str, Any]]  # engine -> `summary`, of one number of threads


def summary(rounds: Sequence[Told], n_texts: int) -> dict[str, Any]:
    """Return the figures of an engine over its rounds, each a process.

    Percentiles are of all calls together; ``_each`` are the rounds' own, and ``per_second`` is
    their median.
    """
    return {
        "batches": {
            size: _batch([told["times_ms"][size] for told in rounds], _rows(size, n_texts))
            for size in rounds[0]["times_ms"]
        },
        "read_ms": _median_or_none([ms for told in rounds for ms in told["read_ms"]]),
        "load_seconds": statistics.median(told["load_seconds"] for told in rounds),
        "peak_bytes": max(told["peak_bytes"] for told in rounds),
        "facts": rounds[0]["facts"],
    }


def _rows(size: str, n_texts: int) -> int:
    return n_texts if size == "file" else int(size)


def _batch(rounds: Sequence[Sequence[float]], rows: int) -> dict[str, Any]:
    p50, p95, p99 = np.percentile([ms for times in rounds for ms in times], [50, 95, 99])
    rates = [1e3 * rows / statistics.mean(times) for times in rounds]
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "calls": sum(map(len, rounds)),
        "p50_ms_each": [statistics.median(times) for times in rounds],
        "per_second": statistics.median(rates),
        "per_second_each": rates,
    }


def _median_or_none(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def per_second(value: float) -> str:
    return f"{value:,.0f}"


def single(speeds: Speeds, *, threads: int, tokens: float, floored: Sequence[str]) -> str:
    """Return the table of single queries; ``floored`` are the engines that the floor is for."""
    rows = []
    for name, found in speeds.items():
        one = found["batches"]["1"]
        read, each = found["read_ms"], one["p50_ms_each"]
        rows.append(
            [
                name,
                milliseconds(one["p50_ms"]),
                milliseconds(one["p95_ms"]),
                milliseconds(one["p99_ms"]),
                f"{milliseconds(min(each))} to {milliseconds(max(each))}",
                "-" if read is None else milliseconds(one["p50_ms"] - read),
                times_floor(one["p50_ms"], threads, tokens) if name in floored else "-",
            ]
        )
    header = ["engine", "p50 ms", "p95 ms", "p99 ms", "p50 of rounds", "without reading"]
    return table([*header, "x floor"], rows)


def times_floor(ms: float, threads: int, tokens: float) -> str:
    return f"{ms * threads * FLOOR_TOKENS / (FLOOR_MS * tokens):.1f}"


def batched(speeds: Speeds, *, threads: int, tokens: float, floored: Sequence[str]) -> str:
    """Return the table of batches and of the whole file."""
    sizes = [size for size in ("8", "32") if any(size in s["batches"] for s in speeds.values())]
    rows = []
    for name, found in speeds.items():
        cells = [cell for size in sizes for cell in _batch_cells(found["batches"].get(size))]
        rate = found["batches"]["file"]["per_second"]
        floor = times_floor(1e3 / rate, threads, tokens) if name in floored else "-"
        rows.append([name, *cells, per_second(rate), floor])
    header = [cell for size in sizes for cell in (f"{size}: p50/p95/p99 ms", f"{size}: q/s")]
    return table(["engine", *header, "file: q/s", "x floor"], rows)


def _batch_cells(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    times = "/".join(milliseconds(found[f"{name}_ms"]) for name in ("p50", "p95", "p99"))
    return times, per_second(found["per_second"])


def artefacts(
    speeds: Speeds, sizes: Mapping[str, int], quality: Mapping[str, Mapping[str, Any]], *, fp32: int
) -> str:
    """Return the table of size, memory and what the answers are worth beside fp32's."""
    rows = []
    for name, found in speeds.items():
        told = quality[name]
        rows.append(
            [
                name,
                megabytes(sizes[name]),
                f"1/{fp32 / sizes[name]:.1f}",
                megabytes(found["peak_bytes"]),
                f"{found['load_seconds']:.1f}",
                f"{told['agreement']:.3f}" if "agreement" in told else "-",
                *[interval(told[key]) if key in told else "-" for key in ("accuracy", "macro_f1")],
                _points(told["difference"]) if "difference" in told else "-",
            ]
        )
    header = ["engine", "disk MB", "of fp32", "peak MB", "load s", "same labels"]
    return table([*header, "accuracy", "macro-F1", "minus fp32, points"], rows)


def _points(estimate: Mapping[str, float]) -> str:
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
