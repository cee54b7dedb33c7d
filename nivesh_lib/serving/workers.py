"""Worker processes that share one socket; one that dies is replaced at once."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import FrameType

from nivesh_lib.errors import NiveshError

_STARTUP_FAILURE = 3  # uvicorn's exit code where the application did not start
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
_SHORT = 1.0  # seconds: a worker that dies sooner is replaced after as long


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises NiveshError where the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise NiveshError(
            f"{host}:{port}: {error.strerror}. Name another one with --host or --port"
        ) from None
    bound.listen(2048)
    bound.set_inheritable(True)
    return bound


def serve(bound: socket.socket, workers: int) -> int:
    """Answer on a socket until a signal ends it; return the exit code.

    The application is imported once, before the workers are forked, so that a worker is there in
    the time that its model takes to load.
    """
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # files of others would be counted
    if workers == 1:
        for number in _SIGNALS:  # uvicorn raises them again when it has come to its end
            signal.signal(number, lambda *_: sys.exit())
        return _work(bound)
    with tempfile.TemporaryDirectory(prefix="nivesh-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        import nivesh_lib.serving.app  # noqa: F401

        def work() -> int:
            Path(folder).mkdir(0o700, exist_ok=True)  # it may have been tidied away
            return _work(bound)

        return _Workers(work, workers).run()


def _work(bound: socket.socket) -> int:
    import uvicorn

    from nivesh_lib.serving.protocol import BoundedProtocol

    config = uvicorn.Config(
        "nivesh_lib.serving.app:app",
        http=BoundedProtocol,
        loop="uvloop",
        lifespan="on",
        log_level="critical",  # the application tells its own errors
        access_log=False,  # the application logs requests
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[bound])
    return 0 if server.started else _STARTUP_FAILURE


class _Workers:
    """Forked processes that do the same work."""

    def __init__(self, work: Callable[[], int], count: int) -> None:
        self.work, self.count = work, count
        self.started: dict[int, float] = {}
        self.stopping = False

    def run(self) -> int:
        """Keep so many processes at work until SIGTERM or SIGINT; return the exit code."""
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        for _ in range(self.count):
            self._start()
        failed = 0
        while self.started:
            process, status = os.wait()
            if process not in self.started:  # an orphan that was given to process 1
                continue
            lived = monotonic() - self.started.pop(process)
            if os.waitstatus_to_exitcode(status) == _STARTUP_FAILURE:
                failed = 1  # the next one would fail in the same way
                self._stop()
            if not self.stopping:
                sleep(_SHORT if lived < _SHORT else 0)
                self._start()
        return failed

    def _start(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none comes before it is known
        process = os.fork()
        if process:
            self.started[process] = monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        code = 1
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _end_with_parent()
            code = self.work()
        finally:  # nothing that the parent will tidy up is tidied here
            sys.stdout.flush()
            os._exit(code)

    def _stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        self.stopping = True
        for process in self.started:
            os.kill(process, signal.SIGTERM)


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent is gone, however it ended."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
