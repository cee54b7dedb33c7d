from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from nivesh_lib.files import sha256_file
from nivesh_lib.records.base import write_json
from nivesh_lib.records.release import Gate, Release
from nivesh_lib.records.run import DatasetRecord, Environment, Git, RunRecord, StepRecord
from nivesh_lib.releases.checklist import (
    CODE,
    DEPLOYMENT,
    REVIEW,
    Line,
    _Known,
    _line,
    checklist,
    last_release,
)
from tests.conftest import REPOSITORY

ITEMS = {
    "accuracy": "Model meets accuracy thresholds",
    "latency": "Latency tested at scale",
    "pinned": "All dependencies pinned",
    "integration": "Integration tests pass",
    "load": "Load tests pass (target: 100 req/s)",
    "rollback": "Rollback plan documented",
    "monitoring": "Monitoring configured",
    "notified": "Stakeholders notified",
    "style": "Code follows style guidelines (PEP 8 for Python)",
    "unit": "Unit tests included and passing",
    "logged": "Experiment logged in MLflow",
    "versioned": "Model versioned correctly",
    "documented": "Documentation updated",
    "performance": "Performance tested (latency, memory)",
    "secure": "Security reviewed (input validation)",
}
FILES = {
    "requirements.lock": "# all of it\nnumpy==2.0\ntorch==2.13.0\n",
    "pyproject.toml": "",
    "nivesh_lib/code.py": "VALUE = 1\n",
    "tests/test_code.py": "",
    "docs/deployment.md": "# Runbook\n\n## Roll back\n\n    nivesh rollback\n\n## More\n",
    "README.md": "# Readme\n",
    "SECURITY.md": "# Security\n",
    "CHANGELOG.md": "- intent_classifier 1.0.0 is the first.\n",
    "deploy/prometheus/rules.yml": "groups:\n- rules:\n  - alert: Slow\n  - alert: Down\n",
}
PASSED = (
    '<testcase classname="tests.pipeline.test_run" name="test_runs"/>'
    '<testcase classname="tests.data.test_reading" name="test_reads"/>'
    '<testcase classname="tests.models.test_hostile" name="test_refuses"/>'
)


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(message: str = "all") -> str:
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "-m", message)
    return git("rev-parse", "HEAD")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A committed home that has the evidence of every line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for person in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{person}_NAME", "A")
        monkeypatch.setenv(f"GIT_{person}_EMAIL", "a@example.org")
    git("init", "--quiet")
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    Path(".gitignore").write_text("reports/\n")
    write_tests(commit())
    write_json(Path("reports/load.json"), {"requests_per_second": 140, "digest": "d1"})
    write_run("a1b2")
    return tmp_path


def write_tests(name: str, cases: str = PASSED) -> None:
    Path("reports").mkdir(exist_ok=True)
    suite = f'<testsuites><testsuite name="{name}">{cases}</testsuite></testsuites>'
    Path("reports/tests.xml").write_text(suite)


def write_run(mlflow_run_id: str | None) -> None:
    step = StepRecord(status="done", mlflow_run_id=mlflow_run_id)
    record = RunRecord(
        run="20260101-101500", status="done", profile="default", started="", seconds=1.0,
        dataset=DatasetRecord(ref="intents@1.1.0"), steps={"07_optimization": step},
        git=Git(), environment=Environment(), complete=True,
    )  # fmt: skip
    write_json(Path("reports/runs/20260101-101500/run.json"), record)


def gates(**verdicts: str) -> list[Gate]:
    return [
        Gate(name=name, mark=f"{name} good enough", verdict=verdict, found="0.9")
        for name, verdict in verdicts.items()
    ]


