"""A folder with copies of log and package, as docs/deployment.md makes it, is what is served."""

from __future__ import annotations

import re
import shutil
import subprocess

import httpx
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.serving.classifier import IntentClassifier
from tests.conftest import REPOSITORY
from tests.serving.test_workers import serving

PAGE = (REPOSITORY / "docs" / "deployment.md").read_text(encoding="utf-8")


def test_the_copied_release_is_served_without_git_from_a_folder_that_is_not_written_to(
    released, tmp_path, monkeypatch
):
    (commands,) = re.findall(r"```bash\n(mkdir -p /srv/nivesh/.*?)```", PAGE, re.DOTALL)
    place = tmp_path / "srv"
    moved = commands.replace("/srv/nivesh", str(place))
    subprocess.run(["bash", "-euc", moved], cwd=released, check=True)
    before = sorted(place.rglob("*"))
    monkeypatch.setenv("NIVESH_HOME", str(place))
    monkeypatch.setenv("NIVESH_FEEDBACK", str(tmp_path / "feedback.jsonl"))
    with serving(tmp_path / "log") as (_, address):
        sent = {"query": "save refund", "intent": "tax"}
        assert httpx.post(f"{address}/feedback", json=sent).status_code == 201
        assert httpx.get(f"{address}/health").json()["release"] == "1.0.0"
    assert sorted(place.rglob("*")) == before
    shutil.rmtree(place / "data")
    with pytest.raises(ModelError, match="no release is in production or in staging"):
        IntentClassifier()
