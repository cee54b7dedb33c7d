"""What a server is told: its model, keys, limits and files, from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from nivesh_lib import paths

# The registered model; one process serves one.
NAME = os.environ.get("NIVESH_SERVE_NAME") or "intent_classifier"
MAX_CHARACTERS = 500  # of a query
MAX_BATCH = 1_000  # queries of one request
MAX_BODY = 4 * 2**20  # bytes: a full batch of any script, a third of it escaped
CACHED = 1_000  # answers
CACHED_SECONDS = 3_600
_SWITCH = {"on": True, "off": False}


@dataclass(frozen=True)
class Settings:
    """Settings of one server.

    Attributes
    ----------
    model : str
        What `model_source.model_at` takes; empty for the release in production, else staging,
        else the last run's best small model.
    keys : tuple of str
        Any of them opens the server; several while one takes the place of another. Without any,
        only clients on the same machine are answered.
    cache : bool
        Keep answers for an hour.
    log_queries : bool
        Log queries too, anonymised.
    max_wait : float
        Seconds that a request may expect to wait for its turn; beyond, it is refused.
    feedback : path
        The file that corrections are appended to.
    drift_every : float
        Seconds between two tests for drift.
    """

    model: str = ""
    keys: tuple[str, ...] = ()
    cache: bool = True
    log_queries: bool = False
    max_wait: float = 0.05
    feedback: Path = field(default_factory=paths.feedback_file)
    drift_every: float = 60.0

    @classmethod
    def read(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Return the settings that environment variables give.

        Raises
        ------
        ValueError
            A variable has a value that it cannot have; the message names it.
        """
        keys = [key.strip() for key in variables.get("ML_API_KEY", "").split(",")]
        place = variables.get("NIVESH_FEEDBACK")
        return cls(
            model=variables.get("NIVESH_SERVE_MODEL", ""),
            keys=tuple(key for key in keys if key),
            cache=_switch(variables, "NIVESH_CACHE", "on"),
            log_queries=_switch(variables, "NIVESH_LOG_QUERIES", "off"),
            max_wait=_whole(variables, "NIVESH_MAX_WAIT_MS", "50", "milliseconds", 60_000) / 1_000,
            feedback=Path(place).expanduser() if place else paths.feedback_file(),
            drift_every=_whole(variables, "NIVESH_DRIFT_EVERY_S", "60", "seconds", 86_400),
        )


def _whole(variables: Mapping[str, str], name: str, default: str, unit: str, most: int) -> int:
    value = variables.get(name, default)
    if not value.isdecimal() or not 1 <= int(value) <= most:
        raise ValueError(f"{name} is {value!r}, not whole {unit} from 1 to {most}")
    return int(value)


def _switch(variables: Mapping[str, str], name: str, default: str) -> bool:
    value = variables.get(name, default).lower()
    if value not in _SWITCH:
        raise ValueError(f"{name} is {value!r}, neither on nor off")
    return _SWITCH[value]
