"""Stages: what is refused, what is told, and what a change leaves behind when it fails."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nivesh_lib import paths
from nivesh_lib.cli.app import app
from nivesh_lib.errors import DataError, NiveshError, ReleaseError
from nivesh_lib.releases.log import read_log, state_of
from nivesh_lib.releases.package import Package, changing_marker
from nivesh_lib.releases.promotion import archive, promote, rollback, transition_model_stage
from nivesh_lib.releases.release import prepared
from nivesh_lib.runs.directories import find_run
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.tracking.registry import follow_log, register_model
from tests.releases.forks import nivesh, run, seen, start, wait
from tests.releases.world import STEP, commit, git, make_run

NAME = "intent_classifier"
SURE = {"override": "to be tried"}


@pytest.fixture
def serving(released):
    """The same with 1.0.1 in production, and 1.0.0 before it."""
    promote("1.0.0", "production", **SURE)
    promote("1.0.1", "production", **SURE)
    return released


def store():
    from nivesh_lib.tracking.store import client

    return client()


def aliases() -> dict[str, str]:
    """Return alias -> the released version that it points to."""
    found = store().search_registered_models(f"name = '{NAME}'")[0]
    return {
        alias: store().get_model_version(NAME, number).tags.get("nivesh.release", "another")
        for alias, number in found.aliases.items()
    }


def package(version: str) -> Package:
    return Package.of(NAME, version)


def said(*arguments: str) -> str:
    """Return what a command says, its error included."""
    result = CliRunner().invoke(app, arguments)
    return result.output + (str(result.exception) if result.exception else "")


def nothing_changed(before: list, where: dict[str, str]) -> bool:
    return read_log() == before and aliases() == where and not changing_marker(NAME).exists()


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: promote("7.0.0", "staging"), r"7\.0\.0: was never released. Released: 1\.0\.0, 1"),
        (lambda: promote("1.0.1", "canary"), "canary: there is no such stage. Stages are staging"),
        (lambda: promote("1.0.0", "staging"), r"1\.0\.0 is in staging already, since 2"),
        (lambda: promote("1.0.1", "staging"), "accuracy_loss: not met, .* lost of 40 rows"),
        (lambda: promote("1.0.1", "staging", override=" \n\t "), r"1\.0\.1 stays out of staging"),
        (lambda: promote("1.0.0", "production"), r"hours_in_staging: not met, 0\.0 hours"),
        (lambda: promote("1.0.0", "staging", name="../x"), "../x: nothing was released by that"),
        (lambda: archive(name="banks_classifier"), "banks_classifier: nothing was released"),
        (lambda: archive(version="7.0.0"), r"7\.0\.0: was never released"),
        (rollback, "nothing is in production"),
        (lambda: transition_model_stage(NAME, "2", "Development"), "there is no such stage"),
        (lambda: transition_model_stage(NAME, "3", "Staging"), "3: was never released"),
    ],
)
def test_a_change_that_may_not_be_is_refused_and_changes_nothing(released, change, message):
    before, where = read_log(), aliases()
    with pytest.raises(ReleaseError, match=f"(?s){message}"):
        change()
    assert nothing_changed(before, where) and where == {"staging": "1.0.0"}
    assert sorted(p.name for p in paths.releases_dir().iterdir() if p.is_dir()) == [NAME]


def edit_record(folder: Path) -> None:
    record = folder / "release.json"
    record.write_text(record.read_text().replace('"size_bytes": ', '"size_bytes": 1'))


def drop_record(folder: Path) -> None:
    (folder / "release.json").unlink()


def edit_answers(folder: Path) -> None:
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    right = [row | {"predicted": row["label"]} for row in rows]
    (folder / "rows.json").write_text(json.dumps({"rows": right}))


def edit_model(folder: Path) -> None:
    file = next(p for p in sorted((folder / "model").rglob("*.safetensors")))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def drop_model(folder: Path) -> None:
    shutil.rmtree(folder / "model")


def drop_package(folder: Path) -> None:
    shutil.rmtree(folder)


ALTERATIONS = [edit_record, drop_record, edit_answers, edit_model, drop_model, drop_package]


@pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda function: function.__name__)
def test_an_altered_package_is_neither_promoted_nor_rolled_back_to(serving, alter):
    alter(package("1.0.0").folder)
    before = read_log()
    with pytest.raises(ReleaseError, match=r"(?s)no earlier version .*1\.0\.0 is passed over"):
        rollback()
    with pytest.raises(ReleaseError, match=r"1\.0\.0"):
        promote("1.0.0", "production", **SURE)
    assert "1.0.0" in said("card", "1.0.0") and "error" not in said("history")
    assert nothing_changed(before, {"production": "1.0.1", "previous": "1.0.0"})


def test_altered_answers_of_the_release_in_place_do_not_help_another_one(serving):
    """The answers of 1.0.1 to the rows were not asked for when 1.0.0 was released."""
    with pytest.raises(ReleaseError, match="hours_in_staging") as sound:
        promote("1.0.0", "production")
    assert "accuracy_loss" not in str(sound.value)
    edit_answers(package("1.0.1").folder)
    with pytest.raises(ReleaseError, match=r"accuracy_loss: not shown, 1\.0\.1 has no answers"):
        promote("1.0.0", "production")


@pytest.mark.parametrize("number", [1, 2])
def test_a_log_with_an_edited_or_missing_line_stops_every_change(released, number):
    lines = paths.release_log().read_bytes().splitlines(keepends=True)
    for others in ([], [lines[number - 1].replace(b"Asha", b"Eve")]):
        paths.release_log().write_bytes(b"".join([*lines[: number - 1], *others, *lines[number:]]))
        place = number + len(others)
        for command in (("history",), ("promote", "1.0.1", "--to", "staging"), ("rollback",)):
            assert f"release_log.jsonl, line {place}: " in said(*command)
    assert aliases() == {"staging": "1.0.0"}


def test_a_ledger_with_an_edited_line_stops_a_promotion(released):
    ledger = paths.data_dir() / "holdout_ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("Asha", "Eve", 1))
    assert "holdout_ledger.jsonl, line 2: " in said("promote", "1.0.1", "--to", "staging")
    assert aliases() == {"staging": "1.0.0"}


@pytest.mark.parametrize("seen_by_git", [True, False])
def test_marks_that_are_not_committed_stop_a_promotion(released, seen_by_git):
    if not seen_by_git:
        git(released, "update-index", "--assume-unchanged", "data/objectives.toml")
    objectives = paths.data_dir() / "objectives.toml"
    marks = objectives.read_text()
    before, where = read_log(), aliases()
    objectives.write_text(marks.replace("accuracy_loss = 0.3", "accuracy_loss = 1"))
    with pytest.raises(ReleaseError, match=r"data/objectives\.toml is not what is committed"):
        promote("1.0.1", "staging", **SURE)
    assert nothing_changed(before, where)
    objectives.write_text(marks)
    promote("1.0.1", "staging", **SURE)


def test_a_card_is_printed_from_the_records(released):
    sound = package("1.0.0").card.read_text()
    package("1.0.0").card.write_text("accuracy 2.000")
    assert said("card", "1.0.0") == f"{sound}\n"


# --- what is told, and not followed ------------------------------------------------------------


def test_an_alias_that_was_moved_by_hand_is_told_and_not_followed(serving):
    store().set_registered_model_alias(NAME, "production", "1")
    store().delete_registered_model_alias(NAME, "previous")
    told = said("history")
    assert "the alias production points to 1.0.0, the release log says 1.0.1" in told
    assert "the alias previous points to nothing, the release log says 1.0.0" in told
    assert rollback().entry["leaves"] == "1.0.1"
    assert aliases() == {"production": "1.0.0"} and "warning" not in said("history")


def test_why_is_one_line_without_personal_data(released):
    shown = said("history")
    assert "by Asha: better? 2026-01-01T00:00:00Z 9.9.9 promoted" in shown and "😀" in shown
    promote(
        "1.0.1", "staging", override="agreed with\nasha@example.com", why="call +91 98765 43210"
    )
    kept = [paths.release_log(), *package("1.0.1").folder.glob("*.*")]
    texts = {path.name: path.read_text() for path in kept}
    for name, text in texts.items():
        assert "98765" not in text and "asha@example.com" not in text, name
    assert "agreed with [EMAIL]" in texts["README.md"] and "agreed with [EMAIL]" in said("history")
    assert read_log()[-1]["why"] == "call [PHONE]"


# --- stages ------------------------------------------------------------------------------------


def test_stages_by_the_name_of_mlflow(released):
    transition_model_stage(NAME, "1", "Archived")
    assert state_of(read_log(NAME)).stages["1.0.0"] == "Archived" and aliases() == {}
    transition_model_stage(NAME, "1.0.0", "Staging")
    assert aliases() == {"staging": "1.0.0"}
    tags = store().get_model_version(NAME, "1").tags
    assert (tags["stage"], tags["deprecated"]) == ("Staging", "false")


def test_what_nothing_points_to_is_archived_after_some_days(serving):
    assert archive(days=0) == []  # 1.0.0 is what can be rolled back to
    with pytest.raises(ReleaseError, match=r"1\.0\.1 serves in production"):
        archive(version="1.0.1", days=0)
    rollback(why="it got worse")
    state = state_of(read_log(NAME))
    assert (state.production, state.previous) == ("1.0.0", "")
    assert state.stages["1.0.1"] == "Archived"
    with pytest.raises(ReleaseError, match="no earlier version"):
        rollback()


def test_what_was_displaced_just_now_is_not_archived_yet(released):
    promote("1.0.1", "staging", **SURE)
    assert state_of(read_log(NAME)).stages["1.0.0"] == "Development"
    assert archive(days=1 / 24) == []
    time.sleep(1.1)  # the log has whole seconds
    assert [one.entry["version"] for one in archive(days=1e-6)] == ["1.0.0"]
    tags = store().get_model_version(NAME, "1").tags
    assert (tags["stage"], tags["deprecated"]) == ("Archived", "true")


# --- registries --------------------------------------------------------------------------------


def test_another_registry_with_the_same_numbers_gets_no_alias_for_another_model(
    released, empty_store, monkeypatch
):
    """As in a clone: the log is in git, the tracking store is not."""
    shutil.rmtree(released / "mlruns")
    (released / "mlruns").mkdir()
    shutil.copy(empty_store, released / "mlruns" / "mlflow.db")
    assert "this registry has no 1.0.0, so it has no alias staging" in said("history")
    from nivesh_lib.tracking.logger import open_logger

    logger = open_logger("by_hand", {}, experiment="x", mode="interactive", run="")
    address = logger.log_model(NAME, package("1.0.1").model)
    register_model(NAME, address, {"stage": "Production"})
    promote("1.0.0", "production", **SURE)
    assert aliases() == {}
    follow_log(NAME)
    assert aliases() == {}


def test_a_server_that_does_not_answer_stops_a_change_at_once(released, monkeypatch):
    before = read_log()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.process_time()
    with pytest.raises(NiveshError, match=r"127\.0\.0\.1:9: cannot be opened"):
        promote("1.0.1", "staging", **SURE)
    assert time.process_time() - began < 5
    assert "warning: tracking store http://127.0.0.1:9" in said("history")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert nothing_changed(before, {"staging": "1.0.0"})


def test_a_registry_that_fails_midway_is_mended_by_the_next_change(released):
    tables = sqlite3.connect(released / "mlruns" / "mlflow.db")
    fails = "before insert on registered_model_aliases begin select raise(abort, 'gone'); end"
    tables.execute(f"create trigger gone {fails}")
    with pytest.raises(NiveshError, match=r"does not answer \(gone\)\. The release log is comp"):
        promote("1.0.0", "production", **SURE)
    assert aliases() == {"staging": "1.0.0"} and "a change was cut off" in said("history")
    assert state_of(read_log(NAME)).production == "1.0.0"
    tables.execute("drop trigger gone")
    tables.close()
    assert archive() == [] and aliases() == {"production": "1.0.0"}


def test_a_registry_that_is_damaged_stops_a_change_at_once(released):
    before = read_log(NAME)
    (released / "mlruns" / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(NiveshError, match=r"mlflow\.db: does not answer \(file is not a database"):
        promote("1.0.1", "staging", **SURE)
    assert read_log(NAME) == before and not changing_marker(NAME).exists()
    assert "warning: registry sqlite" in said("history")


def test_a_server_gets_through_mlflow_what_a_file_gets(released, monkeypatch):
    monkeypatch.setattr("nivesh_lib.tracking.registry.database_file", lambda: None)
    promote("1.0.0", "production", **SURE)
    promote("1.0.1", "production", **SURE)
    assert aliases() == {"production": "1.0.1", "previous": "1.0.0"}
    assert rollback().entry["version"] == "1.0.0"
    assert aliases() == {"production": "1.0.0"} and "warning" not in said("history")
    assert store().get_model_version(NAME, "2").tags["stage"] == "Archived"


AGAIN = ("promote", "1.0.0", "--to", "staging", "--override", "again")


@pytest.mark.parametrize("command", [("history",), ("card", "1.0.0"), AGAIN, ("rollback",)])
def test_no_command_on_stages_waits_for_heavy_libraries(serving, command):
    code = "import sys, nivesh_lib.__main__ as m\ntry: m.main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"mlflow", "pandas", "sklearn", "statsmodels", "torch"} & {*done.stdout.split()}


# --- kills; more of them at random moments in test_kills -----------------------------------------


def killed_in(place: str, *command: str) -> None:
    """Run a command whose process is killed where it calls something for the first time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        nivesh(*command)


