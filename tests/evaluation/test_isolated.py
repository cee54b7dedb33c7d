from __future__ import annotations

import subprocess

import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.evaluation import isolated
from nivesh_lib.evaluation.isolated import as_served, peak_memory_of, speed_in_process
from nivesh_lib.models.base import get_model

QUERIES = [f"query {n}" for n in range(8)]
LOADER = """
import os, pathlib, time

print("a library that talks")
held = []

def load(directory):
    size = int(pathlib.Path(directory, "size").read_text())
    held.append(bytearray(size))
    held[0][::4096] = b"x" * len(held[0][::4096])
    return lambda queries: time.sleep(0.002 * int(os.environ["OMP_NUM_THREADS"]))

def broken(directory):
    raise RuntimeError("no weights, call 9876543210")
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A directory of a model that holds some bytes and takes 2 ms for each thread it was given."""
    (tmp_path / "a_loader.py").write_text(LOADER)
    (tmp_path / "size").write_text("1000")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_each_number_of_threads_has_a_process_of_its_own(model):
    found = speed_in_process(
        model, QUERIES, threads=(1, 3), batch_sizes=(1, 8), repeats=5, loader="a_loader:load"
    )
    assert [(s.threads, s.batch_size) for s in found] == [(1, 1), (1, 8), (3, 1), (3, 8)]
    assert found[0].p50_ms < 5 < found[2].p50_ms


def test_peak_memory_is_that_of_the_model_and_not_of_who_asks(model):
    here = bytearray(300_000_000)
    here[::4096] = b"x" * len(here[::4096])
    small = peak_memory_of(model, QUERIES, loader="a_loader:load")
    (model / "size").write_text("100000000")
    large = peak_memory_of(model, QUERIES, loader="a_loader:load")
    assert large - small == pytest.approx(100_000_000, rel=0.1)
    assert small < len(here)


def test_a_model_that_does_not_load_is_named_with_the_last_words(model):
    with pytest.raises(ModelError, match=r"could not be measured.*no weights, call \[PHONE\]"):
        speed_in_process(model, QUERIES, threads=(1,), loader="a_loader:broken")


def test_no_thread_is_refused(model):
    with pytest.raises(ValueError, match="threads 0 is not 1 or more"):
        peak_memory_of(model, QUERIES, threads=0)


def test_a_batch_of_none_and_no_queries_are_refused(model):
    with pytest.raises(ValueError, match="a batch of 0 queries"):
        peak_memory_of(model, QUERIES, batch_size=0)
    with pytest.raises(ValueError, match="queries is empty"):
        as_served(get_model("tfidf"), [])


def test_queries_reach_the_process_by_its_standard_input_only(model, monkeypatch):
    seen = []

    def run(command, *, input, **given):
        seen.append((command, input))
        return subprocess.CompletedProcess(command, 0, '{"peak": 7}\n', "")

    monkeypatch.setattr(subprocess, "run", run)
    assert peak_memory_of(model, QUERIES) == 7
    ((command, told),) = seen
    assert "query 3" in told and not any("query" in word for word in command)


def test_where_proc_is_absent_the_system_is_asked(monkeypatch):
    monkeypatch.setattr("pathlib.Path.is_file", lambda self: False)
    assert isolated._peak_bytes() > 10_000_000


def test_a_model_is_measured_as_it_would_be_served_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fitted = get_model("tfidf").fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    speeds, peak = as_served(fitted, QUERIES, threads=(1,), batch_sizes=(1,), repeats=5)
    assert [speed.batch_size for speed in speeds] == [1] and peak > 10_000_000
    assert list(tmp_path.iterdir()) == []
