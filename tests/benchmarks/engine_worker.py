"""Artefacts made, or an engine measured, in a process of its own.

``python -m tests.benchmarks.engine_worker JOB``: JOB is a JSON file that `engines.Bench` wrote; the
answer goes to the path that it names. A trial does everything in one process.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.engine_candidates import (
    FP32,
    Engine,
    Loaded,
    Order,
    artefacts,
    engines,
    token_counts,
)
from tests.benchmarks.peer_data import Labelled
from tests.benchmarks.peer_worker import peak_bytes, work

MOST_CALLS = 2_000  # of one batch size; more would only fill the report


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Make the artefacts that the job names, then measure its engines; failures are told.

    What needs something that failed is passed over.
    """
    root = Path(job["root"])
    told: dict[str, Any] = {"make_seconds": {}, "engines": {}, "failed": {}}
    for name in job["make"]:
        if all((root / before).exists() for before in artefacts()[name].after):
            with _failure_in(told, f"making {name}", root / name):
                order = _order(root, job["order"])
                started = time.perf_counter()
                artefacts()[name].make(order, root / name)
                told["make_seconds"][name] = time.perf_counter() - started
    if job.get("count_tokens") and (root / FP32).exists():
        told["pieces"] = token_counts(root, job["texts"])
    for engine in (engines()[name] for name in job["engines"]):
        if (root / engine.artefact).exists():
            with _failure_in(told, f"{engine.name}, {job['threads']} threads"):
                told["engines"][engine.name] = measured(engine, root, job)
    return told


@contextmanager
def _failure_in(told: dict[str, Any], what: str, half_made: Path | None = None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever an engine raises, the others go on
        told["failed"][what] = f"{type(error).__name__}: {error}"
        if half_made is not None:
            shutil.rmtree(half_made, ignore_errors=True)


def _order(root: Path, fields: dict[str, Any]) -> Order:
    return Order(root, **{**fields, "train": Labelled(**fields["train"])})


def measured(engine: Engine, root: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Return the engine's labels, times in ms by batch size, loading time and peak memory."""
    pin(job["threads"])
    texts: list[str] = job["texts"]
    started = time.perf_counter()
    loaded = engine.load(root / engine.artefact, job["threads"])
    told: dict[str, Any] = {"load_seconds": time.perf_counter() - started}
    told["labels"] = answered(loaded, texts)  # which warms up every shape of a file too
    told["times_ms"] = {
        str(size): timed(loaded.predict, batches(texts, size), job["seconds"])
        for size in engine.batches
        if size in job["sizes"]
    }
    told["times_ms"]["file"] = timed(
        lambda file: answered(loaded, file), [texts], job["seconds"], warm=True
    )
    told["read_ms"] = timed(loaded.read, batches(texts, 1), job["seconds"]) if loaded.read else []
    told["facts"] = loaded.facts(texts) if loaded.facts else {}
    told["peak_bytes"] = peak_bytes()
    return told


def pin(threads: int) -> None:
    """Keep the process, with every thread it will start, on as many cores; Linux can."""
    if hasattr(os, "sched_setaffinity"):
        # The last ones: interrupts prefer the first.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def answered(loaded: Loaded, texts: list[str]) -> list[str]:
    """Return the label of each text of a file, in as many calls as the engine's user makes."""
    step = loaded.file_rows or len(texts)
    return [
        str(label)
        for start in range(0, len(texts), step)
        for label in loaded.predict(texts[start : start + step])
    ]


def batches(texts: Sequence[str], size: int) -> list[list[str]]:
    """Return full batches of texts in their order; what is left over is left out."""
    full = len(texts) // size
    return [list(texts[n * size : (n + 1) * size]) for n in range(full)]


def timed(
    call: Callable[[Any], Any], inputs: Sequence[Any], seconds: float, *, warm: bool = False
) -> list[float]:
    """Return the milliseconds of each call, inputs in turn, for about so many seconds.

    Unless it is ``warm``, half as long before that is not counted, at most once through the
    inputs: an engine that compiles for a shape has then done so. What is garbage before is
    collected before; that of the calls counts.
    """
    if not inputs:
        return []
    until = time.perf_counter() + seconds / 2
    for one in () if warm else inputs:
        call(one)
        if time.perf_counter() > until:
            break
    elapsed: list[float] = []
    gc.collect()
    gc.freeze()
    until = time.perf_counter() + seconds
    while not elapsed or (time.perf_counter() < until and len(elapsed) < MOST_CALLS):
        one = inputs[len(elapsed) % len(inputs)]
        started = time.perf_counter_ns()
        call(one)
        elapsed.append((time.perf_counter_ns() - started) / 1e6)
    gc.unfreeze()
    return elapsed


if __name__ == "__main__":
    work(answer)