TO_STAGING = ("promote", "1.0.1", "--to", "staging", "--override", "to be tried")
KILLS = {
    "before the line of a promotion": ("promotion.append", *TO_STAGING),
    "after the line of a promotion": ("promotion.follow_log", *TO_STAGING),
    "before the line of a release": ("release.append", "release", "--why", "third", "--yes"),
}


@pytest.mark.parametrize("moment", KILLS)
def test_what_a_kill_left_is_told_and_the_next_change_mends_it(released, moment):
    place, *command = KILLS[moment]
    if command[0] == "release":
        run(released, functools.partial(make_run, "20260103-000000", C=0.5))
    before = seen(released)
    pid = start(released, killed_in, f"nivesh_lib.releases.{place}", *command)
    assert wait(pid) == -signal.SIGKILL
    assert "a change was cut off or is under way; the next one finishes" in said("history")
    assert changing_marker(NAME).exists()
    assert archive() == []
    now = seen(released)
    if moment.startswith("before"):
        assert now == before
    else:
        assert (now["aliases"], now["notices"]) == ({"staging": "1.0.1"}, [])
        assert now["packages"]["1.0.1"][-1] == "its card fits"


# --- disks and rights --------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_leaves_everything_as_it_was(released, monkeypatch):
    before, where = read_log(), aliases()

    def full(self, raw):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("nivesh_lib.hash_chain.Writer._write", full)
        with pytest.raises(DataError, match=r"release_log\.jsonl cannot be written: No space left"):
            promote("1.0.1", "staging", **SURE)
    assert nothing_changed(before, where)


