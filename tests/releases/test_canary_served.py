"""A canary under load: servers roll it back or promote it by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY

from nivesh_lib.releases import canary
from nivesh_lib.releases.log import read_log, state_of
from nivesh_lib.releases.package import Package
from nivesh_lib.serving import service as service_module
from nivesh_lib.serving.app import create_app
from nivesh_lib.serving.settings import Settings
from tests.releases.test_canary import NAME, begin, go_to, on
from tests.releases.test_served import TEXTS, until
from tests.serving.test_workers import serves, serving, workers_of
from tests.serving.test_workers import until as sync_until

LIMITS = {"delta": 0.3, "disagreement": 0.4}  # so that a test need not ask thousands of times


class Load:
    """Asks a server without end, as many users."""

    def __init__(self, app) -> None:
        self.app, self.service = app, app.state.service
        self.seen: Counter[tuple[int, str, bool]] = Counter()
        self.latest = ""  # the release that answered last
        self._users = itertools.count()

    async def ask(self, client: httpx.AsyncClient) -> None:
        while True:
            for text, wanted in TEXTS.items():
                body = {"query": text, "user_id": f"user_{next(self._users)}"}
                got = await client.post("/predict/intent", json=body)
                answer = got.json()
                right = wanted[answer["release"] == "1.0.1"] == answer["intent"]
                self.seen[got.status_code, answer["release"], right] += 1
                await asyncio.sleep(0.01)  # a shadow is asked only while nobody waits


@contextlib.asynccontextmanager
async def under_load() -> AsyncIterator[Load]:
    app = create_app(Settings(max_wait=5, cache=False))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        load = Load(app)
        asking = [asyncio.create_task(load.ask(client)) for _ in range(4)]
        yield load
        for task in asking:
            assert not task.done()
            task.cancel()


async def ended(condition: Callable[[], object], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def test_a_worse_release_is_rolled_back_in_shadow_and_answers_nobody(serving_release):
    begin("1.0.1", **LIMITS)
    before = REGISTRY.get_sample_value("canary_rollbacks_total")

    async def run() -> Counter:
        async with under_load() as load:
            await ended(lambda: not on())
            await until(lambda: load.service.rollout is None)
            return load.seen

    seen = asyncio.run(run())
    assert set(seen) == {(200, "1.0.0", True)}
    assert REGISTRY.get_sample_value("canary_rollbacks_total") == before + 1
    last = read_log(NAME)[-1]
    assert last["step"] == "rolled back" and canary._TITLES["disagreement"] in last["why"]
    assert last["evidence"]["e_value"] >= last["evidence"]["bound"]


def test_an_equal_release_goes_to_everybody_and_no_answer_is_lost(serving_release):
    begin("1.0.2", **LIMITS)

    async def run() -> Counter:
        async with under_load() as load:
            await ended(lambda: not on())
            await until(lambda: load.service.release == "1.0.2" and not load.service.rollout)
            load.seen["reasons"] = len(load.service.reasons())
            return load.seen

    seen = asyncio.run(run())
    assert seen.pop("reasons") == 0
    assert set(seen) == {(200, "1.0.0", True), (200, "1.0.2", True)}
    steps = [e.get("step") or e.get("stage") for e in read_log(NAME) if e["version"] == "1.0.2"][1:]
    assert steps == ["shadow", "10", "25", "50", "production"]


def test_an_abort_takes_effect_within_a_second(serving_release):
    begin("1.0.2")
    go_to("50")

    async def run() -> Counter:
        async with under_load() as load:
            await until(lambda: load.seen[200, "1.0.2", True] > 20)
            await asyncio.to_thread(canary.abort)
            await until(lambda: load.service.rollout is None)
            load.seen.clear()
            await until(lambda: load.seen.total() > 50)
            return load.seen

    assert set(asyncio.run(run())) == {(200, "1.0.0", True)}
    assert service_module._LOOK <= 0.5  # seconds between two looks at the log


def test_production_answers_where_the_canary_fails_which_rolls_it_back(serving_release):
    begin("1.0.2", **LIMITS)
    go_to("50")

    def fails(queries):
        raise RuntimeError("no answer")

    async def run() -> Counter:
        async with under_load() as load:
            load.service.rollout.canary.predict_batch = fails
            load.seen.clear()
            await ended(lambda: not on())
            return load.seen

    assert set(asyncio.run(run())) == {(200, "1.0.0", True)}
    assert canary._TITLES["errors"] in read_log(NAME)[-1]["why"]


def test_a_canary_that_cannot_be_loaded_is_rolled_back(serving_release):
    begin("1.0.2")
    (Package.of(NAME, "1.0.2").model / "model.json").write_text("{}")

    async def run() -> None:
        async with under_load() as load:
            await ended(lambda: not on())
            assert load.service.rollout is None

    asyncio.run(run())
    assert "it cannot be loaded" in read_log(NAME)[-1]["why"]


def test_a_server_that_cannot_write_the_log_sends_nobody_to_the_canary(
    serving_release, monkeypatch
):
    begin("1.0.2")
    monkeypatch.setattr(service_module, "can_decide", lambda name: False)

    async def run() -> list[str]:
        async with under_load() as load:
            await until(lambda: load.seen.total() > 20)
            assert load.service.rollout is None
            return load.service.reasons()

    (reason,) = asyncio.run(run())
    assert "the canary 1.0.2 gets no users here" in reason


@pytest.mark.slow
def test_two_workers_count_together_and_a_killed_server_goes_on(serving_release, tmp_path):
    begin("1.0.2", alpha=1e-6)

    def asking(address: str, done: threading.Event) -> None:
        for number in itertools.count():
            if done.is_set():
                return
            with contextlib.suppress(httpx.HTTPError):
                body = {"query": f"save refund 80c {number}", "user_id": str(number)}
                httpx.post(f"{address}/predict/intent", json=body)

    @contextlib.contextmanager
    def loaded(log):
        done = threading.Event()
        with serving(tmp_path / log, "--workers", "2") as (process, address):
            sync_until(lambda: serves(address, 2))
            thread = threading.Thread(target=asking, args=(address, done))
            thread.start()
            yield process
            done.set()
            thread.join()

    def n() -> int:
        return canary.status(NAME)["n"]

    with loaded("first") as process:
        sync_until(lambda: n() >= 10)
        (decides,) = {int(w) for w in workers_of(process) if holds_lock(w)}
        before = n()
        os.kill(decides, signal.SIGKILL)
        sync_until(lambda: n() >= before + 10)
        for one in (process.pid, *workers_of(process)):
            os.kill(one, signal.SIGKILL)
        kept = n()
    with loaded("second"):
        sync_until(lambda: n() >= kept + 10)
    assert (on()["step"], state_of(read_log(NAME)).production) == ("shadow", "1.0.0")


def holds_lock(process: int) -> bool:
    inode = Package.of(NAME, "1.0.2").folder.stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(
        int(w[4]) == process and w[5].endswith(f":{inode}") for w in locks if w[1] == "FLOCK"
    )
