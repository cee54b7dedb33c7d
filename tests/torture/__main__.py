"""Torture: kills, hostile files and full disks, counted in one table. ``make torture``.

Exit code 1 where any count is not 0.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.torture import table, warm
from tests.torture.table import Row

PAGE = REPOSITORY / "docs" / "reliability.md"


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a trial of all kinds, small counts")
    parser.add_argument("--only", action="append", choices=KINDS, help="kinds; by default all")
    parser.add_argument("--kills", type=int, help="of tiny pipelines, 1,000 by default")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of the moments")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and failures there")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--keep", action="store_true", help="keep the homes that were tormented")
    return parser.parse_args()


def _tiny(folder: Path, options: argparse.Namespace) -> Row:
    from tests.torture.kills import kill_tiny

    kills = options.kills or (10 if options.short else 1_000)
    return kill_tiny(folder, kills, options.seed, options.jobs + 1, 2 if options.short else 32)


def _smoke(folder: Path, options: argparse.Namespace) -> Row:
    from tests.torture.kills import kill_smoke

    return kill_smoke(folder, 2 if options.short else 30, options.seed, 1 if options.short else 15)


def _directories(folder: Path, options: argparse.Namespace) -> Row:
    warm.warm_up_models(folder / "modules.txt")
    from tests.torture.directories import try_directories

    return try_directories(folder, options.jobs, 10 if options.short else 1)


def _files(folder: Path, options: argparse.Namespace) -> Row:
    from tests.torture.files import try_files

    return try_files(folder, options.jobs, 8 if options.short else 1)


def _ledgers(folder: Path, options: argparse.Namespace) -> Row:
    from tests.torture.files import try_ledgers

    return try_ledgers(folder, options.jobs, 5 if options.short else 1)


def _disks(folder: Path, options: argparse.Namespace) -> Row:
    from tests.torture.disks import fill

    return fill(folder, 4 if options.short else 1)


def _races(folder: Path, options: argparse.Namespace) -> Row:
    from tests.torture.disks import race

    return race(folder, 1 if options.short else 10)


KINDS: dict[str, Callable[[Path, argparse.Namespace], Row]] = {
    "tiny": _tiny,
    "smoke": _smoke,
    "directories": _directories,
    "files": _files,
    "ledgers": _ledgers,
    "disks": _disks,
    "races": _races,
}


def main() -> int:
    """Run the kinds, print the table, and return the exit code."""
    options, rows, began = arguments(), [], time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    sys.stdout.write(f"seed {options.seed}; homes in {folder}\n")
    sys.stdout.flush()
    warm.warm_up()
    try:
        for kind, torture in KINDS.items():
            if kind in (options.only or KINDS):
                row = torture(folder, options)
                rows.append(row)
                sys.stdout.write("\n".join([f"{kind}: {row.tried} tried", *row.failures]) + "\n")
                sys.stdout.flush()
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    minutes = (time.monotonic() - began) / 60
    text = table.markdown(rows, minutes)
    sys.stdout.write(f"\n{text}")
    if options.json:
        table.write_json(options.json, rows, minutes)
    if options.write:
        table.put_into(PAGE, text)
    return 0 if all(row.sound for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
