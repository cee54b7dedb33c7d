from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nivesh_lib.errors import DataError, NiveshError, SpecError, StepFailed
from nivesh_lib.files import sha256_file
from nivesh_lib.pipeline import run as pipeline_run
from nivesh_lib.pipeline.pruning import prune
from nivesh_lib.pipeline.run import raise_for_failures, run_pipeline
from nivesh_lib.reporting.html import write_report
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.tracking.logger import open_logger
from nivesh_lib.tracking.store import client
from tests.pipeline.conftest import RECORD

DATASET = "toy@1.0.0"


def runs(home: Path) -> list[Path]:
    return sorted((home / "reports" / "runs").glob("*"))


def test_a_run_leaves_notebooks_pages_results_and_a_report(ran):
    (folder,) = runs(ran)
    record = RunDirectory(folder).sound_record()
    assert {step.status for step in record.steps.values()} == {"done"}
    for name in ("01_a", "02_b", "03_c"):
        assert (folder / "notebooks" / f"{name}.html").is_file()
        assert (folder / "steps" / f"{name}.json").is_file()
    assert (ran / "reports" / "latest" / "index.html").is_file()


def test_a_parameter_reaches_a_notebook_that_does_not_name_its_language(home):
    assert "language" not in (home / "notebooks" / "01_a.ipynb").read_text()
    record, _ = run_pipeline(dataset=DATASET, only=["01_a"], settings=["01_a.SLEEP=0.3"])
    (step,) = record.steps.values()
    assert step.done and step.parameters["SLEEP"] == 0.3


def test_nothing_changed_gives_the_last_run_again(ran):
    (folder,) = runs(ran)
    lines: list[str] = []
    again, _ = run_pipeline(dataset=DATASET, report=lines.append)
    assert again.run == folder.name and len(runs(ran)) == 1
    assert all("nothing changed" in line for line in lines)


def test_remarks_hold_where_no_parameter_of_a_step_or_of_what_it_needs_is_changed(home):
    request = pipeline_run.resolve_request("default", DATASET, (), ["01_a.SLEEP=0.2"])
    planned = pipeline_run.plan(request.steps, request.parameters)
    assert {item.step.name: item.remarks for item in planned} == {
        "01_a": False,
        "02_b": False,
        "03_c": True,
    }


@pytest.mark.usefixtures("here")
def test_a_changed_notebook_and_what_needs_it_run_again_and_the_rest_is_linked(ran, change):
    change(ran, "01_a", [RECORD.format(name="01_a") + "# changed"])
    lines: list[str] = []
    record, run = run_pipeline(dataset=DATASET, report=lines.append)
    cached = {name for name, step in record.steps.items() if step.cached_from}
    assert cached == {"03_c"}
    assert run.result("03_c").headline == "said by 03_c"


def test_dry_run_names_what_would_invalidate_each_step_and_starts_nothing(ran):
    lines: list[str] = []
    run_pipeline(dataset=DATASET, settings=["03_c.SLEEP=0.2"], dry_run=True, report=lines.append)
    assert "SLEEP: 0.0 -> 0.2" in lines[2] and "nothing changed" in lines[0]
    assert len(runs(ran)) == 1


def test_changed_data_rules_or_lock_invalidate(ran):
    (ran / "data" / "toy" / "rules.toml").write_text("# new")
    (ran / "data" / "toy" / "probes.toml").write_text("# new")
    (ran / "requirements.lock").write_text("nothing==2.0\n")
    lines: list[str] = []
    run_pipeline(dataset=DATASET, dry_run=True, report=lines.append)
    assert "requirements.lock changed" in lines[0] and "rules.toml changed" in lines[0]
    assert "probes.toml changed" in lines[0]


