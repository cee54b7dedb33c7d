"""Turns of requests at the model: one after the other, refused where the wait would be long."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

_WEIGHT = 0.05  # of the newest turn in the running mean of their times
_STEP = 4  # times that mean is the most that one turn counts for
_TURN = 0.010  # seconds that one turn of a batch should take
_MOST = 256  # queries of one turn


class Admission:
    """A queue in front of the model, which is called on the event loop itself.

    A query takes 0.1 to 3 ms, less than handing it to a thread and back would cost beside other
    requests. After each turn the loop reads what has arrived, so that what cannot be answered in
    time is refused at once and what can be waits for a bounded time.

    Parameters
    ----------
    max_wait : float
        Seconds that a request may expect to wait.
    """

    def __init__(self, max_wait: float) -> None:
        self.max_wait = max_wait
        self.seconds = 0.001  # of one query, a running mean
        self.last = 0.0  # seconds of one query in the turn that ended last
        self.queries = 0  # that wait
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._taken = False

    @property
    def expected_wait(self) -> float:
        """Seconds until a request that comes now would have its turn."""
        return self.queries * self.seconds

    @property
    def idle(self) -> bool:
        """Whether nobody has the turn or waits for it."""
        return not self._taken

    @property
    def full(self) -> bool:
        """Whether a request that comes now would wait for too long."""
        return self._taken and self.expected_wait > self.max_wait

    @property
    def chunk(self) -> int:
        """How many queries of a batch one turn takes, so that single queries come in between."""
        return max(1, min(_MOST, int(_TURN / self.seconds)))

    async def call(self, answer: Callable[[list[str]], T], queries: list[str]) -> T:
        """Return ``answer(queries)`` when its turn has come."""
        if self._taken:
            await self._turn(len(queries))
        self._taken = True
        started = perf_counter()
        try:
            return answer(queries)
        finally:
            self.last = (perf_counter() - started) / len(queries)
            took = min(self.last, _STEP * self.seconds)  # one stall of the machine is no overload
            self.seconds += _WEIGHT * (took - self.seconds)
            asyncio.get_running_loop().call_soon(self._next)

    async def _turn(self, queries: int) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((future, queries))
        self.queries += queries
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():  # it had the turn
                self._next()
            raise

    def _next(self) -> None:
        """Give the turn to who has waited longest, after the loop has read what arrived."""
        while self._waiting:
            future, queries = self._waiting.popleft()
            self.queries -= queries
            if not future.done():  # else its client has left
                future.set_result(None)
                return
        self._taken = False
