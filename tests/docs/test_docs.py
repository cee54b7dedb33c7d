"""Documents, and pairs of lists that must agree."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest
from typer.testing import CliRunner

from nivesh_lib.cli.app import app
from nivesh_lib.pipeline import showcase
from tests.conftest import REPOSITORY
from tests.serve_lock import locked, normal

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]


def declared() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return project["dependencies"] + extras["workbench"] + extras["dev"]


def test_the_lock_pins_everything_exactly_and_plainly():
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.!]+", pin) for pin in pins)
    assert not any(pin.startswith("nvidia") for pin in pins)
    assert locked()["torch"] == "2.13.0"


@pytest.mark.parametrize("requirement", declared())
def test_every_declared_dependency_is_locked_within_its_bounds(requirement):
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    assert locked()[normal(parsed.name)] in parsed.specifier


def test_environment_yml_takes_the_lock_and_the_same_python():
    text = (REPOSITORY / "environment.yml").read_text()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert "-r requirements.lock" in text and "python=3.11" in text
    assert project["requires-python"].startswith(">=3.11")


def test_the_installed_packages_are_the_locked_ones():
    import importlib.metadata

    for name in ("mlflow", "pandas", "evidently", "scikit-learn", "papermill", "nbval", "ruff"):
        assert importlib.metadata.version(name) == locked()[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def commands() -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return sorted(set(re.findall(r"^\.venv/bin/nivesh ([^#\n]+)", text, flags=re.MULTILINE)))


@pytest.mark.parametrize("command", commands())
def test_every_documented_command_and_option_exists(command):
    words = shlex.split(command)
    path = words[: 2 if words[0] in ("data", "canary") else 1]
    shown = CliRunner().invoke(app, [*path, "--help"])
    assert shown.exit_code == 0
    for option in (w for w in words if w.startswith("--")):
        assert option in shown.output, f"{option} of {command}"


@pytest.mark.parametrize("target", re.findall(r"`?make ([a-z]+(?:-[a-z]+)*)`?", README))
def test_every_make_target_of_the_readme_exists(target):
    makefile = (REPOSITORY / "Makefile").read_text()
    assert re.search(rf"^{target}:.*## ", makefile, flags=re.MULTILINE) or target == "is"


def test_the_generated_tables_of_the_readme_are_fresh():
    assert showcase.filled(README) == README, "run `make showcase`"


def test_each_command_s_help_has_an_example():
    for name in ("run", "predict", "release", "prune"):
        assert "Example:" in CliRunner().invoke(app, [name, "--help"]).output


def test_ci_runs_the_readme_s_test_command():
    script = (REPOSITORY / ".ci" / "run").read_text()
    assert "make test NOTEBOOKS=\n" in script  # all of them
    assert "make test" in (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()
