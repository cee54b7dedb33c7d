"""Pipelines that are killed at random moments, checked, started again, and killed again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture import homes, processes
from tests.torture.table import KINDS, Row

WITHOUT_STORE = 0.05  # the share of homes whose MLflow store is yet to be made
AFTER_A_KILL = 30.0  # seconds within which orphans end by themselves


@dataclass
class Victim:
    """One home whose pipeline is killed until enough kills are counted.

    ``share`` is the part of the measured duration in which a kill falls: all of it for a pipeline
    of seconds, less for one that would otherwise end before most kills.
    """

    command: list[str]
    home: Path
    template: Path
    random: random.Random
    row: Row
    share: float = 1.0
    patience: float = 120.0
    expected: dict[str, Any] = field(default_factory=dict)

    def renew(self) -> None:
        """Make the home one in which nothing was run."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.template, self.home, symlinks=True)
        if self.random.random() < WITHOUT_STORE and self.row.undisturbed:
            shutil.rmtree(self.home / "mlruns")

    def undisturbed(self) -> None:
        """Run the pipeline once without a kill: what it takes, and what it has to come to."""
        self.renew()
        self.end_well(first=True)

    def check(self, moment: str) -> dict[str, Any]:
        """Count what does not hold in the home; return what the check found."""
        module, arguments = "tests.torture.invariants", [str(self.home), moment]
        outcome = processes.run(module, arguments, self.home)
        found = json.loads(outcome.output.splitlines()[-1]) if outcome.code == 0 else {}
        where = f"{self.row.tried} kills, {moment}: "
        for what in ("unreadable", "open", "wrong"):
            self.row.count(what, *(where + text for text in found.get(what, [])))
        if not found:
            self.row.count("wrong", f"{where}the check failed: {outcome.output[-300:]}")
        return found

    def end_well(self, *, first: bool = False) -> None:
        """Run the pipeline to its end, with the kills before behind it, and check everything."""
        arguments = self.command
        outcome = processes.run("nivesh_lib", arguments, self.home, patience=self.patience)
        self.judge_end(outcome, first=first)

    def judge_end(self, outcome: processes.Outcome, *, first: bool = False) -> None:
        """Check a pipeline that went to its end, and compare its result with the undisturbed."""
        found = self.check("ended").get("fingerprint", {})
        if first:
            self.row.undisturbed, self.expected = outcome.seconds, found
        self.row.measure(outcome.seconds, outcome.memory)
        if outcome.hung:
            self.row.count("hangs", f"{self.row.tried} kills: the next run did not end")
        elif outcome.code:
            self.row.count("wrong", f"the next run: {outcome.code}: {outcome.output[-300:]}")
        elif found != self.expected:
            names = {n for n in found | self.expected if found.get(n) != self.expected.get(n)}
            self.row.count("wrong", f"another result than undisturbed: {sorted(names)}")
        self.row.resumed += not first

    def attempt(self) -> None:
        """Start the pipeline and kill it at a random moment, if it has not ended by then."""
        log = self.home.with_name(f"{self.home.name}.log")
        moment = time.monotonic() + self.random.uniform(0, self.row.undisturbed * self.share)
        began = time.monotonic()
        process = processes.start("nivesh_lib", self.command, self.home, log)
        while process.poll() is None and time.monotonic() < moment:
            time.sleep(0.002)
        if process.poll() is not None:
            seconds, said = time.monotonic() - began, log.read_text(errors="replace")
            self.judge_end(processes.Outcome(process.returncode, said, seconds, 0, False))
            self.renew()
            return
        self.kill(process)
        self.row.tried += 1
        self.check("killed")
        if not (self.home / "mlruns" / "mlflow.db").exists():  # else most kills would fall there
            self.end_well()
            self.renew()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the group of the pipeline, or at random everything at once as a power cut does."""
        os.killpg(process.pid, signal.SIGSTOP)
        everything = self.random.random() < 0.5
        for pid in processes.of_home(self.home) if everything else ():
            processes.end(pid, signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + AFTER_A_KILL
        while left := processes.of_home(self.home):
            time.sleep(0.02)
            if everything or time.monotonic() > deadline:
                for pid in left:
                    processes.end(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                self.row.count("hangs", f"{sorted(left.values())} outlived their pipeline")
                deadline += AFTER_A_KILL


def torment(victim: Victim, kills: int, minutes: float) -> Row:
    """Kill a pipeline ``kills`` times, or for some minutes, then let it end."""
    victim.undisturbed()
    victim.renew()
    deadline = time.monotonic() + minutes * 60
    while victim.row.tried < kills and time.monotonic() < deadline and victim.row.hangs < 5:
        victim.attempt()
    victim.end_well()
    return victim.row


def kill_tiny(folder: Path, kills: int, seed: int, workers: int, minutes: float) -> Row:
    """Kill pipelines of tiny notebooks, several side by side, each in a home of its own."""
    processes.apart(homes.build, "tiny", folder / "tiny")
    shares = [kills // workers + (number < kills % workers) for number in range(workers)]
    jobs = [(folder, number, share, seed, minutes) for number, share in enumerate(shares)]
    row = processes.side_by_side(_kill_one, jobs, workers, KINDS["tiny"])
    fitted = "" if row.tried >= kills else f"; {kills:,} did not fit into {minutes:.0f} minutes"
    row.note = (
        f"{workers} pipelines side by side, {row.undisturbed:.1f} s undisturbed; {row.resumed:,} "
        f"times the next run went to its end and came to the undisturbed result{fitted}."
    )
    return row


def _kill_one(job: tuple[Path, int, int, int, float]) -> Row:
    folder, number, kills, seed, minutes = job
    home, chance = folder / f"tiny{number}", random.Random(f"{seed} {number}")
    victim = Victim(homes.command("tiny", home), home, folder / "tiny", chance, Row(""))
    return torment(victim, kills, minutes)


def kill_smoke(
    folder: Path, kills: int, seed: int, minutes: float, only: Sequence[str] = ()
) -> Row:
    """Kill the pipeline of the shipped notebooks, or of some, in the profile smoke."""
    processes.apart(homes.build, "smoke", folder / "smoke")
    row, chance = Row(KINDS["smoke"]), random.Random(f"{seed} smoke")
    home, template = folder / "smoke0", folder / "smoke"
    command = homes.command("smoke", home, only)
    victim = Victim(command, home, template, chance, row, 0.25, 1200)
    torment(victim, kills, minutes)
    row.note = (
        f"{row.undisturbed:.0f} s undisturbed, a kill in the first quarter of that after each "
        f"start; {row.resumed} times a run went to its end and came to the undisturbed result."
    )
    return row
