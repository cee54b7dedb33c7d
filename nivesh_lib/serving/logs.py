"""The server's log: one JSON object a line on standard output."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable
from functools import partial
from socket import AF_UNIX, MSG_DONTWAIT, SOCK_STREAM, socket
from typing import Any

import structlog
from pydantic_core import to_json

from nivesh_lib.serving import metrics


def logger() -> Callable[..., None]:
    """Return a function that logs an event with its fields."""
    made = structlog.wrap_logger(
        structlog.BytesLogger(_output()),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_serialised),
        ],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=True,
    )

    def log(event: str, **fields: Any) -> None:
        try:
            made.info(event, **fields)
        except OSError:  # a full disk, or a reader that is gone or slow, fails no request
            metrics.unwritten.inc()

    return log


class _Unstalled:
    """A pipe or a socket that refuses a line at once where its reader has left no room.

    Lines within PIPE_BUF are written whole or not at all; a longer one is refused, too.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write

    def write(self, line: bytes) -> None:
        """Write a line. Raises OSError where it cannot be written now."""
        if len(line) > select.PIPE_BUF:
            raise BlockingIOError("the line is too long to be written at once")
        self._write(line)

    def flush(self) -> None:
        """Do nothing: no line waits here."""


def _output() -> Any:
    """Return standard output, as `_Unstalled` where it is a pipe or a socket."""
    try:
        number = sys.stdout.fileno()
        mode = os.fstat(number).st_mode
        if stat.S_ISFIFO(mode):  # opened anew: others may write to the same one and expect to wait
            own = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
            return _Unstalled(partial(os.write, own))
        if stat.S_ISSOCK(mode):
            return _Unstalled(partial(_send, number))
    except OSError:  # no file, or a pipe of another user
        pass
    return sys.stdout.buffer


def _send(number: int, line: bytes) -> int:
    """Send a line to a socket that others may write to and expect to wait."""
    borrowed = socket(AF_UNIX, SOCK_STREAM, fileno=number)  # of any kind: nothing is looked up
    try:
        return borrowed.send(line, MSG_DONTWAIT)
    finally:
        borrowed.detach()


def _serialised(fields: dict[str, Any], **_: Any) -> bytes:
    return to_json(fields)
