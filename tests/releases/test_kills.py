"""Commands that are killed at random moments, and two of them at once.

``nivesh history`` reads and mends nothing. The next command that changes releases mends what was
cut off, even where it finds nothing to change itself: here `nivesh archive`.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.releases.forks import nivesh, run, said_in, seen, start, wait, warm_up
from tests.releases.world import make_run, make_world

pytestmark = pytest.mark.slow
MEND = ("archive", "--days", "999")
TO_PRODUCTION = ("--to", "production", "--override", "to be tried")
MODELS = {"20260101-000000": 10.0, "20260102-000000": 1.0, "20260103-000000": 0.1}  # C of each
COMMANDS = {
    "release": ("release", "20260103-000000", "--why", "the third", "--yes"),
    "promote": ("promote", "1.0.1", *TO_PRODUCTION),
    "rollback": ("rollback", "--why", "it got worse"),
}


def make_home(home: Path) -> None:
    """Release two of three models, the first of which serves."""
    make_world(home)
    for name, strength in MODELS.items():
        make_run(name, C=strength)


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, Path]:
    """A home for each command, in the state before it."""
    warm_up()
    folder = tmp_path_factory.mktemp("homes")
    home = folder / "promote"
    home.mkdir()
    run(home, make_home, home)
    for name in list(MODELS)[:2]:
        run(home, nivesh, "release", name, "--why", "to be tried", "--yes")
    shutil.copytree(home, folder / "two", symlinks=True)
    run(home, nivesh, "promote", "1.0.0", *TO_PRODUCTION)
    for name in ("release", "rollback"):
        shutil.copytree(home, folder / name, symlinks=True)
    run(folder / "rollback", nivesh, *COMMANDS["promote"])
    return {name: folder / name for name in ("two", *COMMANDS)}


@dataclass(frozen=True)
class Moments:
    """Seconds from the start of a command to its marker, from there to its line, to its end."""

    marked: float
    logged: float
    ended: float


def marker(home: Path) -> Path:
    return home / "reports" / "releases" / "intent_classifier" / ".changing"


def lines(home: Path) -> int:
    return (home / "data" / "release_log.jsonl").stat().st_size


def ended(pid: int) -> bool:
    """Return whether a child has ended, without taking its exit code."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def until(moment: float, pid: int, happened: Callable[[], object] = lambda: False) -> None:
    """Wait for a moment, the end of a process, or what is to happen."""
    while time.monotonic() < moment and not ended(pid) and not happened():
        time.sleep(0.0005)


def changed(home: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return what tells that a change has begun, and that its line is in the log."""
    before = lines(home)
    return marker(home).exists, lambda: lines(home) > before


def undisturbed(home: Path, command: tuple[str, ...]) -> Moments:
    times, events = [time.monotonic()], changed(home)
    pid = start(home, nivesh, *command)
    for event in events:
        until(time.monotonic() + 300, pid, event)
        times.append(time.monotonic())
    assert wait(pid) == 0, said_in(home).read_text(encoding="utf-8")[-3000:]
    times.append(time.monotonic())
    return Moments(*(later - earlier for earlier, later in itertools.pairwise(times)))


def killed(home: Path, command: tuple[str, ...], moments: Moments, rng: random.Random) -> bool:
    """Kill a command, mostly after its change began; return False where it had ended by then."""
    begun, logged = changed(home)
    pid = start(home, nivesh, *command)
    event, seconds = rng.choices(
        [(lambda: True, moments.marked), (begun, moments.logged), (logged, moments.ended)],
        weights=[1, 5, 4],
    )[0]
    until(time.monotonic() + 300, pid, event)
    until(time.monotonic() + rng.uniform(0, seconds), pid)
    os.kill(pid, signal.SIGKILL)  # a process that has ended waits for its parent to look
    return wait(pid) == -signal.SIGKILL


def kill(template: Path, folder: Path, count: int, seed: int) -> Counter[str]:
    """Kill a command so many times, each in a fresh home; return how often what was found."""
    command, rng, found = COMMANDS[template.name], random.Random(seed), Counter[str]()
    home = shutil.copytree(template, folder / "undisturbed", symlinks=True)
    before = seen(home)
    moments = undisturbed(home, command)
    after = seen(home)
    assert before != after
    tries = 0
    while found["kills"] < count and (tries := tries + 1) < 5 * count:
        home = shutil.copytree(template, folder / f"home{tries}", symlinks=True)
        if killed(home, command, moments, rng):
            found.update(["kills", *(["cut off"] if marker(home).exists() else [])])
            run(home, nivesh, "history")
            run(home, nivesh, *MEND)
            now = seen(home)
            nearer = after if now["log"] == after["log"] else before
            assert now == nearer, f"kill {found['kills']} of {command}, seed {seed}"
            found.update(["before" if now == before else "after"])
            if now == before and found["before"] % 8 == 1:
                again = ("--reason", "it was cut off") if template.name == "release" else ()
                run(home, nivesh, *command, *again)
                assert seen(home) == after
                found.update(["again"])
        shutil.rmtree(home)
    assert found["kills"] == count
    return found


@pytest.mark.parametrize(("name", "count"), [("release", 34), ("promote", 33), ("rollback", 33)])
def test_a_hundred_kills_leave_the_state_before_or_the_state_after(name, count, homes, tmp_path):
    found = kill(homes[name], tmp_path, count, seed=random.randrange(2**31))
    sys.stdout.write(f"{name}: {dict(found)}\n")
    # Otherwise the moments would miss what they are meant to hit.
    assert found["cut off"] > count / 4 and found["before"] and found["after"], found


@pytest.mark.parametrize("versions", [("1.0.0", "1.0.1"), ("1.0.0", "1.0.0")])
def test_two_promotions_at_once_give_one_order(versions, homes, tmp_path):
    home = shutil.copytree(homes["two"], tmp_path / "home", symlinks=True)
    pids = [start(home, nivesh, "promote", version, *TO_PRODUCTION) for version in versions]
    codes = sorted(wait(pid) for pid in pids)
    now = seen(home)  # which reads a sound chain of lines
    order = [version for kind, version, *_ in now["log"] if kind == "promotion"]
    assert sorted(order) == sorted(set(versions)) and now["aliases"]["production"] == order[-1]
    assert codes == ([0, 0] if len(set(versions)) == 2 else [0, 1])
    refused = "is in production already" in said_in(home).read_text(encoding="utf-8")
    assert refused == (codes == [0, 1]) and "Traceback" not in said_in(home).read_text()
    assert (now["notices"], now["open"]) == ([], 0)
