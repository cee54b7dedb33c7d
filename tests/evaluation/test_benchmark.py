from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import json
import os
import re
import subprocess
import sys
import time

import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.evaluation import benchmark
from nivesh_lib.evaluation.benchmark import (
    benchmark_served,
    directory_bytes,
    measure_latency,
    race,
    saved_bytes,
    speed_of,
)
from nivesh_lib.evaluation.objectives import Objective, judge_all
from nivesh_lib.models.base import get_model

pytestmark = pytest.mark.usefixtures("no_collection")
QUERIES = [f"query {n}" for n in range(10)]


def test_a_call_of_known_length_is_measured_in_milliseconds():
    found = measure_latency(lambda _: time.sleep(0.01), ["tax"], warmup=1, repeats=20)
    assert 10 <= found["p50_ms"] < 20
    assert found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]


def test_one_slow_call_in_ten_shows_in_the_tail_only():
    # Every block of three begins with a call that is not timed.
    pauses = iter([0.05 if i % 13 == 1 else 0 for i in range(40)])
    found = measure_latency(lambda _: time.sleep(next(pauses)), ["tax"], warmup=0, repeats=30)
    assert found["p50_ms"] < 25 < found["p95_ms"]


def test_the_warm_up_does_not_count():
    pauses = iter([0.05, 0.05, *[0] * 18])
    found = measure_latency(lambda _: time.sleep(next(pauses)), ["tax"], warmup=2, repeats=9)
    assert found["p50_ms"] < 25
    assert found["n"] == 9


def test_queries_are_asked_one_at_a_time_and_in_turn():
    called = []
    measure_latency(called.append, ["a", "b"], warmup=1, repeats=4)
    # Each block, here of one call, has a call before it that is not timed.
    assert called == [["a"], *[["a"], ["a"], ["b"], ["b"]] * 2]


@pytest.mark.parametrize(("limit", "threads"), [(None, 0), ("2", 2)])
def test_the_limit_on_threads_is_recorded(monkeypatch, limit, threads):
    monkeypatch.delenv("NIVESH_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit:
        monkeypatch.setenv("NIVESH_THREADS", limit)
    assert measure_latency(len, ["tax"], repeats=1)["threads"] == threads


def test_no_queries_are_refused():
    with pytest.raises(ValueError, match="queries is empty"):
        measure_latency(len, [])
    with pytest.raises(ValueError, match="queries is empty"):
        benchmark_served(Holder(), [])


def test_no_call_that_counts_is_refused():
    for timed in (measure_latency, speed_of):
        with pytest.raises(ValueError, match="0 repeats"):
            timed(len, QUERIES, repeats=0)


def test_each_batch_size_has_its_times_and_its_throughput():
    one, four = (
        speed_of(lambda _: time.sleep(0.004), QUERIES, batch_size=size, repeats=10)
        for size in (1, 4)
    )
    assert (one.batch_size, four.batch_size, four.n) == (1, 4, 10)
    assert 4 <= one.p50_ms <= one.p95_ms <= one.p99_ms
    assert four.per_second == pytest.approx(4 * one.per_second, rel=0.5)


def test_a_slow_call_lowers_the_throughput_though_not_the_median():
    pauses = iter([0, 0.1, *[0] * 18])  # the first is not timed
    speed = speed_of(lambda _: time.sleep(next(pauses)), QUERIES, warmup=0, repeats=10)
    assert speed.p50_ms < 10 and speed.per_second < 100


def test_batches_hold_distinct_queries_in_turn():
    called = []
    speed_of(called.append, QUERIES[:5] * 2, batch_size=3, warmup=1, repeats=3)
    names = [[QUERIES.index(query) for query in batch] for batch in called]
    assert [names[0], *names[2::2]] == [[0, 1, 2], [0, 1, 2], [3, 4, 0], [1, 2, 3]]


def test_timing_ends_after_the_seconds_given_but_not_before_five_calls():
    speed = speed_of(lambda _: time.sleep(0.01), QUERIES, seconds=0)
    assert speed.n == 5


@pytest.mark.parametrize("size", [0, 11])
def test_batches_that_cannot_be_filled_are_refused(size):
    with pytest.raises(ValueError, match=f"do not fill a batch of {size}"):
        speed_of(len, QUERIES, batch_size=size)


def test_processor_and_threads_stand_beside_the_numbers(monkeypatch):
    monkeypatch.setenv("NIVESH_THREADS", "2")
    monkeypatch.setattr(
        "nivesh_lib.evaluation.benchmark.environment",
        lambda: {"processor": {"model": "Some CPU", "flags": ["avx2"]}},
    )
    speed = speed_of(len, QUERIES, repeats=5)
    assert (speed.threads, speed.processor, speed.flags) == (2, "Some CPU", ("avx2",))
    assert json.loads(json.dumps(speed.as_dict()))["flags"] == ["avx2"]


def test_what_was_in_memory_before_is_kept_from_the_collector_while_timing(monkeypatch):
    monkeypatch.undo()
    gc.unfreeze()
    frozen = []
    speed_of(lambda _: frozen.append(gc.get_freeze_count()), QUERIES, repeats=5)
    assert min(frozen) > 0 and gc.get_freeze_count() == 0
    gc.freeze()


@pytest.fixture
def clock(monkeypatch):
    """A clock that only ``clock(name, ms)`` moves, which also records the calls."""
    now, called = [0], []
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])

    def takes(name, *ms):
        pauses = itertools.cycle(ms)

        def predict(_):
            called.append(name)
            now[0] += int(1e6 * next(pauses))

        return predict

    takes.called = called
    return takes


