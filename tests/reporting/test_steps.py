from __future__ import annotations

import pytest
from PIL import Image

from nivesh_lib.records.results import StepResult
from nivesh_lib.reporting.steps import findings
from nivesh_lib.runs.layout import RunDirectory


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run" / "figures" / "03_toy"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "scores.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "elsewhere.png")
    (folder / "broken.png").write_text("no picture")
    return tmp_path / "run"


def shown(run, file):
    figure = {"name": "f", "file": file, "title": "t", "alt": "a"}
    result = StepResult.model_validate({"figures": [figure]})
    return findings(RunDirectory(run), {"03_toy": result})


def test_a_figure_of_the_run_is_embedded(run):
    (found,) = shown(run, "figures/03_toy/scores.png")
    assert found.figures[0].data and found.name == "03_toy"


@pytest.mark.parametrize(
    "file",
    ["figures/03_toy/gone.png", "figures/03_toy/broken.png", "../elsewhere.png", "/etc/passwd"],
)
def test_what_is_no_figure_of_the_run_is_left_out(run, file):
    assert shown(run, file) == []
