from __future__ import annotations

from pathlib import Path

import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.paths import relative, shipped_model
from nivesh_lib.runs.directories import latest_run
from nivesh_lib.serving.model_source import model_at
from nivesh_lib.tracking import models
from tests.runs.examples import result


def test_a_directory_is_its_own_address():
    with model_at("some/model") as folder:
        assert folder == Path("some/model")


def test_without_an_address_it_is_the_best_model_of_the_last_run(home, monkeypatch):
    monkeypatch.chdir(home)
    for step, f1 in (("02_a", 0.4), ("03_b", 0.7)):
        latest_run().write_result(step, result(step, f1))
    with model_at() as folder:
        assert relative(folder) == "reports/latest/models/03_b"


def test_without_a_run_it_says_what_makes_one(home):
    with pytest.raises(ModelError, match="`nivesh run` trains them"), model_at():
        pass


def test_before_any_run_the_model_that_ships_answers_and_says_so(home, capsys):
    shipped_model().mkdir(parents=True)
    with model_at() as folder:
        assert folder == shipped_model() and "No run yet" in capsys.readouterr().err
    latest_run().write_result("03_b", result("03_b", 0.7))
    latest_run().index.write_text("page")
    with model_at() as folder:
        assert folder == latest_run().model("03_b") and not capsys.readouterr().err


def test_an_error_names_the_stored_model_once_and_a_directory_not_again(monkeypatch):
    monkeypatch.setattr(models, "fetch_model", {"models:/a@b": Path("/tmp/copy")}.get)
    with pytest.raises(ModelError, match=r"^models:/a@b: gone$"), model_at("models:/a@b"):
        raise ModelError("gone")
    with pytest.raises(ModelError, match=r"^models:/a@b: gone$"), model_at("models:/a@b"):
        raise ModelError("models:/a@b: gone")
    with pytest.raises(ModelError, match=r"^gone$"), model_at("folder"):
        raise ModelError("gone")
