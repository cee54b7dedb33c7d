"""deploy/*Dockerfile: what they name is there, and what they run is what the command line takes."""

from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer.main

from nivesh_lib import paths
from nivesh_lib.cli.app import app
from nivesh_lib.serving.middleware import KNOWN
from nivesh_lib.serving.settings import Settings
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
SERVER, MLFLOW = DEPLOY / "Dockerfile", DEPLOY / "mlflow.Dockerfile"
OF_PYTHON_AND_PIP = r"PIP_\w+|PYTHON\w+"


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with its rest, continued lines joined."""
    lines = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.M)
    joined = re.sub(r"\\\n\s*", "", lines)
    pairs = [line.partition(" ")[::2] for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, rest in pairs]


def all_of(file: Path, name: str) -> list[str]:
    return [rest for found, rest in instructions(file) if found == name]


def variables(file: Path) -> dict[str, str]:
    pairs = (word.split("=", 1) for rest in all_of(file, "ENV") for word in shlex.split(rest))
    return dict(pairs)


def copied(file: Path) -> list[str]:
    return [source for rest in all_of(file, "COPY") for source in rest.split()[:-1]]


def command_of(file: Path) -> list[str]:
    (command,) = all_of(file, "CMD")
    return json.loads(command)


@pytest.mark.parametrize("file", [SERVER, MLFLOW], ids=lambda file: file.name)
def test_what_is_copied_is_there_and_not_ignored(file):
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert "*" in ignored and all(list(REPOSITORY.glob(one)) for one in kept)
    assert copied(file)
    for source in copied(file):
        assert (REPOSITORY / source).exists() and any(fnmatch(source, one) for one in kept), source


@pytest.mark.parametrize("file", [SERVER, MLFLOW], ids=lambda file: file.name)
def test_it_runs_as_a_user_without_rights(file):
    names = [name for name, _ in instructions(file)]
    (user,) = all_of(file, "USER")
    assert int(user) >= 1_000 and f"--uid {user}" in file.read_text()
    assert max(i for i, name in enumerate(names) if name == "RUN") < names.index("USER")
    assert all_of(file, "FROM") == ["python:3.11-slim"]


def test_the_server_s_variables_are_read_by_the_library(monkeypatch):
    set_here = variables(SERVER)
    ours = {name for name in set_here if not re.fullmatch(OF_PYTHON_AND_PIP, name)}
    assert ours == {"NIVESH_HOME", "NIVESH_FEEDBACK"}
    monkeypatch.setenv("NIVESH_HOME", set_here["NIVESH_HOME"])
    assert str(paths.home()) == set_here["NIVESH_HOME"]
    assert set_here["NIVESH_HOME"] in all_of(SERVER, "WORKDIR")
    assert Settings.read(set_here).feedback == Path("/feedback/feedback.jsonl")
    assert re.search(r"--owner nivesh /feedback$", " ".join(all_of(SERVER, "RUN")))


def test_the_server_s_command_is_one_that_the_command_line_takes():
    program, name, *options = command_of(SERVER)
    command = typer.main.get_command(app).commands[name]
    taken = command.make_context(name, options).params
    assert program == "nivesh" and (taken["host"], taken["workers"]) == ("0.0.0.0", 2)
    assert all_of(SERVER, "EXPOSE") == [str(taken["port"])]


def test_the_health_check_asks_the_server_s_own_port_whether_it_is_ready():
    check = all_of(SERVER, "HEALTHCHECK")[0]
    (port,) = all_of(SERVER, "EXPOSE")
    path = re.search(rf"http://127\.0\.0\.1:{port}(/\w+)", check)[1]
    assert path == "/ready" and path in KNOWN


def test_mlflow_s_command_is_one_that_it_takes_and_its_driver_is_the_one_that_it_looks_for():
    from mlflow.cli import server
    from sqlalchemy import make_url

    program, name, *options = command_of(MLFLOW)
    taken = server.make_context(name, options).params
    assert (program, name) == ("mlflow", "server")
    driver = make_url(taken["backend_store_uri"]).get_dialect().driver
    (pinned,) = re.findall(r'"(\w+)\[binary\]==[\d.]+"', all_of(MLFLOW, "RUN")[0])
    assert driver == pinned