def test_a_marker_of_an_older_version_removes_no_package(released):
    changing_marker(NAME).write_text("\n\n")
    assert archive() == []
    assert package("1.0.0").folder.is_dir() and not changing_marker(NAME).exists()


def test_a_card_that_cannot_be_written_stops_no_other_change(released):
    (released / "data" / "intents" / "v1.0.0" / "manifest.json").unlink()
    with pytest.raises(DataError):
        promote("1.0.1", "staging", **SURE)
    assert aliases() == {"staging": "1.0.1"} and not changing_marker(NAME).exists()


# --- releases ----------------------------------------------------------------------------------


def release(*arguments: str) -> str:
    return said("release", *arguments, "--why", "again", "--yes")


def openings() -> int:
    return len((paths.data_dir() / "holdout_ledger.jsonl").read_text().splitlines())


def spoil(change):
    """Change the record of a run."""

    def spoiled(run: RunDirectory) -> None:
        file = run.path / "run.json"
        record = json.loads(file.read_text())
        change(record)
        file.write_text(json.dumps(record))

    return spoiled


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (None, ("20990101-000000",), "20990101-000000"),
        (None, ("20260101-000000",), "is released already, as 1.0.0. To bring it to a stage"),
        (None, ("20260101-000000", "--model", "09_none"), "09_none"),
        (spoil(lambda r: r.update(status="failed")), ("20260102-000000",), "(status failed)"),
        (spoil(lambda r: r["git"].update(dirty=True)), ("20260102-000000",), "uncommitted changes"),
        (lambda r: shutil.rmtree(r.model(STEP)), ("20260102-000000",), "no model was saved"),
        (lambda r: Path("new.py").touch(), ("20260102-000000",), "has changes that are in no comm"),
    ],
)
def test_a_release_that_may_not_be_is_refused_before_the_holdout_is_opened(
    released, spoil, arguments, message
):
    before = openings()
    if spoil:
        spoil(RunDirectory(paths.runs_dir() / "20260102-000000"))
    assert message in release(*arguments)
    assert (openings(), len(read_log())) == (before, 3)


