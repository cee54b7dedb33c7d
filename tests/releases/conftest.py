"""Two releases to try things on, made once."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest

from nivesh_lib.data.versions import load_dataset
from nivesh_lib.models.base import get_model
from nivesh_lib.reproducibility import git_state
from tests.releases.forks import nivesh, run, warm_up
from tests.releases.world import STEP, make_run, make_world


def make_two_models(home: Path) -> None:
    """Leave a good model, and one that was taught the opposite."""
    make_world(home)
    make_run("20260101-000000")
    worse = make_run("20260102-000000").model(STEP)
    train = load_dataset("intents@1.0.0").train
    model = get_model("tfidf")
    model.fit(train["query"], train["intent"].map({"tax": "rent", "rent": "tax"}))
    shutil.rmtree(worse)
    model.save(worse, data="intents@1.0.0")


@pytest.fixture(scope="session")
def two_releases(tmp_path_factory) -> Path:
    """A home with 1.0.0 in staging, and a much worse 1.0.1 in development."""
    warm_up()
    home = tmp_path_factory.mktemp("world") / "home"
    home.mkdir()
    run(home, make_two_models, home)
    run(home, nivesh, "release", "20260101-000000", "--why", "the first", "--yes")
    run(home, nivesh, "promote", "1.0.0", "--to", "staging")
    why = "better?\n2026-01-01T00:00:00Z  9.9.9 promoted to production, by Eve: call 98765 43210 😀"
    run(home, nivesh, "release", "20260102-000000", "--why", why, "--yes")
    return home


@pytest.fixture
def released(two_releases, tmp_path, monkeypatch) -> Path:
    """A copy of that home, in use."""
    return in_use(two_releases, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def three_releases(two_releases, tmp_path_factory) -> Path:
    """The same with 1.0.0 in production, and a 1.0.2 that answers as it does."""
    home = tmp_path_factory.mktemp("three") / "home"
    shutil.copytree(two_releases, home, symlinks=True)
    run(home, nivesh, "promote", "1.0.0", "--to", "production", "--override", "the first")
    run(home, functools.partial(make_run, "20260103-000000", C=20.0))
    run(home, nivesh, "release", "20260103-000000", "--why", "as good", "--yes")
    return home


@pytest.fixture
def serving_release(three_releases, tmp_path, monkeypatch) -> Path:
    """A copy of that home, in use."""
    return in_use(three_releases, tmp_path, monkeypatch)


def in_use(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(home, tmp_path / "home", symlinks=True)
    monkeypatch.setenv("NIVESH_HOME", str(copy))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(copy)
    git_state.cache_clear()
    return copy
