from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from tests.load import traffic
from tests.load.traffic import Outcome, Request, percentile

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
FULL = b"HTTP/1.1 503 Full\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
ASK = Request.post("single", "/", b'{"query": "x"}')


class Server(asyncio.Protocol):
    """Answers with what a function of the request's number returns; None closes instead."""

    def __init__(self, answer: Callable[[int], bytes | None], count: Iterator[int]) -> None:
        self.answer, self.count = answer, count

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        told = self.answer(next(self.count))
        self.transport.close() if told is None else self.transport.write(told)


def against(server, send):
    """Return what ``send(port)`` returns, with servers from a function for each connection."""

    async def both():
        listening = await asyncio.get_running_loop().create_server(server, traffic.HOST, 0)
        async with listening:
            return await send(listening.sockets[0].getsockname()[1])

    return asyncio.run(both())


def flow(answer, rate=400, seconds=0.5):
    count = itertools.count()
    return against(
        lambda: Server(answer, count),
        lambda port: traffic.open_loop(port, itertools.repeat(ASK), rate, seconds),
    )


def circle(server, connections, seconds):
    return against(
        server, lambda port: traffic.closed_loop(port, itertools.repeat(ASK), connections, seconds)
    )


def test_as_many_are_sent_as_were_asked_for_and_each_is_answered_once():
    outcomes, late = flow(lambda number: GOOD)
    assert len(outcomes) == len(late) == pytest.approx(200, rel=0.3)
    assert {(one.kind, one.status) for one in outcomes} == {("single", 200)}


def test_a_server_that_stops_is_late_for_all_that_was_due_meanwhile():
    def answer(number):
        if number == 20:
            time.sleep(0.3)
        return GOOD

    outcomes, _ = flow(answer)
    slow = [one.ms for one in outcomes if one.ms > 50]
    assert len(slow) > 60  # of about 120 that were due in these 300 ms
    assert max(slow) >= 290


def test_what_is_refused_is_told_with_whether_it_says_when_to_retry():
    outcomes, late = flow(lambda number: FULL if number % 2 else GOOD)
    told = traffic.summary(outcomes, late, 0.5)
    assert told["statuses"]["200"] == pytest.approx(told["statuses"]["503"], abs=1)
    assert told["refused_without_retry_after"] == 0
    assert told["good_per_second"] == pytest.approx(told["sent_per_second"] / 2, rel=0.05)
    without = [Outcome("single", 503, 1.0), Outcome("single", 503, 1.0, retry=True)]
    assert traffic.summary(without, [0.0], 1)["refused_without_retry_after"] == 1


def test_a_connection_that_closes_without_an_answer_is_no_answer():
    outcomes, _ = flow(lambda number: None, rate=40)
    assert outcomes and {one.status for one in outcomes} == {0}


def test_a_connection_that_closes_between_two_requests_costs_none():
    def answer(number):
        return None if number == 30 else GOOD

    outcomes, _ = flow(answer)
    assert {one.status for one in outcomes} == {200}


def test_an_answer_in_parts_is_one_answer():
    class InParts(Server):
        def data_received(self, data):
            self.transport.write(GOOD[:20])
            asyncio.get_running_loop().call_later(0.005, self.transport.write, GOOD[20:])

    outcomes = circle(lambda: InParts(lambda number: GOOD, itertools.count()), 1, 0.1)
    assert 1 <= len(outcomes) <= 21 and {one.status for one in outcomes} == {200}


def test_a_closed_loop_has_no_more_in_flight_than_connections():
    flying: list[int] = [0]

    class Slow(Server):
        def data_received(self, data):
            flying.append(flying[-1] + 1)
            asyncio.get_running_loop().call_later(0.01, self.late)

        def late(self):
            flying.append(flying[-1] - 1)
            self.transport.write(GOOD)

    outcomes = circle(lambda: Slow(lambda number: GOOD, itertools.count()), 4, 0.2)
    assert max(flying) == 4 and len(outcomes) >= 8


def test_no_answer_has_no_percentile():
    assert percentile([], 0.95) != percentile([], 0.95)
    assert percentile([3, 1, 2], 0.5) == 2 and percentile([1.0], 0.95) == 1.0