def release(**fields) -> Release:
    """Return a release of the last commit of the home."""
    given = {
        "name": "intent_classifier", "version": "1.0.0", "digest": "d1", "base": "",
        "kind": "tfidf", "algorithm": "", "temperature": None, "min_confidence": None,
        "labels": [], "response": [], "dataset": "intents@1.1.0", "data_sha256": "",
        "commit": git("rev-parse", "HEAD"), "lock_sha256": sha256_file(Path("requirements.lock")),
        "run": "20260101-101500", "step": "07_optimization.cascade", "parameters": {},
        "train_seconds": None, "size_bytes": 1, "rows": 300, "slices": [], "openings": [],
        "metrics": {"p95_ms": {"value": 0.43}, "peak_bytes": 200_000_000},
        "in_place": None, "predecessor": "", "bump": ["the first"], "changes": [],
        "gates": {"production": gates(accuracy="met", latency="met")},
        "who": "Asha", "why": "", "created": "", "environment": {},
    }  # fmt: skip
    return Release(**(given | fields))


def entry(kind: str, **fields) -> dict[str, str]:
    of = {"name": "intent_classifier", "version": "1.0.0", "digest": "d1"}
    return {"kind": kind, **of, "who": "Asha", "why": "told support", "timestamp": "now"} | fields


LOG = (entry("release"), entry("notice"))


@pytest.fixture(autouse=True)
def log(monkeypatch) -> Callable[..., None]:
    """Return a function that takes what the release log holds; by default that is `LOG`."""

    def holds(*entries: dict[str, str]) -> None:
        monkeypatch.setattr(
            "nivesh_lib.releases.checklist.read_log",
            lambda name="": [each for each in entries if name in ("", each["name"])],
        )

    holds(*LOG)
    return holds


def line(key: str, of: Release | None) -> Line:
    """Return one line without looking up the evidence of all others, which takes a second."""
    return _line(ITEMS[key], dict((*DEPLOYMENT, *REVIEW))[ITEMS[key]], _Known(of, "production"))


EVIDENCE = {
    "accuracy": r"accuracy good enough: met \(found 0\.9\)",
    "latency": r"latency good enough: met \(found 0\.9\)",
    "pinned": r"2 packages with == .*",
    "integration": r"1 integration tests passed at \w{8}, 0 were skipped",
    "load": r"140 requests a second in reports/load\.json",
    "rollback": r"docs/deployment\.md, with rollback",
    "monitoring": "2 alerts in deploy/prometheus",
    "notified": "Asha, now: told support",
    "style": "ruff check: exit code 0, .*",
    "unit": r"2 unit tests passed at \w{8}, 0 were skipped",
    "logged": "MLflow run a1b2 of 07_optimization.cascade in 20260101-101500",
    "versioned": r"1\.0\.0 in the release log: the first",
    "documented": r"CHANGELOG\.md names intent_classifier 1\.0\.0",
    "performance": r"a query takes 0\.43 ms \(p95\), the process 200\.0 MB",
    "secure": r"SECURITY\.md; 1 hostile input tests passed at \w{8}, 0 were skipped",
}


def test_every_line_is_shown_by_its_evidence(home):
    found = dict(zip(ITEMS, checklist(release()), strict=True))
    assert [each.item for each in found.values()] == list(ITEMS.values())
    assert all(each.shown for each in found.values())
    for key, each in found.items():
        assert re.fullmatch(EVIDENCE[key], each.evidence), each


def failing(name: str) -> str:
    """Return the recorded tests, of which the one with this name failed."""
    return PASSED.replace(f'name="{name}"/>', f'name="{name}"><failure/></testcase>')


def remove(name: str):
    return lambda: Path(name).unlink()


def write(name: str, text: str):
    return lambda: Path(name).write_text(text)


def record(cases: str):
    return lambda: write_tests(git("rev-parse", "HEAD"), cases)