QUIET, BUSY = [*[1.0] * 9, 9.0], [1.0, 1.0, 4.0, 9.0, 1.0]
TARGET = Objective("m", "p95_ms", 100, at_most=True)


@pytest.fixture
def beside(clock, monkeypatch):
    """Replace the reference loop by one that takes these milliseconds in turn."""

    def loop(times):
        taken = contextlib.nullcontext(functools.partial(clock("loop", *times), None))
        monkeypatch.setattr(benchmark, "reference_loop", lambda: taken)

    return loop


@pytest.mark.parametrize(
    ("times", "ms", "status", "said"),
    [
        (QUIET, 3, "met", "3.0 ms"),
        (QUIET, 300, "not met", "300.0 ms"),
        (BUSY, 300, "undecided", "300.0 ms; the machine was busy, .* 4.0 times its fastest"),
        (BUSY, 3, "met", "3.0 ms; the machine was busy, which makes it longer"),
    ],
)
def test_a_model_is_too_slow_only_on_a_quiet_machine(clock, beside, times, ms, status, said):
    beside(times)
    found = measure_latency(clock("model", ms), QUERIES)
    (judged,) = judge_all(found, [TARGET])
    assert judged.status == status and re.match(said, judged.found)


def test_the_reference_loop_is_timed_between_blocks_of_calls(clock, beside):
    beside([1])
    found = measure_latency(clock("model", 3), QUERIES, warmup=2, repeats=200)
    blocks = [(name, len(list(calls))) for name, calls in itertools.groupby(clock.called)]
    assert blocks == [("loop", 1), ("model", 2), *[("loop", 10), ("model", 21)] * 10]
    assert (found["reference_ms"], found["reference_ms_n"], found["n"]) == (1, 100, 200)


def test_a_model_that_is_slow_in_some_rounds_has_a_wide_interval(clock, beside):
    beside(QUIET)
    found = measure_latency(clock("model", *[50] * 160, *[150] * 40), QUERIES, warmup=0)
    assert (found["p95_ms_low"], found["p95_ms"], found["p95_ms_high"]) == (50, 150, 150)
    assert judge_all(found, [TARGET])[0].status == "undecided"


