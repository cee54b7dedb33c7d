from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from nivesh_lib.cli import doctor
from nivesh_lib.cli.app import app


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_is_free", lambda port: True)
    return tmp_path


def lines():
    made = CliRunner().invoke(app, ["doctor"])
    return made.exit_code, made.output.splitlines()


def test_a_sound_machine_is_ticked_line_by_line():
    code, found = lines()
    assert code == 0 and all(line.startswith("✔ ") for line in found), found
    names = " ".join(line[2:12] for line in found)
    for name in (
        "Python",
        "cores",
        "processor",
        "memory",
        "disk",
        "kernel",
        "backbone",
        "tracking",
    ):
        assert name in names


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("_is_free", lambda port: False, "taken; make lab ARGS='--port 8889'"),
        ("_MEMORY", 10**15, "leave notebook 07 out"),
        ("_DISK", 10**18, "nivesh prune --keep 1"),
    ],
)
def test_what_will_not_do_comes_with_the_command_that_mends_it(monkeypatch, name, value, words):
    monkeypatch.setattr(doctor, name, value)
    code, found = lines()
    assert code == 1 and any(line.startswith("✘ ") and words in line for line in found)


def test_another_python_is_named_with_how_to_choose_one(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.14.1")
    assert lines()[1][0].startswith("✘ Python") and "3.14.1" in lines()[1][0]


def test_a_missing_backbone_and_a_missing_kernel_say_how_to_install_them(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.sys, "prefix", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = "\n".join(lines()[1])
    assert found.count("make install") == 2


def test_a_port_is_taken_while_somebody_listens(monkeypatch):
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not doctor._is_free(port)
    assert doctor._is_free(port)
