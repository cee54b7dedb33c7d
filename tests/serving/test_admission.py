from __future__ import annotations

import asyncio

import pytest

from nivesh_lib.serving.admission import Admission


def busy(seconds: float):
    """Return a model that takes some time on the event loop, and the order it was asked in."""
    from time import perf_counter

    asked: list[str] = []

    def answer(queries: list[str]) -> list[str]:
        end = perf_counter() + seconds
        asked.extend(queries)
        while perf_counter() < end:
            pass
        return queries

    return answer, asked


def test_turns_come_in_order_and_between_them_the_loop_goes_round():
    answer, asked = busy(0.002)
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(len(asked))
            await asyncio.sleep(0)

    async def ask() -> None:
        admission = Admission(1.0)
        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(admission.call(answer, [str(i)]) for i in range(6)))
        ticking.cancel()

    asyncio.run(ask())
    assert asked == list("012345")
    assert set(range(1, 7)) <= {*ticks, 6}  # what arrived was looked at after each turn


def test_who_would_wait_too_long_is_told():
    answer, _ = busy(0.005)

    async def ask() -> tuple[bool, bool, bool]:
        admission = Admission(0.02)
        for _ in range(100):  # the mean learns how long a query takes
            await admission.call(answer, ["x"])
            await asyncio.sleep(0)
        before = admission.full
        waiting = [asyncio.create_task(admission.call(answer, ["x"])) for _ in range(8)]
        await asyncio.sleep(0)
        during = admission.full
        await asyncio.gather(*waiting)
        await asyncio.sleep(0)
        return before, during, admission.full

    assert asyncio.run(ask()) == (False, True, False)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_client_that_leaves_blocks_nobody(after):
    answer, asked = busy(0)

    async def ask() -> None:
        admission = Admission(1.0)
        tasks = [asyncio.create_task(admission.call(answer, [str(i)])) for i in range(4)]
        for _ in range(after):
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1)
        await asyncio.sleep(0)
        assert admission.queries == 0 and not admission.full
        await asyncio.wait_for(admission.call(answer, ["last"]), 1)

    asyncio.run(ask())
    assert asked[-1] == "last" and {"0", "2", "3"} <= set(asked)


def test_a_model_that_fails_gives_its_turn_back():
    def broken(queries: list[str]) -> list[str]:
        raise RuntimeError("no")

    async def ask() -> list[str]:
        admission = Admission(1.0)
        found = await asyncio.gather(
            admission.call(broken, ["a"]),
            admission.call(busy(0)[0], ["b"]),
            return_exceptions=True,
        )
        assert isinstance(found[0], RuntimeError)
        return found[1]

    assert asyncio.run(ask()) == ["b"]


def test_turns_of_a_batch_take_about_as_long_whatever_the_model():
    admission = Admission(1.0)
    admission.seconds = 0.0001
    assert admission.chunk == 100
    admission.seconds = 0.1
    assert admission.chunk == 1
