from __future__ import annotations

import time

import pytest

from nivesh_lib.evaluation.latency import directory_bytes, measure_latency, saved_bytes


def test_a_call_of_known_length_is_measured_in_milliseconds():
    found = measure_latency(lambda _: time.sleep(0.01), ["tax"], warmup=1, repeats=20)
    assert 10 <= found["p50_ms"] < 20
    assert found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]


def test_one_slow_call_in_ten_shows_in_the_tail_only():
    pauses = iter([0.05 if i % 10 == 0 else 0 for i in range(30)])
    found = measure_latency(lambda _: time.sleep(next(pauses)), ["tax"], warmup=0, repeats=30)
    assert found["p50_ms"] < 25 < found["p95_ms"]


def test_the_warm_up_does_not_count():
    pauses = iter([0.05, 0.05, *[0] * 9])
    found = measure_latency(lambda _: time.sleep(next(pauses)), ["tax"], warmup=2, repeats=9)
    assert found["p50_ms"] < 25
    assert found["n"] == 9


def test_queries_are_asked_one_at_a_time_and_in_turn():
    asked = []
    measure_latency(asked.append, ["a", "b"], warmup=1, repeats=4)
    assert asked == [["a"], ["a"], ["b"], ["a"], ["b"]]


@pytest.mark.parametrize(("limit", "threads"), [(None, 0), ("2", 2)])
def test_the_limit_on_threads_is_recorded(monkeypatch, limit, threads):
    monkeypatch.delenv("NIVESH_THREADS", raising=False)
    if limit:
        monkeypatch.setenv("NIVESH_THREADS", limit)
    assert measure_latency(len, ["tax"], repeats=1)["threads"] == threads


def test_no_queries_are_refused():
    with pytest.raises(ValueError, match="queries is empty"):
        measure_latency(len, [])


def test_a_directory_is_as_large_as_its_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.json").write_bytes(b"12345")
    (tmp_path / "sub" / "b.json").write_bytes(b"123")
    assert directory_bytes(str(tmp_path)) == 8


def test_a_model_is_as_large_as_what_it_saves():
    class Model:
        def save(self, directory):
            directory.mkdir()
            (directory / "model.json").write_bytes(b"1234567")
            return directory

    assert saved_bytes(Model()) == 7