def test_only_the_objectives_of_the_dataset_itself_invalidate(ran):
    lines: list[str] = []
    (ran / "data" / "objectives.toml").write_text("# of intents")
    run_pipeline(dataset=DATASET, dry_run=True, report=lines.append)
    assert all("nothing changed" in line for line in lines)
    (ran / "data" / "toy" / "objectives.toml").write_text("# of toy")
    run_pipeline(dataset=DATASET, dry_run=True, report=lines.append)
    assert "data toy/objectives.toml changed" in lines[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": ["SLEPE=1"]}, "Did you mean SLEEP"),
        ({"settings": ["SLEEP=soon"]}, "is not float"),
        ({"settings": ["DATASET=toy@1.0.0"]}, "use --dataset"),
        ({"settings": ["no equals sign"]}, "write NAME=VALUE"),
        ({"settings": ["__import__('os').system('x')=1"]}, "write NAME=VALUE"),
        ({"profile": "fast"}, "there are: smoke, default"),
        ({"only": ["09_z"]}, "There are: 01_a"),
        ({"executor": "cloud"}, "there are: local"),
    ],
)
def test_wrong_requests_are_refused_before_anything_starts(home, options, message):
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        run_pipeline(dataset=DATASET, **options)
    assert runs(home) == []


def test_an_unknown_dataset_is_refused_before_anything_starts(home):
    with pytest.raises(DataError, match="toy"):
        run_pipeline(dataset="toy@9.9.9")
    assert runs(home) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_something_else_in_place_of_the_latest_link_is_refused_at_once(home, kind, dry_run):
    latest = home / "reports" / "latest"
    latest.parent.mkdir()
    latest.mkdir() if kind == "folder" else latest.write_text("mine")
    with pytest.raises(NiveshError, match=rf"latest is a {kind} of its own.*Move it away"):
        run_pipeline(dataset=DATASET, dry_run=dry_run)
    assert runs(home) == [] and latest.exists()


@pytest.mark.parametrize("name", ["reports", "reports/runs"])
def test_a_file_in_place_of_a_folder_for_runs_is_refused_at_once(home, name):
    place = home / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("mine")
    with pytest.raises(NiveshError, match=rf"{name} is a file.*Move it away"):
        run_pipeline(dataset=DATASET)
    assert place.read_text() == "mine"


def test_a_link_that_leads_nowhere_is_refused_for_runs_and_replaced_for_latest(ran):
    reports = ran / "reports"
    (reports / "runs").rename(reports / "apart")
    (reports / "runs").symlink_to(ran / "gone")
    with pytest.raises(NiveshError, match="runs is a link that leads nowhere"):
        run_pipeline(dataset=DATASET)
    (reports / "runs").unlink()
    (reports / "apart").rename(reports / "runs")
    (reports / "latest").unlink()
    (reports / "latest").symlink_to(ran / "gone")
    record, run = run_pipeline(dataset=DATASET)
    assert record.complete and (reports / "latest").resolve() == run.path


def test_a_failing_notebook_keeps_its_evidence_and_other_branches_go_on(home, change):
    change(home, "01_a", ["x = 1", "raise ValueError('mail me at asha@example.com')"])
    lines: list[str] = []
    record, run = run_pipeline(dataset=DATASET, report=lines.append)
    statuses = {name: step.status for name, step in record.steps.items()}
    assert statuses == {"01_a": "failed", "02_b": "skipped", "03_c": "done"}
    said = "\n".join(lines)
    assert "notebooks/01_a.ipynb, cell [3]: exception: ValueError" in said
    assert "nivesh run --only 01_a --dataset toy@1.0.0" in said
    page = (run.path / "notebooks" / "01_a.html").read_text()
    assert "ValueError" in page and "asha@example.com" not in page + said
    assert not (home / "reports" / "latest").exists()
    with pytest.raises(StepFailed, match="1 of 3"):
        raise_for_failures(record, run)


