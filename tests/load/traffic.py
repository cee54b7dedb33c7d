"""HTTP traffic from one process: as many requests a second as are asked for, or as are answered.

An open loop sends each request when it is due, whether or not others were answered, and counts its
time from then on: a server that stops for a second is late for all that was due in it, not for
one request only.
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

HOST = "127.0.0.1"
PATIENCE = 10.0  # seconds for what was sent last
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What is sent, and a name for its kind."""

    kind: str
    raw: bytes

    @classmethod
    def post(cls, kind: str, path: str, body: bytes, type_: str = "application/json") -> Request:
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {type_}\r\n"
        return cls(kind, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


@dataclass(frozen=True)
class Outcome:
    """How a request ended; status 0 is no answer. ``retry`` tells whether it says when to retry."""

    kind: str
    status: int
    ms: float
    retry: bool = False


class Connection(asyncio.Protocol):
    """Sends one request after another, each when the one before it is answered."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.received, self.answers = pool, b"", 0
        self.sent: tuple[Request, float] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, request: Request, due: float) -> None:
        self.sent = request, due
        self.transport.write(request.raw)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, gap, body = self.received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not gap or length is None or len(body) < int(length[1]):
            return
        self.received, self.answers = b"", self.answers + 1
        self.pool.answered(self, int(head[9:12]), b"\r\nretry-after:" in head.lower())

    def connection_lost(self, error: Exception | None) -> None:
        self.pool.lost(self)


class Pool:
    """Connections to one server, more of them while none is free, up to ``most``."""

    def __init__(self, port: int, most: int) -> None:
        self.port, self.most, self.open = port, most, 0
        self.free: list[Connection] = []
        self.waiting: deque[tuple[Request, float]] = deque()
        self.asked = 0
        self.outcomes: list[Outcome] = []
        self.loop = asyncio.get_running_loop()
        self.then: Callable[[], None] = lambda: None  # after each answer
        self._opening: set[asyncio.Task[None]] = set()

    def ask(self, request: Request, due: float) -> None:
        """Send a request now, or as soon as a connection is free."""
        self.asked += 1
        self.waiting.append((request, due))
        self._serve()
        if self.waiting and self.open < self.most:
            self.open += 1
            task = self.loop.create_task(self.connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def connect(self) -> None:
        try:
            _, made = await self.loop.create_connection(lambda: Connection(self), HOST, self.port)
        except OSError:
            self.open -= 1
            if self.waiting:
                self._failed(*self.waiting.popleft())
            return
        self.free.append(made)
        self._serve()

    def answered(self, connection: Connection, status: int, retry: bool) -> None:
        assert connection.sent is not None
        request, due = connection.sent
        connection.sent = None
        ms = (self.loop.time() - due) * 1e3
        self.outcomes.append(Outcome(request.kind, status, ms, retry))
        self.free.append(connection)
        self._serve()
        self.then()

    def lost(self, connection: Connection) -> None:
        """Forget a connection. A server may close one that was idle: its request goes out again."""
        self.open -= 1
        if connection in self.free:
            self.free.remove(connection)
        if connection.sent and connection.answers and not connection.received:
            self.asked -= 1
            self.ask(*connection.sent)
        elif connection.sent:
            self._failed(*connection.sent)

    def _failed(self, request: Request, due: float) -> None:
        self.outcomes.append(Outcome(request.kind, 0, (self.loop.time() - due) * 1e3))
        self.then()

    def _serve(self) -> None:
        while self.waiting and self.free:
            self.free.pop().send(*self.waiting.popleft())

    async def finish(self) -> list[Outcome]:
        """Wait for what is not answered yet, close, and return every outcome."""
        until = self.loop.time() + PATIENCE
        while len(self.outcomes) < self.asked and self.loop.time() < until:
            await asyncio.sleep(0.01)
        unanswered = self.asked - len(self.outcomes)
        self.outcomes += [Outcome("unanswered", 0, PATIENCE * 1e3)] * unanswered
        for connection in self.free:
            connection.transport.abort()
        return self.outcomes


async def open_loop(
    port: int, requests: Iterable[Request], rate: float, seconds: float, *, most: int = 900
) -> tuple[list[Outcome], list[float]]:
    """Send requests at random moments, ``rate`` a second on average.

    Returns outcomes, and by how many ms each request was sent too late.
    """
    pool, chance = Pool(port, most), random.Random(0)
    now = pool.loop.time
    due = now()
    end, late = due + seconds, []
    for request in requests:
        due += chance.expovariate(rate)
        if due > end:
            break
        await asyncio.sleep(max(0.0, due - now()))
        late.append((now() - due) * 1e3)
        pool.ask(request, due)
    return await pool.finish(), late


async def closed_loop(
    port: int, requests: Iterator[Request], connections: int, seconds: float
) -> list[Outcome]:
    """Send the next request whenever one is answered, on so many connections."""
    pool = Pool(port, connections)
    end = pool.loop.time() + seconds

    def go_on() -> None:
        if (now := pool.loop.time()) < end:
            pool.ask(next(requests), now)

    pool.then = go_on
    for _ in range(connections):
        go_on()
    await asyncio.sleep(seconds)
    return await pool.finish()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, on the fast event loop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values do not exceed; not a number where none is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def summary(outcomes: Sequence[Outcome], late: Sequence[float], seconds: float) -> dict[str, Any]:
    """Return what an open loop found; times are those of answers with 2xx."""
    good = [one.ms for one in outcomes if 200 <= one.status < 300]
    refused = [one for one in outcomes if one.status == 503]
    return {
        "sent_per_second": len(outcomes) / seconds,
        "good_per_second": len(good) / seconds,
        "p50_ms": statistics.median(good) if good else float("nan"),
        "p95_ms": percentile(good, 0.95),
        "statuses": dict(Counter(str(one.status) for one in outcomes)),
        "refused_without_retry_after": sum(not one.retry for one in refused),
        "late_p95_ms": percentile(late, 0.95),
    }
