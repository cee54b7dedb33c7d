"""One part of `make bench-serve` in a process of its own, on the core that it was started on.

``python -m tests.benchmarks.serving_worker PART JSON`` prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.load import traffic
from tests.load.traffic import Request

BATCH = 1_000  # queries of one request
_CONSTANT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def numbered(queries: str, start: int) -> Iterator[str]:
    """Yield queries of a file without end, as they stand in JSON, each with another number."""
    lines = Path(queries).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(itertools.cycle(lines), start):
        yield f"{line} {number}"


def batches(queries: str, start: int) -> Iterator[str]:
    """Yield the bodies of requests for `BATCH` answers."""
    asked = numbered(queries, start)
    while True:
        joined = '", "'.join(itertools.islice(asked, BATCH))
        yield f'{{"queries": ["{joined}"]}}'


def engine(model: str, queries: str, seconds: float, start: int) -> dict[str, Any]:
    """Time the model alone: a query at a time, then as many as a batch has."""
    from nivesh_lib.serving.predictor import Predictor

    predictor = Predictor.from_directory(model)
    asked = (json.loads(f'"{text}"') for text in numbered(queries, start))
    predictor.predict(itertools.islice(asked, 100))  # warms up
    times = []
    until = perf_counter() + seconds
    while (began := perf_counter()) < until:
        query = next(asked)
        predictor.predict([query])
        times.append((perf_counter() - began) * 1e3)
    many, done, until = list(itertools.islice(asked, BATCH)), 0, perf_counter() + seconds
    began = perf_counter()
    while perf_counter() < until:
        done += len(list(predictor.predict_batch(many)))
    batched = done / (perf_counter() - began)
    return {"p50_ms": statistics.median(times), "batch_per_second": batched}


def many(port: int, path: str, queries: str, seconds: float, start: int) -> dict[str, Any]:
    """Send one batch after the other."""
    bodies = itertools.islice(batches(queries, start), 8)
    ready = [Request.post("batch", path, body.encode()) for body in bodies]
    found = traffic.run(traffic.closed_loop(port, itertools.cycle(ready), 1, seconds))
    good = sum(one.status == 200 for one in found)
    return {"per_second": BATCH * good / sum(one.ms for one in found) * 1e3}


def flow(
    port: int, path: str, queries: str, seconds: float, start: int, rate: float
) -> dict[str, Any]:
    """Send single queries at a rate, whatever becomes of them."""
    bodies = (f'{{"query": "{text}"}}'.encode() for text in numbered(queries, start))
    requests = (Request.post("single", path, body) for body in bodies)
    outcomes, late = traffic.run(traffic.open_loop(port, requests, rate, seconds))
    return traffic.summary(outcomes, late, seconds) | {"rate": rate}


def ceiling(port: int, queries: str, seconds: float, start: int) -> dict[str, Any]:
    """Send to the responder as fast as it goes."""
    bodies = (f'{{"query": "{text}"}}'.encode() for text in numbered(queries, start))
    requests = (Request.post("single", "/", body) for body in bodies)
    found = traffic.run(traffic.closed_loop(port, requests, 64, seconds))
    return {"per_second": len(found) / seconds}


def responder(port: int) -> None:
    """Answer everything at once, so that what sends is all that takes time."""

    class Responder(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(_CONSTANT)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Responder, traffic.HOST, port)
        await server.serve_forever()

    traffic.run(serve())


if __name__ == "__main__":
    part = {one.__name__: one for one in (engine, many, flow, ceiling, responder)}[sys.argv[1]]
    sys.stdout.write(json.dumps(part(**json.loads(sys.argv[2]))) + "\n")