@pytest.mark.usefixtures("here")
def test_a_mended_notebook_goes_on_from_the_finished_steps(ran, change):
    change(ran, "02_b", ["raise RuntimeError"])
    run_pipeline(dataset=DATASET)
    change(ran, "02_b", [RECORD.format(name="02_b") + "# mended"])
    record, _ = run_pipeline(dataset=DATASET)
    assert {n for n, s in record.steps.items() if s.cached_from} == {"01_a", "03_c"}
    assert record.complete


@pytest.mark.parametrize(
    ("cell", "cause"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the kernel died"),
        ("raise MemoryError('too much')", "the memory is used up"),
        ("import time; time.sleep(60)", "timeout"),
    ],
)
def test_the_cause_of_a_failure_is_named(home, change, cell, cause):
    toml = home / "notebooks" / "pipeline.toml"
    toml.write_text(toml.read_text().replace('help = "c"', 'help = "c"\ntimeout_s = 3'))
    change(home, "03_c", [cell])
    record, run = run_pipeline(dataset=DATASET, only=["03_c"])
    assert record.steps["03_c"].failure.cause == cause
    assert (run.path / "notebooks" / "03_c.html").is_file()


@pytest.mark.usefixtures("here")
def test_a_damaged_cached_file_is_made_again(ran):
    (folder,) = runs(ran)
    (folder / "results" / "03_c.json").write_text("{}")
    record, _ = run_pipeline(dataset=DATASET)
    assert not record.steps["03_c"].cached_from and record.steps["01_a"].cached_from


ODD = ["[]", '"text"', "null", "{}", "not JSON", '{"status": "done"}']


@pytest.mark.usefixtures("here")
def test_an_odd_step_record_is_no_cache_hit_and_stops_nothing(ran):
    (folder,) = runs(ran)
    for text in ODD:
        (folder / "steps" / "03_c.json").write_text(text)
        lines: list[str] = []
        run_pipeline(dataset=DATASET, dry_run=True, report=lines.append)
        assert [("would run" in line) for line in lines] == [False, False, True], text
    record, _ = run_pipeline(dataset=DATASET)
    assert not record.steps["03_c"].cached_from and record.steps["01_a"].cached_from
    assert record.complete


@pytest.mark.usefixtures("here")
def test_a_step_record_that_names_files_elsewhere_is_no_cache_hit(ran):
    (folder,) = runs(ran)
    path = folder / "steps" / "03_c.json"
    elsewhere = {"../../../requirements.lock": sha256_file(ran / "requirements.lock")}
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": elsewhere}))
    record, _ = run_pipeline(dataset=DATASET)
    assert not record.steps["03_c"].cached_from
    assert (ran / "requirements.lock").is_file()


@pytest.mark.parametrize("text", [*ODD, '{"steps": {"03_c": 1}}'])
def test_an_odd_run_record_is_passed_over(ran, text):
    (folder,) = runs(ran)
    (folder / "run.json").write_text(text)
    assert RunDirectory(folder).sound_record() is None
    record, new = run_pipeline(dataset=DATASET)
    assert record.complete and new.path != folder
    assert prune(1).runs == [folder.name]


@pytest.mark.parametrize("text", ODD)
def test_odd_leftovers_of_a_dead_run_are_cleared(ran, text):
    (folder,) = runs(ran)
    left = folder / "open" / "03_c.json"
    left.parent.mkdir(exist_ok=True)
    left.write_text(text)
    (ran / "reports" / "runs" / "a-file").write_text("")
    lines: list[str] = []
    record, _ = run_pipeline(dataset=DATASET, report=lines.append)
    assert record.complete and not left.exists()
    assert not any("could not close" in line for line in lines)


@pytest.mark.parametrize("result", ["[]", '"text"', '{"metrics": [], "model": "x"}'])
def test_odd_results_of_a_step_are_reported_as_none(ran, result):
    (folder,) = runs(ran)
    (folder / "results" / "03_c.json").write_text(result)
    page = write_report(RunDirectory(folder)).read_text()
    assert page.count("left no results that can be read") == 1