# What takes the evidence of a line away, and a piece of what is said then.
TAKEN_AWAY = [
    ("pinned", remove("requirements.lock"), "no requirements.lock"),
    ("pinned", write("requirements.lock", "numpy==2.0\ntorch>=2\n"), "does not pin torch>=2"),
    ("pinned", write("requirements.lock", "numpy==2.*\n"), r"does not pin numpy==2\.\*"),
    ("pinned", write("requirements.lock", "numpy==2.1\n"), "not the one of the release"),
    ("integration", remove("reports/tests.xml"), "make test"),
    ("integration", write("reports/tests.xml", "<testsuites>"), "of no commit"),
    ("integration", lambda: write_tests("pytest"), "is of pytest, and not of the code"),
    ("integration", lambda: write_tests(""), "of no commit"),
    ("integration", lambda: write_tests(git("rev-parse", "HEAD") + "-dirty"), "not of the code"),
    ("integration", record(failing("test_runs")), "1 of 1 integration tests failed"),
    ("integration", record(""), "0 passed"),
    ("unit", record(failing("test_reads")), "1 of 2 unit tests failed"),
    ("unit", record(""), "0 passed"),
    ("load", remove("reports/load.json"), r"no reports/load\.json"),
    ("load", write("reports/load.json", '{"requests_per_second": 99, "digest": "d1"}'), "has 99"),
    ("load", write("reports/load.json", '{"requests_per_second": 140, "digest": "d2"}'), "d2"),
    ("rollback", remove("docs/deployment.md"), "no docs/deployment"),
    ("rollback", write("docs/deployment.md", "# Release\n\n    nivesh rollback\n"), "no section"),
    ("rollback", write("docs/deployment.md", "# Roll back\n\nAsk Asha.\n"), "no section"),
    ("monitoring", remove("deploy/prometheus/rules.yml"), "no alert"),
    ("monitoring", write("deploy/prometheus/rules.yml", "groups: []\n"), "no alert"),
    ("style", write("nivesh_lib/code.py", "import os\n"), "exit code 1"),
    ("logged", lambda: write_run(None), "names no MLflow run"),
    ("logged", remove("reports/runs/20260101-101500/run.json"), "no such file"),
    ("documented", remove("CHANGELOG.md"), "no CHANGELOG"),
    ("documented", write("CHANGELOG.md", "intent_classifier 1.0.0.1\n"), "does not name"),
    ("secure", remove("SECURITY.md"), r"no SECURITY\.md"),
    ("secure", record(failing("test_refuses")), "1 of 1 hostile input tests failed"),
]


@pytest.mark.parametrize("key, take, said", TAKEN_AWAY)
def test_a_line_is_not_shown_without_its_evidence(key, take, said, home):
    released = release()
    take()
    found = line(key, released)
    assert not found.shown and re.search(said, found.evidence)


RECORDS = [
    ("accuracy", {"gates": {}}, "no gate of production is about accuracy"),
    ("accuracy", {"gates": {"staging": gates(accuracy="met")}}, "no gate of production"),
    ("accuracy", {"gates": {"production": gates(accuracy="not reachable")}}, "not reachable"),
    ("latency", {"gates": {"production": gates(accuracy="met")}}, "about latency"),
    ("latency", {"gates": {"production": gates(latency="undecided")}}, "undecided"),
    ("logged", {"step": "03_tfidf"}, "names no MLflow run of 03_tfidf"),
    ("logged", {"run": "gone"}, "is no run"),
    ("versioned", {"bump": []}, "no 1.0.0 of this model"),
    ("versioned", {"digest": "d2"}, "no 1.0.0 of this model"),
    ("performance", {"metrics": {"p95_ms": 0.4}}, "no peak_bytes"),
    ("performance", {"metrics": {}}, "no p95_ms and no peak_bytes"),
    ("load", {"digest": "d2"}, "of model d1"),
    ("unit", {"commit": "0" * 40}, "not of the code of 00000000"),
]


@pytest.mark.parametrize("key, fields, said", RECORDS)
def test_a_line_is_not_shown_by_a_record_that_lacks_it(key, fields, said, home):
    found = line(key, release(**fields))
    assert not found.shown and said in found.evidence


@pytest.mark.parametrize("key", ["versioned", "notified"])
@pytest.mark.parametrize("of", [None, {"version": "0.9.0"}, {"name": "mine"}, {"digest": "d2"}])
def test_a_log_without_the_version_shows_nothing(key, of, home, log):
    log(*(entry(each["kind"], **of) for each in LOG if of is not None))
    assert not line(key, release()).shown


def test_the_last_release_is_that_of_the_log(home, log):
    write_json(Path("reports/releases/intent_classifier/1.0.0/release.json"), release())
    log(entry("release"), entry("promotion", version="0.9.0"))
    assert last_release() == release()
    log()
    assert last_release() is None


