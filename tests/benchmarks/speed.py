"""The speed figures that the project promises itself: ``make bench``. Prints, never fails.

Whole processes, run in turn; medians with the range, since machines are noisy.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NIVESH = [sys.executable, "-m", "nivesh_lib"]


def seconds(command: list[str], home: Path) -> float:
    started = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(home),
    )
    return time.perf_counter() - started


def environment(home: Path) -> dict[str, str]:
    import os

    return {**os.environ, "NIVESH_HOME": str(home), "MLFLOW_TRACKING_URI": ""}


def told(name: str, values: list[float], goal: float) -> None:
    median = statistics.median(values)
    verdict = "met" if median <= goal else "MISSED"
    sys.stdout.write(
        f"{name:<44} median {median:7.3f} s  ({min(values):.3f} to {max(values):.3f}, "
        f"n={len(values)})  goal {goal:g} s: {verdict}\n"
    )
    sys.stdout.flush()


def repeated(measure: Callable[[], float], n: int) -> list[float]:
    measure()  # not counted: fills the file cache
    return [measure() for _ in range(n)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("notebooks", "data"):
            shutil.copytree(REPOSITORY / name, home / name)
        shutil.copy(REPOSITORY / "requirements.lock", home)
        idle = repeated(lambda: seconds([sys.executable, "-c", "pass"], home), 10)
        library = repeated(lambda: seconds([sys.executable, "-c", "import nivesh_lib"], home), 10)
        start = statistics.median(idle)
        told("import nivesh_lib, beyond starting Python", [t - start for t in library], 0.05)
        told("nivesh --help", repeated(lambda: seconds([*NIVESH, "--help"], home), 10), 0.4)
        told("nivesh run, from nothing to the report", [seconds([*NIVESH, "run"], home)], 180)
        told("nivesh run, nothing changed", repeated(lambda: seconds([*NIVESH, "run"], home), 5), 3)


if __name__ == "__main__":
    main()