@pytest.mark.usefixtures("here")
def test_a_notebook_that_leaves_odd_results_is_done(home, change):
    change(home, "03_c", [RECORD.format(name="03_c").replace("json.dumps({", "str({")])
    record, run = run_pipeline(dataset=DATASET, only=["03_c"])
    assert record.status == "done"
    assert "left no results that can be read" in run.index.read_text()


@pytest.fixture
def start(home) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a pipeline; what still runs when the test ends is killed."""
    with contextlib.ExitStack() as ends:

        def begin(*options: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "nivesh_lib", "run", "--dataset", DATASET, *options]
            with (home / f"output-{time.time_ns()}").open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            ends.callback(process.wait)
            ends.callback(process.kill)
            return process

        yield begin


def wait_for(condition, home: Path, seconds: float = 120.0) -> None:
    """Wait for a condition; when it does not come, fail with what the pipelines printed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = [*home.glob("output-*"), *home.glob("reports/runs/*/logs/*.log")]
            pytest.fail("\n".join(f"{file.name}: {file.read_text()}" for file in said))
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found |= {child} | descendants(child)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_kill_9_leaves_no_process_and_the_next_run_continues(home, start):
    process = start("--set", "02_b.SLEEP=600")
    wait_for(lambda: any((r / "steps" / "01_a.json").is_file() for r in runs(home)), home)
    wait_for(lambda: len(descendants(process.pid)) >= 2, home)
    family = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(is_running(pid) for pid in family), home)
    dead = runs(home)[0]
    assert json.loads((dead / "run.json").read_text())["status"] == "running"
    record, _ = run_pipeline(dataset=DATASET)
    assert record.steps["01_a"].cached_from and record.complete
    assert RunDirectory(dead).record().status == "killed"


def test_an_mlflow_run_that_was_opened_and_not_noted_before_a_kill_is_closed(ran):
    (folder,) = runs(ran)
    record = RunDirectory(folder).record()
    RunDirectory(folder).write_record(record.changed(status="running"))
    left = open_logger("03_c", {}, experiment="toy", mode="pipeline", run=folder.name)
    run_pipeline(dataset=DATASET)
    assert client().get_run(left.run_id).info.status == "KILLED"


def test_half_written_results_are_never_taken_for_finished(ran):
    (folder,) = runs(ran)
    (folder / "steps" / "03_c.json").unlink()  # as if killed before the record
    lines: list[str] = []
    run_pipeline(dataset=DATASET, dry_run=True, report=lines.append)
    assert "would run" in lines[2]


def test_two_runs_at_once_do_not_disturb_each_other(home, start):
    processes = [start("--only", "03_c") for _ in range(2)]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    assert len(runs(home)) == 2
    assert all(RunDirectory(folder).sound_record().status == "done" for folder in runs(home))


def test_prune_keeps_the_newest_and_the_latest_good_one(ran):
    (good,) = runs(ran)
    for name in ("99990101-000000", "99990101-000001"):  # newer, and no good runs
        (ran / "reports" / "runs" / name).mkdir()
    assert prune(1).runs == ["99990101-000000"]
    assert {folder.name for folder in runs(ran)} == {good.name, "99990101-000001"}
    assert (ran / "reports" / "latest" / "index.html").is_file()


class Stopped(Exception):
    """Raised where a process might be killed."""


def stop(*_, **__):
    raise Stopped


@pytest.mark.usefixtures("here")
def test_a_run_is_done_only_when_its_report_exists(ran, change, monkeypatch):
    good = (ran / "reports" / "latest").resolve()
    change(ran, "03_c", [RECORD.format(name="03_c") + "# changed"])
    records: list[str] = []

    def killed(run, *_):  # nothing is written after this line by a process that is killed
        records.append(run.record().status)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("nivesh_lib.reporting.html.write_report", killed)
        with pytest.raises(Stopped):
            run_pipeline(dataset=DATASET)
    assert records == ["running"] and (ran / "reports" / "latest").resolve() == good
    unfinished = RunDirectory(runs(ran)[-1])
    assert unfinished.record().status == "killed" and not unfinished.index.exists()
    record, _ = run_pipeline(dataset=DATASET)
    assert all(step.cached_from for step in record.steps.values()) and record.complete


