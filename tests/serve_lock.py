"""requirements-serve.lock: what of requirements.lock a server needs; `make serve-lock`."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

from tests.conftest import REPOSITORY

LOCK = REPOSITORY / "requirements-serve.lock"
HEADER = """\
# Exact pins of what serves a model, without the extras: those of requirements.lock that the
# dependencies in pyproject.toml need. Written by `make serve-lock`.
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Return the pins of requirements.lock, name -> version."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normal(name): version for name, version in pairs}


def core() -> list[str]:
    """Return the requirements of the package without extras."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]


def closure(requirements: list[str]) -> set[str]:
    """Return the names of the distributions that these requirements install here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = normal(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not needed or name in found:
            continue
        found.add(name)
        waiting += [(Requirement(t), "") for t in importlib.metadata.requires(name) or []]
    return found


def serve_lock() -> str:
    """Return what requirements-serve.lock has to hold."""
    pins = locked()
    return HEADER + "".join(f"{name}=={pins[name]}\n" for name in sorted(closure(core())))


if __name__ == "__main__":
    LOCK.write_text(serve_lock())
