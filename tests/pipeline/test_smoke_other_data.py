"""The shipped notebooks on data of someone's own that has a fault, in the smoke profile."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from nivesh_lib.cli.app import app
from nivesh_lib.data.publishing import publish
from tests.models.conftest import tiny
from tests.pipeline.conftest import copy_notebooks

# The steps after 03 branch on segments, dates and test cases, which their rows do not have.
EVERY_STEP = pytest.param([], marks=pytest.mark.slow, id="all")
FIRST_STEPS = pytest.param(["--only", "01", "--only", "02"], id="01-02")


@pytest.mark.parametrize("steps", [FIRST_STEPS, EVERY_STEP])
def test_other_data_that_should_go_back_is_said_first_and_not_judged_by_marks_of_intents(
    tmp_path, monkeypatch, store, steps
):
    copy_notebooks(tmp_path)
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setattr("nivesh_lib.data.split_assignment.N_FOLDS", 2)
    words = ("rent", "salary", "gold", "bonus", "chai", "petrol", "school", "train")
    often = [f"{word} {other}" for word in words for other in "abcdefghij"]
    rows = [(text, "spend") for text in often] + [(f"save {word}", "save") for word in words[:6]]
    frame = pd.DataFrame([*rows, ("a gift for mother", "gift")], columns=["query", "intent"])
    if steps:
        frame["income_segment"] = ["retail", "business"] * 43 + ["student"]
    publish(frame, "skewed", "1.0.0", description="x")
    backbone = ["--set", f"BACKBONE={tiny()}"] if not steps else []
    dataset = ["--dataset", "skewed@1.0.0"]
    done = CliRunner().invoke(app, ["run", *dataset, "--profile", "smoke", *backbone, *steps])
    said = "✘ The data did not pass validation: 1 issue, listed in 01_data_validation."
    none_set = "No objective is set for skewed; write data/skewed/objectives.toml."
    assert done.exit_code == 0 and said in done.output and none_set in done.output
    assert "It is not ready for release." in done.output
    assert "0.99" not in done.output.partition("Next:")[0]  # no mark; a model may answer with it
    (folder,) = (tmp_path / "reports" / "runs").iterdir()
    page = (folder / "index.html").read_text()
    assert "No: the data did not pass its checks" in page and none_set in page
    assert "High class imbalance detected" in page
    for step in ("02_baseline",) if steps else ("02_baseline", "03_tfidf"):
        assert none_set in (folder / "notebooks" / f"{step}.html").read_text()
    assert "should go back" in (folder / "notebooks" / "01_data_validation.html").read_text()
