"""Two clones that release the same version, and a merge of their branches."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest

from nivesh_lib import paths
from nivesh_lib.errors import DataError
from nivesh_lib.releases.log import read_log
from nivesh_lib.releases.promotion import archive
from tests.conftest import REPOSITORY
from tests.releases.forks import nivesh, run
from tests.releases.world import commit, git, make_run

RUNS = {"home": "20260103-000000", "other": "20260104-000000"}


def release_third(home: Path, *more: str) -> None:
    run(home, nivesh, "release", RUNS[home.name], "--why", "third", "--yes", *more)
    run(home, commit, home)


@pytest.fixture
def merged(released, tmp_path) -> Path:
    """The home, into which the branch of another clone was merged; both released a 1.0.2."""
    shutil.copy(REPOSITORY / ".gitattributes", released)
    commit(released)
    other = shutil.copytree(released, tmp_path / "other", symlinks=True)
    for strength, home in enumerate((released, other), start=1):
        run(home, functools.partial(make_run, RUNS[home.name], C=strength / 10))
        release_third(home)
    git(released, "pull", "-q", "--no-rebase", "--no-edit", str(other), "main")
    return released


def test_a_version_of_two_branches_is_told_with_how_to_mend_it(merged, tmp_path, monkeypatch):
    log = paths.release_log()
    told = (
        r"line 5: releases 1\.0\.2 \(Asha\), as line 4 does .* delete line 5 and .* lines 4 to 4;"
    )
    with pytest.raises(DataError, match=told) as error:
        read_log()
    assert "git checkout" not in str(error.value)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:4]))
    commit(merged)
    assert archive() == [] and read_log()[-1]["version"] == "1.0.2"

    other, package = tmp_path / "other", Path("reports", "releases", "intent_classifier", "1.0.2")
    git(other, "pull", "-q", str(merged), "main")
    shutil.rmtree(other / package)
    shutil.copytree(merged / package, other / package)
    release_third(other, "--reason", "its branch was merged")
    monkeypatch.setenv("NIVESH_HOME", str(other))
    assert [e["version"] for e in read_log() if e["kind"] == "release"][2:] == ["1.0.2", "1.0.3"]
