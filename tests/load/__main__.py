"""Start a server, run `locustfile` against it, and end as it ends: ``make load``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nivesh_lib.errors import NiveshError
from tests.load.server import HOST, ours


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make load ARGS=…", description=__doc__)
    add = parser.add_argument
    add("--model", default="", help="what `nivesh serve --model` takes (default: as there)")
    add("--workers", type=int, default=1, help="processes of the server (default 1)")
    # One asks for a prediction every 2.7 s: 300 ask for 112 a second.
    add("--users", type=int, default=300, help="people who ask at once (default 300)")
    add("--seconds", type=int, default=60, help="after all of them have come (default 60)")
    args = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="load-") as folder,
        ours(args.model, args.workers, Path(folder)) as (_, port),
    ):
        command = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(Path(__file__).parent / "locustfile.py"),
        ]
        command += ["--host", f"http://{HOST}:{port}", "--headless", "--only-summary"]
        command += ["--users", str(args.users), "--spawn-rate", "100", "--reset-stats"]
        command += ["--run-time", f"{args.seconds + args.users // 100}s"]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NiveshError as error:
        sys.exit(str(error))