@pytest.fixture
def third(released):
    """A third model that may be released."""
    return make_run("20260103-000000", C=0.5)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("abc", "is no MAJOR.MINOR.PATCH"),
        ("0.9.0", "is lower than 1.0.2"),
        ("../2.0.0", "is no MA"),
    ],
)
def test_a_version_that_cannot_be_is_refused_before_the_holdout_is_opened(third, version, message):
    before = openings()
    assert message in release("--version", version)
    assert openings() == before


def test_a_package_that_the_log_does_not_know_is_not_replaced(third):
    before = openings()
    strange = package("1.0.2").folder
    strange.mkdir()
    (strange / "kept").touch()
    assert "1.0.2 is there, and this release log does not know it" in release()
    assert (strange / "kept").exists() and openings() == before


def test_a_release_that_fails_midway_is_taken_back(third, monkeypatch):
    def fail(*_, **__):
        raise NiveshError("no server")

    monkeypatch.setattr("nivesh_lib.releases.release.register_release", fail)
    assert "no server" in release()
    assert not package("1.0.2").folder.exists() and aliases() == {"staging": "1.0.0"}
    assert sorted(p.name for p in package("1.0.0").folder.parent.iterdir()) == ["1.0.0", "1.0.1"]


def test_a_full_disk_leaves_no_half_package(third, monkeypatch):
    def fail(*_, **__):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    with monkeypatch.context() as patch:
        patch.setattr("nivesh_lib.releases.package.Package.write", fail)
        assert "1.0.2 cannot be written: [Errno 28] No space left" in release()
    assert sorted(p.name for p in package("1.0.0").folder.parent.iterdir()) == ["1.0.0", "1.0.1"]
    assert "--reason TEXT" in release()
    assert "1.0.2 is released, in Development" in release("--reason", "the disk was full")
    gates = {gate.name: gate for gate in package("1.0.2").release().gates["staging"]}
    assert (gates["holdout"].passed, gates["holdout"].found) == (False, "opened 2 times")