def test_a_plan_with_a_command_that_does_not_exist_is_none(home):
    Path("docs/deployment.md").write_text("# Rolling back\n\n`nivesh rollback`, `nivesh revert`\n")
    found = line("rollback", release())
    assert found.evidence == "docs/deployment.md names nivesh revert, which does not exist"


def test_style_is_not_shown_without_ruff(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "ruff", None)
    assert importlib.util.find_spec("ruff") is None
    assert line("style", release()).evidence == "ruff is not installed"


def test_style_is_not_shown_where_there_is_no_code(home):
    Path("nivesh_lib/code.py").unlink()
    Path("nivesh_lib").rmdir()
    assert "holds no code" in line("style", release()).evidence


@pytest.mark.parametrize("name", CODE)
def test_tests_of_other_code_show_nothing(name, home):
    place = Path(name) / "more.py" if Path(name).is_dir() else Path(name)
    place.write_text("# other\n")
    commit("other code")
    assert not line("unit", release()).shown


def test_tests_hold_for_a_later_commit_with_the_same_code(home):
    Path("README.md").write_text("more\n")
    commit("more to read")
    assert line("unit", release()).shown


def test_skipped_tests_are_counted_apart(home):
    skipped = '<testcase classname="tests.a" name="b"><skipped/></testcase>'
    write_tests(git("rev-parse", "HEAD"), PASSED + skipped)
    assert line("unit", release()).evidence.endswith(", 1 were skipped")


def write_predecessor() -> None:
    before = release(version="0.9.0")
    write_json(Path("reports/releases/intent_classifier/0.9.0/release.json"), before)


def test_documents_that_changed_since_the_predecessor_show_it_too(home):
    Path("CHANGELOG.md").write_text("nothing\n")
    commit("nothing to read")
    write_predecessor()
    assert not line("documented", release(predecessor="0.9.0")).shown
    Path("README.md").write_text("more\n")
    commit("more to read")
    found = line("documented", release(predecessor="0.9.0"))
    assert found.shown and found.evidence.startswith("documents changed since 0.9.0")


def test_documents_are_not_shown_without_the_predecessor_s_record(home):
    Path("CHANGELOG.md").write_text("nothing\n")
    assert "not on this machine" in line("documented", release(predecessor="0.9.0")).evidence


def test_without_a_release_only_what_is_not_about_one_is_shown(home):
    shown = {each.item for each in checklist(None) if each.shown}
    keys = ("pinned", "integration", "rollback", "monitoring", "style", "unit", "secure")
    assert shown == {ITEMS[key] for key in keys}


def test_in_an_empty_home_nothing_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    assert not [each.item for each in checklist(None) if each.shown]


def test_make_test_writes_what_the_checklist_reads():
    makefile = (REPOSITORY / "Makefile").read_text()
    assert f"CODE := {' '.join(CODE)}\n" in makefile
    assert "TESTED := reports/tests.xml\n" in makefile


def test_make_names_a_commit_whose_code_is_changed_dirty(home):
    makefile = (REPOSITORY / "Makefile").read_text()
    lines = re.findall(r"^(?:CODE|COMMIT) :?= .*\n", makefile, flags=re.MULTILINE)
    Path("reports/Makefile").write_text("".join(lines) + "show:\n\t@echo $(COMMIT)\n")

    def shown() -> str:
        command = ["make", "--silent", "--no-print-directory", "-f", "reports/Makefile"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    Path("README.md").write_text("more to read\n")
    assert shown() == git("rev-parse", "HEAD")
    Path("nivesh_lib/new.py").write_text("")
    assert shown() == git("rev-parse", "HEAD") + "-dirty"


def test_pytest_puts_the_commit_where_the_checklist_looks(home, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take seconds
    Path("tests/test_code.py").write_text("def test_passes():\n    pass\n")
    at = commit("a test")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    options = ["--junitxml=reports/tests.xml", "-o", f"junit_suite_name={at}"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    assert line("unit", release()).evidence == f"1 unit tests passed at {at[:8]}, 0 were skipped"


def test_a_line_is_ready_for_json():
    assert json.loads(json.dumps(asdict(line("accuracy", None)))) == {
        "item": ITEMS["accuracy"],
        "evidence": "there is no release",
        "shown": False,
    }
