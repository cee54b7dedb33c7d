from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

from tests.conftest import REPOSITORY
from tests.models.hostile import BUILDERS, FROZEN, HARMLESS, SLOW

# Loads every directory in one process, whose terminal says `y` to each question. Connections are
# refused and noted, and so is the opening of a file that belongs to none of the directories.
DRIVER = """
import json, resource, sys, time, warnings
noted, directory = [], ""

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        noted.append(event)
        raise OSError("no network here")
    if directory and event == "open" and isinstance(arguments[0], str):
        if arguments[0].startswith((sys.argv[2], "/etc/host")):
            noted.append(arguments[0])

sys.addaudithook(watch)
from nivesh_lib.__main__ import main
for model in ("transformer", "embedding"):
    sys.argv[1:1] = ["predict", "save tax", "--model", f"{sys.argv[2]}/{model}"]
    given, sys.argv = sys.argv, sys.argv[:5]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    sys.argv = [given[0], *given[5:]]
from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import load_model

warnings.simplefilter("ignore")
for name, directory in json.loads(sys.argv[1]).items():
    started = time.monotonic()
    try:
        load_model(directory)
        outcome = "loaded"
    except ModelError as error:
        outcome = f"refused: {error}"
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"name": name, "outcome": outcome, "seconds": seconds, "peak": peak, "noted": noted}
    print(json.dumps(found), flush=True)
    noted.clear()
"""


def outcomes(directories: dict[str, str]) -> list[dict[str, Any]]:
    """Return what happened to each directory."""
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 100)
    hidden = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # as for a person without the Makefile
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(directories), str(FROZEN)],
            stdin=theirs,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=environment,
            timeout=120,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, done.stderr[-2_000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_hostile_directories_are_refused_or_loaded_without_harm(tmp_path):
    directories = {name: tmp_path / name for name in BUILDERS if name not in SLOW}
    for name, directory in directories.items():
        BUILDERS[name](directory)
    found = outcomes({name: str(directory) for name, directory in directories.items()})
    assert [one["name"] for one in found] == list(directories)
    harmed = [
        one
        for one in found
        if (one["outcome"] == "loaded") != (one["name"] in HARMLESS)
        or one["seconds"] > 20  # 5 on a machine that does nothing else
        or one["peak"] > 2  # GiB
        or one["noted"]
        or "\n" in one["outcome"]
    ]
    assert not harmed and not list(tmp_path.glob("*/ran"))
