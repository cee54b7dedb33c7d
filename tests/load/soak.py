"""Mixed traffic for minutes: ``make soak``, ``ARGS="--seconds 60"`` for less.

Two workers get half of what they can answer: single queries, batches, corrections and bad bodies.
Exit code 1 where a worker's memory grows, one ends, or an answer is none that a request of its
kind may get.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.data.versions import load_dataset
from tests.load import traffic
from tests.load.server import ours
from tests.load.traffic import Outcome, Request

SETTLED = 60.0  # seconds after which memory should not grow
SHARES = {"single": 85, "batch": 5, "correction": 5, "bad": 5}
EXPECTED = {"single": {200, 503}, "batch": {200, 503}, "correction": {201}}
EXPECTED["bad"] = {400, 415, 422, 503}
_BATCH = 20  # queries


def requests(queries: Sequence[str], seed: int = 0) -> Iterator[Request]:
    """Yield requests of all kinds without end; no query comes twice."""
    chance = random.Random(seed)
    for number, query in enumerate(itertools.cycle(queries)):
        (kind,) = chance.choices(list(SHARES), list(SHARES.values()))
        text = f"{query} {number}"
        if kind == "bad":
            yield bad(text, chance)
        elif kind == "batch":
            yield post(
                kind, "/predict/intent/batch", queries=[f"{text} {n}" for n in range(_BATCH)]
            )
        elif kind == "correction":
            yield post(kind, "/feedback", query=text, intent="tax_planning")
        else:
            yield post(kind, "/predict/intent", query=text)


def post(kind: str, path: str, **body: Any) -> Request:
    return Request.post(kind, path, json.dumps(body).encode())


def bad(text: str, chance: random.Random) -> Request:
    """Return one of the requests that are refused whatever is waiting."""
    path = "/predict/intent"
    return chance.choice(
        [
            Request.post("bad", path, b'{"query": '),
            Request.post("bad", path, b"\xff\xfe"),
            Request.post("bad", path, text.encode(), "text/plain"),
            post("bad", path, query=" "),
            post("bad", path, query=text * 50),
            post("bad", path, query=text, more=1),
            post("bad", "/predict/intent/batch", queries=[]),
            post("bad", "/feedback", query=text, intent="no such"),
        ]
    )


def workers(parent: int) -> list[int]:
    """Return the processes that a server has started; itself where it works alone."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(one) for one in children] or [parent]


def resident(processes: Sequence[int]) -> int:
    """Return the bytes of memory that processes hold, those they share counted for each."""
    found = 0
    for process in processes:
        status = Path(f"/proc/{process}/status").read_text()
        found += int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return found


async def memory(processes: Sequence[int], seconds: float) -> list[int]:
    """Return what processes hold, every second, as long as they are there."""
    found = []
    for _ in range(int(seconds)):
        await asyncio.sleep(1)
        try:
            found.append(resident(processes))
        except (OSError, IndexError):  # one has ended
            break
    return found


def growth(samples: Sequence[int]) -> float:
    """Return by what share memory has grown since it should be settled."""
    settled = min(int(SETTLED), len(samples) // 3)
    width = max(1, len(samples) // 20)
    first = statistics.median(samples[settled : settled + width])
    return statistics.median(samples[-width:]) / first - 1


def faults(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each kind of request with answers that it may not get."""
    strange = Counter(
        (one.kind, one.status)
        for one in outcomes
        if one.status not in EXPECTED.get(one.kind, ()) or (one.status == 503 and not one.retry)
    )
    return [f"{kind}: {count:,} got {status}" for (kind, status), count in strange.items()]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak ARGS=…", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=600, help="of traffic (default 600)")
    add("--workers", type=int, default=2, help="processes of the server (default 2)")
    add("--model", default=str(paths.shipped_model()), help="default: the one that ships")
    add("--growth", type=float, default=0.02, help="of memory, as a share (default 0.02)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    made = requests(load_dataset("intents@1.1.0").train["query"].tolist())
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        ours(args.model, args.workers, Path(folder)) as (process, port),
    ):
        tried = max(1.0, min(10.0, args.seconds / 6))
        found = traffic.run(traffic.closed_loop(port, made, 16, tried))
        rate = sum(one.status != 503 for one in found) / tried / 2
        say(f"{rate:,.0f} requests a second, half of what {args.workers} workers answered")
        before = workers(process.pid)

        async def both() -> tuple[tuple[list[Outcome], list[float]], list[int]]:
            return await asyncio.gather(
                traffic.open_loop(port, made, rate, args.seconds), memory(before, args.seconds)
            )

        (outcomes, late), samples = traffic.run(both())
        after = workers(process.pid)
    return told(outcomes, late, samples, args, ended=len(set(before) - set(after)))


def told(
    outcomes: Sequence[Outcome],
    late: Sequence[float],
    samples: Sequence[int],
    args: argparse.Namespace,
    *,
    ended: int,
) -> int:
    """Print what was found; return the exit code."""
    for kind in SHARES:
        ms = [one.ms for one in outcomes if one.kind == kind]
        statuses = Counter(one.status for one in outcomes if one.kind == kind)
        shown = ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
        say(f"{kind:<11}p95 {traffic.percentile(ms, 0.95):7.1f} ms   {shown}")
    grown = growth(samples) if samples else float("inf")
    wrong = faults(outcomes)
    wrong += [f"{ended} workers ended"] if ended else []
    wrong += [f"memory grew by more than {args.growth:.1%}"] if grown > args.growth else []
    say(f"sent late by {traffic.percentile(late, 0.95):.1f} ms (p95)")
    if samples:
        first, last = samples[0] / 1e6, samples[-1] / 1e6
        say(f"memory {first:.1f} MB, at the end {last:.1f} MB, {grown:+.2%} since it settled")
    say("\n".join(wrong) or "no fault")
    return 1 if wrong else 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
