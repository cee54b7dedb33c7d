"""The server's log: one JSON object a line on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import structlog
from pydantic_core import to_json

from nivesh_lib.serving import metrics


def logger() -> Callable[..., None]:
    """Return a function that logs an event with its fields."""
    made = structlog.wrap_logger(
        structlog.BytesLogger(sys.stdout.buffer),
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
        except OSError:  # a full disk or a closed pipe fails no request
            metrics.unwritten.inc()

    return log


def _serialised(fields: dict[str, Any], **_: Any) -> bytes:
    return to_json(fields)
