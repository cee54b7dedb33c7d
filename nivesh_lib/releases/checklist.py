"""The checklists of a deployment and of a review, each line with its evidence.

A line is shown by what is looked up when it is asked for: the record of the release, the log,
files of the home folder, or a program that is run. Where that is not there, the line is *not
shown*, and its evidence is what was looked for. None is ticked because it usually holds.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError
from nivesh_lib.hash_chain import Entry
from nivesh_lib.records.base import read_json
from nivesh_lib.records.metrics import flat_metrics
from nivesh_lib.records.release import Release
from nivesh_lib.releases.log import read_log
from nivesh_lib.releases.package import Package, lock_hash
from nivesh_lib.reproducibility import objects_at
from nivesh_lib.runs.directories import find_run
from nivesh_lib.runs.layout import notebook_of
from nivesh_lib.wording import human_bytes, milliseconds

# Tests say something about a release whose commit has the same of these; so in the Makefile.
CODE = ("nivesh_lib", "tests", "requirements.lock", "pyproject.toml")
DOCUMENTS = ("docs", "README.md", "CHANGELOG.md")
LOAD_TARGET = 100  # requests a second
_INTEGRATION = r"tests\.(cli|notebooks|pipeline)\."
_UNIT = rf"(?!{_INTEGRATION})"


@dataclass(frozen=True)
class Line:
    """A line of a checklist, and what shows it, or why nothing does."""

    item: str
    evidence: str
    shown: bool


class _NotShown(NiveshError):
    """Nothing shows the line; the message says what was looked for."""


@dataclass(frozen=True)
class _Known:
    record: Release | None
    stage: str

    @property
    def release(self) -> Release:
        if self.record is None:
            raise _NotShown("there is no release")
        return self.record

    def entries(self, kind: str) -> list[Entry]:
        """Return the lines of the release log of one kind that are about this model."""
        mine = {"kind": kind, "version": self.release.version, "digest": self.release.digest}
        return [entry for entry in read_log(self.release.name) if entry | mine == entry]


def last_release() -> Release | None:
    """Return what was released last; None before there is any.

    Raises
    ------
    NiveshError
        The log is not whole, or the package is not on this machine.
    """
    entries = [entry for entry in read_log() if entry["kind"] == "release"]
    return Package.of(entries[-1]["name"], entries[-1]["version"]).release() if entries else None


def checklist(release: Release | None, *, stage: str = "production") -> list[Line]:
    """Return every line of the two checklists.

    Parameters
    ----------
    release : Release or None
        What is to be deployed; without one, no line about a release is shown.
    stage : str
        The stage whose gates are looked at.
    """
    known = _Known(release, stage)
    return [_line(item, find, known) for item, find in (*DEPLOYMENT, *REVIEW)]


def _line(item: str, find: Callable[[_Known], str], known: _Known) -> Line:
    try:
        return Line(item, find(known), True)
    except NiveshError as why:  # a record that is missing or damaged shows nothing either
        return Line(item, str(why), False)


def _met(known: _Known, word: str) -> str:
    """Return the gates about something, all of which are passed."""
    judged = known.release.gates.get(known.stage, [])
    about = [gate for gate in judged if word in f"{gate.name} {gate.mark}".lower()]
    found = "; ".join(f"{gate.mark}: {gate.verdict} (found {gate.found})" for gate in about)
    if not about or not all(gate.passed for gate in about):
        raise _NotShown(found or f"no gate of {known.stage} is about {word}")
    return found


def _pinned(known: _Known) -> str:
    lines = re.findall(r"^(?!\s*(?:#|$)).*", _text("requirements.lock"), re.MULTILINE)
    if loose := [line for line in lines if not re.match(r"[\w.-]+==[^\s,*]+$", line)]:
        raise _NotShown(f"requirements.lock does not pin {loose[0]}")
    digest = lock_hash()
    if known.record is not None and digest != known.record.lock_sha256:
        raise _NotShown(f"requirements.lock ({digest[:8]}) is not the one of the release")
    return f"{len(lines)} packages with == in requirements.lock ({digest[:8]})"


def _tested(known: _Known, what: str, pattern: str) -> str:
    """Return how many tests, whose names match, passed with the code of the release."""
    try:
        suite = ElementTree.parse(_file("reports/tests.xml", "make test")).find("testsuite")
    except ElementTree.ParseError:
        suite = None
    tested = "" if suite is None else suite.get("name", "")
    commit = known.record.commit if known.record else "HEAD"
    code = objects_at(tested, *CODE)
    if suite is None or not code or code != objects_at(commit, *CODE):
        raise _NotShown(
            f"reports/tests.xml is of {tested[:14] or 'no commit'}, and not of the code of "
            f"{commit[:14]}: make test there"
        )
    cases = suite.findall("testcase")
    cases = [c for c in cases if re.match(pattern, f"{c.get('classname')}.{c.get('name')}")]
    ends = [{part.tag for part in case} & {"failure", "error", "skipped"} for case in cases]
    passed, skipped = ends.count(set()), ends.count({"skipped"})
    failed = len(cases) - passed - skipped
    if failed or not passed:
        raise _NotShown(f"{failed} of {len(cases)} {what} tests failed, {passed} passed")
    return f"{passed:,} {what} tests passed at {tested[:8]}, {skipped} were skipped"


def _load(known: _Known) -> str:
    found = read_json(_file("reports/load.json"), "the result of a load test")
    rate, of = found.get("requests_per_second"), found.get("digest")
    if of != known.release.digest or not isinstance(rate, int | float) or rate < LOAD_TARGET:
        raise _NotShown(f"reports/load.json has {rate} requests a second, of model {of}")
    return f"{rate:g} requests a second in reports/load.json"


def _rollback(known: _Known) -> str:
    sections = re.split(r"^#+ ", _text("docs/deployment.md"), flags=re.MULTILINE)
    plans = [text for text in sections if re.match(r".*\broll(ing)? ?back", text, re.IGNORECASE)]
    named = set(re.findall(r"nivesh ([a-z]+)", "".join(plans)))
    if not named:
        raise _NotShown("docs/deployment.md has no section with the commands to roll back")
    command = [sys.executable, "-m", "nivesh_lib", "--help"]
    here = paths.package_dir().parent  # not a home folder that has a nivesh_lib of its own
    shown = subprocess.run(command, cwd=here, capture_output=True, text=True).stdout
    if strange := named - set(re.findall(r"^  ([a-z]+) ", shown, re.MULTILINE)):
        raise _NotShown(f"docs/deployment.md names nivesh {min(strange)}, which does not exist")
    return f"docs/deployment.md, with {', '.join(sorted(named))}"


def _monitoring(known: _Known) -> str:
    rules = (paths.home() / "deploy" / "prometheus").rglob("*.y*ml")
    text = "\n".join(file.read_text(encoding="utf-8") for file in rules)
    if not (alerts := len(re.findall(r"^\s*- alert:", text, re.MULTILINE))):
        raise _NotShown("no alert in deploy/prometheus")
    return f"{alerts} alerts in deploy/prometheus"


def _notified(known: _Known) -> str:
    if not (notices := known.entries("notice")):
        raise _NotShown(f"no notice of {known.release.version} in the release log")
    return "; ".join(f"{one['who']}, {one['timestamp']}: {one['why']}" for one in notices)


def _style(known: _Known) -> str:
    if importlib.util.find_spec("ruff") is None:
        raise _NotShown("ruff is not installed")
    if not (paths.home() / "nivesh_lib").is_dir():
        raise _NotShown(f"{paths.home()} holds no code")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "."]
    done = subprocess.run(command, cwd=paths.home(), capture_output=True)
    if done.returncode:
        raise _NotShown(f"ruff check: exit code {done.returncode}")
    return "ruff check: exit code 0, with the present code"


def _logged(known: _Known) -> str:
    release = known.release
    step = find_run(release.run).record().steps.get(notebook_of(release.step))
    if step is None or not step.mlflow_run_id:
        raise _NotShown(f"run {release.run} names no MLflow run of {release.step}")
    return f"MLflow run {step.mlflow_run_id} of {release.step} in {release.run}"


def _versioned(known: _Known) -> str:
    release = known.release
    if not known.entries("release") or not release.bump:
        raise _NotShown(f"the release log has no {release.version} of this model, with its reasons")
    return f"{release.version} in the release log: {'; '.join(release.bump)}"


def _documented(known: _Known) -> str:
    release = known.release
    title = f"{release.name} {release.version}"
    if re.search(re.escape(title) + r"(?![\d.]*\d)", _text("CHANGELOG.md")):
        return f"CHANGELOG.md names {title}"
    if not release.predecessor:
        raise _NotShown(f"CHANGELOG.md does not name {title}")
    last = Package.of(release.name, release.predecessor).release().commit
    before, now = objects_at(last, *DOCUMENTS), objects_at("HEAD", *DOCUMENTS)
    if not before or not now or before == now:
        raise _NotShown(f"CHANGELOG.md does not name {title}; documents are as at {last[:8]}")
    return f"documents changed since {release.predecessor} ({last[:8]})"


def _performance(known: _Known) -> str:
    metrics = known.release.metrics
    if missing := [name for name in ("p95_ms", "peak_bytes") if name not in metrics]:
        raise _NotShown(f"the release has no {' and no '.join(missing)}")
    flat = flat_metrics(metrics)
    latency, memory = milliseconds(flat["p95_ms"]), human_bytes(flat["peak_bytes"])
    return f"a query takes {latency} (p95), the process {memory}"


def _secure(known: _Known) -> str:
    _file("SECURITY.md")
    return "SECURITY.md; " + _tested(known, "hostile input", ".*hostile")


def _text(name: str) -> str:
    return _file(name).read_text(encoding="utf-8")


def _file(name: str, remedy: str = "") -> Path:
    """Return the path of a file of the home folder that is there."""
    path = paths.home() / name
    if not path.is_file():
        raise _NotShown(f"there is no {name}{': ' * bool(remedy)}{remedy}")
    return path


DEPLOYMENT = (
    ("Model meets accuracy thresholds", partial(_met, word="accuracy")),
    ("Latency tested at scale", partial(_met, word="latency")),
    ("All dependencies pinned", _pinned),
    ("Integration tests pass", partial(_tested, what="integration", pattern=_INTEGRATION)),
    (f"Load tests pass (target: {LOAD_TARGET} req/s)", _load),
    ("Rollback plan documented", _rollback),
    ("Monitoring configured", _monitoring),
    ("Stakeholders notified", _notified),
)
REVIEW = (
    ("Code follows style guidelines (PEP 8 for Python)", _style),
    ("Unit tests included and passing", partial(_tested, what="unit", pattern=_UNIT)),
    ("Experiment logged in MLflow", _logged),
    ("Model versioned correctly", _versioned),
    ("Documentation updated", _documented),
    ("Performance tested (latency, memory)", _performance),
    ("Security reviewed (input validation)", _secure),
)
