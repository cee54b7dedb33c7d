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
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.torture import table, warm
from tests.torture.table import KINDS, Row

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


def torture(kind: str, folder: Path, options: argparse.Namespace) -> Row:
    """Try everything of one kind in homes below a folder."""
    from tests.torture import disks, kills

    short, jobs = options.short, options.jobs
    if kind == "tiny":
        count = options.kills or (10 if short else 1_000)
        return kills.kill_tiny(folder, count, options.seed, jobs + 1, 2 if short else 32)
    if kind == "smoke":
        only = ("02_baseline",) if short else ()
        return kills.kill_smoke(folder, 3 if short else 30, options.seed, 1 if short else 15, only)
    if kind == "disks":
        return disks.fill(folder, 4 if short else 1)
    if kind == "races":
        return disks.race(folder, 1 if short else 10)
    warm.warm_up_models(folder / "modules.txt")
    from tests.torture import directories, files

    several = {
        "directories": (directories.try_directories, 10),
        "files": (files.try_files, 8),
        "ledgers": (files.try_ledgers, 5),
    }
    function, every = several[kind]
    return function(folder, jobs, every if short else 1)


def main() -> int:
    """Run the kinds, print the table, and return the exit code."""
    options, rows, began = arguments(), [], time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    sys.stdout.write(f"seed {options.seed}; homes in {folder}\n")
    sys.stdout.flush()
    warm.warm_up()
    try:
        for kind in KINDS:
            if kind in (options.only or KINDS):
                row = torture(kind, folder, options)
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