def test_a_package_is_on_the_disk_before_its_line_is_in_the_log(third, monkeypatch):
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda number: synced.add(os.fstat(number).st_ino))

    def stopped(*_):
        folder = package("1.0.2").folder
        places = [folder.parent, folder, *folder.rglob("*")]
        missing = [str(path) for path in places if path.stat().st_ino not in synced]
        raise NiveshError(f"not on the disk: {missing}")

    monkeypatch.setattr("nivesh_lib.releases.release.append", stopped)
    assert "not on the disk: []" in release()


def test_models_of_another_dataset_have_a_name_of_their_own(released):
    from nivesh_lib.data.publishing import publish
    from tests.releases.world import rows

    publish(rows(200, 1), "banks", "1.0.0", description="another")
    commit(released)
    make_run("20260104-000000", data="banks@1.0.0")
    assert "banks_classifier 1.0.0 is released, in Development" in release()
    assert "1.0.0 released" in said("history", "--name", "banks_classifier")
    told = said(
        "promote", "1.0.0", "--to", "staging", "--name", "banks_classifier", "--override", "x"
    )
    assert "1.0.0 promoted to staging" in told
    assert aliases() == {"staging": "1.0.0"} and len(read_log(NAME)) == 3


def test_after_a_release_whose_package_is_lost_was_archived_the_next_is_compared_with_none(serving):
    run(serving, functools.partial(make_run, "20260103-000000", C=20.0))
    shutil.rmtree(package("1.0.1").folder)
    with (
        pytest.raises(
            ReleaseError, match=r"compared with 1\.0\.1.*nivesh archive --version 1\.0\.1"
        ),
        prepared(find_run("latest")),
    ):
        pass
    archive(version="1.0.1")
    assert state_of(read_log(NAME)).production == ""
    with prepared(find_run("latest")) as ready:
        assert (ready.lost, ready.last, ready.in_place) == ("1.0.1", None, None)