@pytest.mark.usefixtures("here")
def test_a_step_whose_run_is_pruned_meanwhile_runs_again(ran, change, monkeypatch):
    change(ran, "03_c", [RECORD.format(name="03_c") + "# changed"])
    (folder,) = runs(ran)
    planned = pipeline_run.plan

    def plan_then_prune(*arguments, **options):
        found = planned(*arguments, **options)
        (folder / "results" / "01_a.json").unlink()  # a removal that has just begun
        return found

    monkeypatch.setattr(pipeline_run, "plan", plan_then_prune)
    lines: list[str] = []
    record, _ = run_pipeline(dataset=DATASET, report=lines.append)
    assert record.complete and not record.steps["01_a"].cached_from
    assert record.steps["02_b"].cached_from
    assert any("01_a" in line and "runs again" in line for line in lines)


def test_no_record_says_running_after_an_error(ran, change, monkeypatch):
    change(ran, "03_c", [RECORD.format(name="03_c") + "# changed"])
    monkeypatch.setattr(RunDirectory, "link_step", stop)
    with pytest.raises(Stopped):
        run_pipeline(dataset=DATASET)
    assert {RunDirectory(folder).record().status for folder in runs(ran)} == {"done", "killed"}


def test_leftovers_of_killed_processes_are_removed_at_the_next_run(ran, change):
    (folder,) = runs(ran)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = RunDirectory(folder.parent / "20200101-000000")
    dead.path.mkdir()
    dead.write_record(RunDirectory(folder).record().changed(run=dead.name, status="running"))
    mark = f"{process.pid}.partial"
    left = [dead.partial("03_c.job.json"), dead.model(f".03_c.x1.{mark}") / "model" / "f"]
    left += [dead.path / "results" / f".03_c.json.{mark}", ran / "reports" / f".latest.{mark}"]
    left.append(ran / "reports" / "scratch" / "models" / f".03_c.x2.{mark}" / "f")
    artifacts = Path(client().search_experiments()[0].artifact_location.removeprefix("file://"))
    left.append(artifacts / "models" / "m-1" / f".model.json.{mark}")
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run_pipeline(dataset=DATASET)
    assert not any(path.exists() for path in left)
    assert dead.record().status == "killed"


@pytest.mark.usefixtures("here")
def test_a_run_that_is_killed_before_its_record_is_closed_leaves_nothing_unfinished(
    ran, change, monkeypatch
):
    change(ran, "03_c", [RECORD.format(name="03_c") + "# changed"])
    write_record, left = RunDirectory.write_record, []

    def watched(run, record):
        if record.status == "done":
            left.append(list(run.path.glob(".partial")))
        write_record(run, record)

    monkeypatch.setattr(RunDirectory, "write_record", watched)
    run_pipeline(dataset=DATASET)
    assert left == [[]]


def test_a_run_that_does_not_fit_on_the_disk_says_so_before_it_starts(ran, change, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    record, _ = run_pipeline(dataset=DATASET)  # which writes nothing
    assert record.complete
    change(ran, "03_c", [RECORD.format(name="03_c") + "# changed"])
    with pytest.raises(NiveshError, match=r"needs about [\d,]+ bytes, and 1,000 are free there"):
        run_pipeline(dataset=DATASET)
    assert len(runs(ran)) == 1


def test_a_read_only_home_gives_one_clear_error(home):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    home.chmod(0o500)
    with pytest.raises(SpecError):
        run_pipeline(dataset=DATASET)
