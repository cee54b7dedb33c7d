"""The marks that `make bench-serve` holds our server against, each met or missed.

They are judged round by round, since what disturbs a round disturbs all servers of it: the median
of the rounds decides. A round is what `serving.Bench` found of each server in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks.engine_marks import Mark

LOADS = (1, 4, 16, 64)  # connections
PEERS = ("fastapi", "bento", "litserve", "mlflow")
MODELS = ("static", "cascade", "transformer")
LATE_MS = 5.0  # 95th percentile of a generator's own lateness, beyond which it says little
Round = dict[str, dict[str, Any]]


def capacity(found: dict[str, Any]) -> float:
    """Return the most answers a second of any number of connections."""
    return max(one["per_second"] for one in found["closed"].values())


def marks(rounds: Sequence[Round]) -> list[Mark]:
    """Return every mark of the rounds."""
    peers = [name for name in PEERS if any(name in one for one in rounds)]
    found = [judged(rounds, f"{model}: added p50 in ms", added(model), 0.25) for model in MODELS]
    found += [
        judged(
            rounds, f"transformer over the best peer, {n} connections", beside(peers, n), least=1
        )
        for n in LOADS
    ]
    found += [
        judged(rounds, "static over the best peer with the transformer", ahead(peers), least=5),
        judged(rounds, "static over a constant answer", ratio("static", "constant"), least=0.7),
    ]
    for model in MODELS:
        title = f"{model}: p95 in ms at half of capacity"
        found.append(judged(rounds, title, open_loop(model, "half", "p95_ms"), 20))
        title = f"{model}: batches over the engine's own"
        found.append(judged(rounds, title, batched(model), least=0.8))
    return [*found, *overload(rounds)]


def overload(rounds: Sequence[Round]) -> list[Mark]:
    """Hold the transformer at three times its capacity."""
    title = "transformer at 3 x capacity"

    def goodput(one: Round) -> float:
        good = open_loop("transformer", "overload", "good_per_second")(one)
        return good / capacity(one["transformer"])

    def strange(one: Round) -> float:
        told = one["transformer"]["overload"]
        others = sum(n for status, n in told["statuses"].items() if status not in ("200", "503"))
        return float(others + told["refused_without_retry_after"])

    p95 = open_loop("transformer", "overload", "p95_ms")
    return [
        judged(rounds, f"{title}: goodput over capacity", goodput, least=0.8),
        judged(rounds, f"{title}: p95 of answers in ms", p95, 100),
        judged(rounds, f"{title}: neither answered nor 503 with Retry-After", strange, 0),
    ]


def judged(
    rounds: Sequence[Round],
    title: str,
    figure: Callable[[Round], float],
    most: float = math.inf,
    least: float = -math.inf,
) -> Mark:
    """Return the mark of a figure; unknown where a round lacks it."""
    try:
        each = [figure(one) for one in rounds]
    except (KeyError, ValueError) as missing:
        return Mark(None, f"{title}: {missing} was not measured")
    if not each or any(math.isnan(one) for one in each):
        return Mark(None, f"{title}: nothing was measured")
    value = statistics.median(each)
    bound = f"at least {least:g}" if least > -math.inf else f"at most {most:g}"
    told = f"{title}: {value:.3g} ({min(each):.3g} to {max(each):.3g}); {bound}"
    return Mark(least <= value <= most, told)


def added(model: str) -> Callable[[Round], float]:
    def figure(one: Round) -> float:
        return float(one[model]["closed"]["1"]["p50_ms"] - one[model]["engine"]["p50_ms"])

    return figure


def beside(peers: Sequence[str], connections: int) -> Callable[[Round], float]:
    def figure(one: Round) -> float:
        best = max(one[peer]["closed"][str(connections)]["per_second"] for peer in peers)
        return float(one["transformer"]["closed"][str(connections)]["per_second"] / best)

    return figure


def ahead(peers: Sequence[str]) -> Callable[[Round], float]:
    return lambda one: capacity(one["static"]) / max(capacity(one[peer]) for peer in peers)


def ratio(ours: str, other: str) -> Callable[[Round], float]:
    return lambda one: capacity(one[ours]) / capacity(one[other])


def batched(model: str) -> Callable[[Round], float]:
    def figure(one: Round) -> float:
        return float(one[model]["batch"]["per_second"] / one[model]["engine"]["batch_per_second"])

    return figure


def open_loop(model: str, load: str, name: str) -> Callable[[Round], float]:
    """Return a figure of an open loop; not a number where what sent was late itself."""

    def figure(one: Round) -> float:
        told = one[model][load]
        return float(told[name]) if told["late_p95_ms"] <= LATE_MS else math.nan

    return figure
