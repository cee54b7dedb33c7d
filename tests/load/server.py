"""Servers that are started for a measurement, and ended after it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nivesh_lib.errors import NiveshError
from nivesh_lib.reproducibility import NO_TELEMETRY
from tests.conftest import REPOSITORY

HOST = "127.0.0.1"
_WAIT = 120.0  # seconds for a server to start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def environment(folder: Path) -> dict[str, str]:
    """Return variables for a server without keys, which keeps corrections in a folder."""
    kept = {name: text for name, text in os.environ.items() if name != "ML_API_KEY"}
    own = {"PYTHONPATH": str(REPOSITORY), "NIVESH_FEEDBACK": str(folder / "feedback.jsonl")}
    return {**kept, **NO_TELEMETRY, **own}


@contextlib.contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str], ready: Callable[[], bytes]
) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """Run a server until the block ends; yield it, and its first answer.

    Raises
    ------
    NiveshError
        It ends or does not answer; the end of what it says is in the message.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            until = time.monotonic() + _WAIT
            while not (answer := ready()):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()
                    raise NiveshError(f"the server did not start: {said[-500:]}")
                time.sleep(0.1)
            yield process, answer
        finally:
            _stop(process)


@contextlib.contextmanager
def ours(model: str, workers: int, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run our server; yield it and its port."""
    port = free_port()
    command = [sys.executable, "-m", "nivesh_lib", "serve", "--model", model]
    command += ["--port", str(port), "--workers", str(workers)]
    with started(command, environment(folder), lambda: answer(port, "/ready")) as (process, _):
        yield process, port


def answer(port: int, path: str, body: bytes | None = None) -> bytes:
    """Return what is answered with status 200 to a GET, or to a POST of a body; else nothing."""
    asking = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        method = "GET" if body is None else "POST"
        asking.request(method, path, body, {"Content-Type": "application/json"})
        told = asking.getresponse()
        return told.read() if told.status == 200 else b""
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        asking.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
