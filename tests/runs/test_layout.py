from __future__ import annotations

import os

import pytest

from nivesh_lib.errors import DataError
from nivesh_lib.runs.directories import find_run
from nivesh_lib.runs.layout import RunDirectory
from tests.runs.examples import result


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def test_a_step_owns_its_files_and_those_of_its_parts_and_no_others(run):
    kept = [run.path / "probes" / f"05_a{part}.parquet" for part in ("", ".small")]
    kept += [run.folder("figures", "05_a") / "f.png", run.model("05_a.small") / "model.json"]
    for path in (*kept, kept[0].with_name("05_ab.parquet"), run.path / "steps" / "05_a.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run.files_of("05_a") == sorted(kept)


def test_unfinished_files_of_a_run_go_although_their_process_has_a_living_namesake(run):
    left = [run.partial("a.ipynb"), run.path / "models" / f".01_a.xyz.{os.getppid()}.partial" / "f"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run.remove_partial()
    assert not list(run.path.rglob(".*"))


def test_results_are_read_in_order_and_damaged_ones_named(run):
    for name in ("03_b", "02_a", "03_b.small"):
        run.write_result(name, result(name, 0.5))
    run.result_file("04_c").write_text("{")
    assert list(run.results()) == ["02_a", "03_b", "03_b.small"]
    assert list(run.damaged()) == ["04_c"] and run.result("04_c") is None is run.result("05_d")


def test_a_run_is_alive_while_a_process_holds_it(run):
    run.path.mkdir()
    assert not run.is_alive()
    with run.held():
        assert run.is_alive()
        with pytest.raises(BlockingIOError), run.held():
            pass
    assert not run.is_alive() and list(run.path.iterdir()) == []


def test_an_open_step_is_one_until_it_is_closed(run):
    run.open_step("03_x", "abc")
    run.open_step("04_y", "def")
    (run.path / "open" / "04_y.json").write_text("[]")
    assert run.open_steps() == {"03_x": "abc", "04_y": ""}
    run.close_step("03_x")
    assert list(run.open_steps()) == ["04_y"]


def test_a_page_has_an_address_where_there_is_one(run):
    assert run.page("03_x.part") == "" == run.drift_page("08_y")
    pages = (
        run.notebook("03_x").with_suffix(".html"),
        run.folder("drift", "08_y") / "evidently.html",
    )
    for page in pages:
        page.parent.mkdir(parents=True)
        page.touch()
    assert run.page("03_x.part") == "notebooks/03_x.html"
    assert run.drift_page("08_y") == "drift/08_y/evidently.html"


def test_a_run_is_found_by_name_path_or_as_the_latest(home):
    folder = home / "reports" / "runs" / "one"
    folder.mkdir(parents=True)
    (home / "reports" / "latest").symlink_to(folder)
    assert {find_run(name).path.resolve() for name in ("one", str(folder), "latest")} == {folder}


@pytest.mark.parametrize(
    ("name", "message"), [("", "empty name"), ("x", "x is no run"), ("latest", "no run ended well")]
)
def test_what_is_no_run_is_named_with_where_runs_are(home, name, message):
    with pytest.raises(DataError, match=message) as caught:
        find_run(name)
    assert "reports/runs" in str(caught.value)


def test_equal_model_files_of_a_run_are_stored_once(run):
    places = [run.model(name) / "w.safetensors" for name in ("05_a", "05_a.small", "06_b")]
    places.append(run.folder("folds", "05_a") / "t" / "fold_0" / "w.safetensors")
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_text("weights")
    run.store_once("05_a")
    assert all(place.samefile(places[2]) for place in places)
