"""What a server counts and times, for Prometheus; the names are those of its alerts and dashboard.

With several workers, ``PROMETHEUS_MULTIPROC_DIR`` names the folder in which they add up; it has to
be set before this module is imported.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from time import time, time_ns

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.parser import text_string_to_metric_families

from nivesh_lib.serving.settings import NAME

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
OUTCOMES = ("success", "refused", "error", "overload")  # of requests for predictions
AGREES = ("yes", "no", "unknown")  # corrections with what was answered, where they say it
_MODEL = ["model_name", "release"]
_STARTED = time_ns()
Counts = tuple[int, int, int]
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5)

latency = Histogram(
    "model_prediction_latency_seconds",
    "Time from a request's first line to its answer",
    _MODEL,
    buckets=_SECONDS,
)
predictions = Counter(
    "model_predictions_total", "Requests for predictions by outcome", [*_MODEL, "status"]
)
intents = Counter("intent_predictions_by_label", "Predictions by intent", ["intent"])
confidence = Histogram(
    "prediction_confidence",
    "Confidence of predictions",
    ["model_name"],
    buckets=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0),
).labels(NAME)
abstentions = Counter("predictions_abstained", "Predictions that a person should look at")
responses = Counter("http_responses", "Responses by path and status", ["path", "status"])
corrections = Counter("feedback_corrections", "Corrections that were kept", ["agrees"])
PAIRED = ("control", "neither", "canary")  # -1, 0 and 1: whose answer had what a test looks at
canary_pairs = Counter(
    "canary_pairs",
    "Pairs of answers of a canary and what it is compared with",
    ["release", "step", "test", "outcome"],
)
rolled_back = Counter("canary_rollbacks", "Canaries that this server has rolled back")
unwritten = Counter("log_lines_lost", "Lines of the log that could not be written")
active_models = Gauge("active_models_count", "Loaded models", multiprocess_mode="livesum")
memory = Gauge("model_memory_mb", "Resident memory of the server", multiprocess_mode="livesum")
waiting = Gauge(
    "model_queries_waiting", "Queries that wait for a turn", multiprocess_mode="livesum"
)
degraded = Gauge("model_degraded", "1 where a server is degraded", multiprocess_mode="livemax")
# Set before workers are forked; the value of a worker, which never sets it, is 0.
started = Gauge(
    "model_start_time_seconds", "When the server started, Unix time", multiprocess_mode="max"
)
serving = Gauge(
    "model_release_info", "1 for the release that is served", _MODEL, multiprocess_mode="livemax"
)
# Of several workers, the one that is least sure: drift is what all of them see.
drift = Gauge(
    "model_drift",
    "1 where the last answers differ from those to the release's held-out rows",
    ["model_name"],
    multiprocess_mode="livemin",
)
drift_p_value = Gauge(
    "model_drift_p_value",
    "Corrected p-value of that difference",
    ["model_name"],
    multiprocess_mode="livemax",
)
released_accuracy = Gauge(
    "model_released_accuracy",
    "Accuracy on held-out rows that the release was shown to have at least; 1 where none was",
    ["model_name"],
    multiprocess_mode="livemin",
).labels(NAME)
started.set(time())
for _agrees in AGREES:
    corrections.labels(_agrees)


def announce(release: str) -> None:
    """Export all series of a release that answers from now on, at zero.

    A counter that comes into being at 1 has never risen: its first error would not be counted.
    """
    labels = model_labels(release)
    latency.labels(*labels)
    for outcome in OUTCOMES:
        predictions.labels(*labels, outcome)


def tell_drift(found: bool, p: float) -> None:
    """Export a verdict on drift; nothing is exported before the first one."""
    drift.labels(NAME).set(found)
    drift_p_value.labels(NAME).set(p)


def model_labels(release: str) -> tuple[str, str]:
    """Return the values of the labels ``model_name`` and ``release``."""
    return NAME, release or "none"


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format, those of all workers added up."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return generate_latest(REGISTRY)
    forget_dead(folder)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, folder)
    return generate_latest(registry)


Sample = tuple[str, tuple[tuple[str, str], ...]]  # a name, and its labels with their values


def samples(text: str) -> dict[Sample, float]:
    """Return what an exposition says, by name and labels."""
    found = (one for family in text_string_to_metric_families(text) for one in family.samples)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found}


def server() -> str:
    """Return a name of the processes that count together, another one after each start."""
    return os.environ.get(FOLDER) or f"{os.getpid()} {_STARTED}"


def canary_totals(release: str, step: str) -> dict[str, tuple[int, int, int]]:
    """Return how often each test of a canary had the outcomes -1, 0 and 1, over all workers."""
    if folder := os.environ.get(FOLDER):
        files = [str(path) for path in Path(folder).glob("counter_*.db")]
        found = multiprocess.MultiProcessCollector.merge(files)
    else:
        found = canary_pairs.collect()
    totals: defaultdict[str, Counts] = defaultdict(lambda: (0, 0, 0))
    for sample in (one for family in found for one in family.samples):
        labels = sample.labels
        named = sample.name == "canary_pairs_total"
        if named and (labels["release"], labels["step"]) == (release, step):
            counts = list(totals[labels["test"]])
            counts[PAIRED.index(labels["outcome"])] = int(sample.value)
            totals[labels["test"]] = (counts[0], counts[1], counts[2])
    return totals


def forget_dead(folder: str) -> None:
    """Drop the gauges of workers that are gone; what they counted stays."""
    for process in _processes(Path(folder).glob("gauge_live*.db")):
        if not Path(f"/proc/{process}").exists():
            multiprocess.mark_process_dead(process, folder)


def _processes(files: Iterable[Path]) -> set[int]:
    found = (re.fullmatch(r"gauge_live\w+_(\d+)", file.stem) for file in files)
    return {int(match[1]) for match in found if match}
