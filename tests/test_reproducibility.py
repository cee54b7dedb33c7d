from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nivesh_lib.reproducibility import (
    NO_TELEMETRY,
    disable_telemetry,
    environment,
    git_state,
    machine,
    set_seeds,
    thread_environment,
    threads,
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own; git does not look above it, nor at anyone's settings."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for person in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{person}_NAME", "A")
        monkeypatch.setenv(f"GIT_{person}_EMAIL", "a@example.org")
    git_state.cache_clear()
    yield tmp_path
    git_state.cache_clear()


@pytest.fixture
def repository(home):
    for name in ("code.py", "data/rows.json", "notebook.ipynb"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("first\n")
    for command in (["init", "-q", "-b", "trunk"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=home, check=True)
    return home


def draws():
    return random.random(), np.random.random()


# --- seeds and threads -----------------------------------------------------------


def test_the_same_seed_gives_the_same_draws():
    set_seeds(7)
    first = draws()
    set_seeds(7)
    assert draws() == first


def test_another_seed_gives_other_draws():
    set_seeds(7)
    first = draws()
    set_seeds(8)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_torch_is_seeded_where_it_is_loaded(monkeypatch):
    seeds = []
    cudnn = SimpleNamespace(deterministic=False)
    double = SimpleNamespace(
        manual_seed=seeds.append,
        cuda=SimpleNamespace(manual_seed_all=seeds.append),
        backends=SimpleNamespace(cudnn=cudnn),
    )
    monkeypatch.setitem(sys.modules, "torch", double)
    set_seeds(7)
    assert (seeds, cudnn.deterministic) == ([7, 7], True)


def test_torch_is_not_loaded_for_its_seed(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    set_seeds(7)
    assert "torch" not in sys.modules


def test_every_numeric_library_is_held_to_the_same_threads():
    found = thread_environment(2)
    assert set(found.values()) == {"2"}
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NIVESH_THREADS"} <= set(found)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"NIVESH_THREADS": "3", "OMP_NUM_THREADS": "2"}, 3),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "4,2"}, 0),
        ({"NIVESH_THREADS": "²", "OMP_NUM_THREADS": ""}, 0),
        ({}, 0),
    ],
)
def test_threads_are_those_of_the_environment(monkeypatch, given, expected):
    for variable in ("NIVESH_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    assert threads() == expected


def test_opting_out_keeps_what_was_set(monkeypatch):
    for name in NO_TELEMETRY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    disable_telemetry()
    found = {name: os.environ[name] for name in NO_TELEMETRY}
    assert found == NO_TELEMETRY | {"HF_HUB_OFFLINE": "0"}
    for name in NO_TELEMETRY:  # so that monkeypatch puts back what was there
        monkeypatch.setenv(name, found[name])


# --- git and environment ---------------------------------------------------------


def test_without_a_repository_the_state_is_empty(home):
    assert git_state() == {"commit": "", "branch": "", "dirty": False, "patch": ""}


def test_without_git_the_state_is_empty(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    assert git_state() == {"commit": "", "branch": "", "dirty": False, "patch": ""}


def test_a_clean_repository_has_a_commit_and_no_patch(repository):
    state = git_state()
    assert len(state["commit"]) == 40
    assert (state["branch"], state["dirty"], state["patch"]) == ("trunk", False, "")


def test_a_change_of_code_is_in_the_patch(repository):
    (repository / "code.py").write_text("second ₹\n")
    assert git_state()["dirty"]
    assert "+second ₹" in git_state()["patch"]


@pytest.mark.parametrize("name", ["data/rows.json", "notebook.ipynb"])
def test_rows_are_never_in_the_patch(repository, name):
    (repository / name).write_text("ABCPE1234F\n")
    state = git_state()
    assert (state["dirty"], state["patch"]) == (True, "")


def test_the_environment_is_plain_json_and_names_what_decides_a_result():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["numpy"] == np.__version__
    assert found["cores"] >= 1


def test_a_machine_is_described_by_its_processor_and_the_flags_that_matter(monkeypatch):
    cpuinfo = "model name\t: Some CPU\nflags\t\t: fpu avx2 avx_vnni sse\n"
    monkeypatch.setattr(
        "nivesh_lib.reproducibility.Path", lambda name: SimpleNamespace(read_text=lambda: cpuinfo)
    )
    assert machine() == {"model": "Some CPU", "flags": ["avx2", "avx_vnni"]}


def test_a_system_without_cpuinfo_has_no_flags(monkeypatch, tmp_path):
    monkeypatch.setattr("nivesh_lib.reproducibility.Path", lambda name: tmp_path / "nothing")
    assert machine()["flags"] == []