@pytest.mark.slow
def test_a_machine_that_computes_something_else_is_busy():
    burn = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(burn) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        found = measure_latency(lambda _: sum(range(100_000)), QUERIES)
    finally:
        for other in others:
            other.kill()
            other.wait()
    at_most = Objective("m", "p95_ms", 0.01, at_most=True)
    assert judge_all(found, [at_most])[0].status == "undecided"


def test_models_of_a_race_take_turns_beside_the_reference_loop(clock, beside):
    beside([1])
    found = race({"slow": clock("slow", 4), "fast": clock("fast", 1)}, QUERIES, calls=20)
    turns = [name for name, _ in itertools.groupby(clock.called) if name != "loop"]
    assert turns == ["slow", *["fast", "slow"] * 10, "fast"][: len(turns)] or turns[:2] == [
        "slow",
        "fast",
    ]
    assert [(one.p50_ms, one.p95_ms, one.n, one.reference_ms) for one in found.values()] == [
        (4, 4, 20, 1),
        (1, 1, 20, 1),
    ]


def test_models_of_a_race_are_asked_the_same_queries():
    asked = {"one": [], "two": []}
    race({name: asked[name].extend for name in asked}, QUERIES, calls=15)
    assert asked["one"] == asked["two"] and set(asked["one"]) == set(QUERIES)


@pytest.mark.parametrize("odd", [{"models": {}}, {"calls": 0}, {"queries": []}])
def test_a_race_of_nothing_is_refused(odd):
    given = {"models": {"one": len}, "queries": QUERIES, "calls": 1, **odd}
    with pytest.raises(ValueError, match=r"no model|at least one"):
        race(given.pop("models"), given.pop("queries"), **given)


def test_a_directory_is_as_large_as_its_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.json").write_bytes(b"12345")
    (tmp_path / "sub" / "b.json").write_bytes(b"123")
    assert directory_bytes(str(tmp_path)) == 8


def test_a_model_is_as_large_as_what_it_saves():
    class Model:
        def save(self, directory):
            directory.mkdir()
            (directory / "model.json").write_bytes(b'{"a":1}')
            return directory

    assert saved_bytes(Model()) == 7


FEW_QUERIES = [f"query {n}" for n in range(8)]


class Holder:
    """A model that saves one file, which nothing can load."""

    def save(self, directory):
        directory.mkdir()
        (directory / "model.json").write_text("9876543210")
        return directory


def test_a_model_that_does_not_load_is_named_with_the_end_of_stderr():
    with pytest.raises(ModelError, match=r"could not be measured.*not a model description"):
        benchmark_served(Holder(), FEW_QUERIES)


def test_queries_reach_the_process_by_its_standard_input_only(monkeypatch):
    seen, speed = [], speed_of(len, QUERIES, repeats=1)

    def run(command, *, input, env, **given):
        seen.append((command, input, env["OMP_NUM_THREADS"]))
        answer = json.dumps({"speed": speed.as_dict(), "peak": 7})
        return subprocess.CompletedProcess(command, 0, f"a library that talks\n{answer}\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert benchmark_served(Holder(), FEW_QUERIES) == (speed, 7)
    ((command, stdin, threads),) = seen
    assert "query 3" in stdin and not any("query" in word for word in command)
    assert threads == "1"


def test_where_proc_is_absent_the_system_is_asked(monkeypatch):
    monkeypatch.setattr("pathlib.Path.is_file", lambda self: False)
    assert benchmark._peak_bytes() > 10_000_000


def test_a_model_is_measured_as_it_would_be_served_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fitted = get_model("tfidf").fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    here = bytearray(500_000_000)
    here[::4096] = b"x" * len(here[::4096])
    speed, peak = benchmark_served(fitted, FEW_QUERIES, seconds=0.01)
    assert (speed.batch_size, speed.threads) == (8, 1)
    assert 10_000_000 < peak < len(here), "the peak of the process that waits"
    assert list(tmp_path.iterdir()) == []
