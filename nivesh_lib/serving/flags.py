"""Feature flags: which users a feature is on for, from a file that may change at any time."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nivesh_lib import paths


class Flag(BaseModel):
    """A feature that is on for some users: those that are listed, and a share of all others."""

    model_config = ConfigDict(extra="forbid", strict=True)

    enabled: bool = False
    rollout_percentage: float = Field(default=0.0, ge=0, le=100)
    whitelist_users: list[str] = []


_FILE = TypeAdapter(dict[str, Flag])


def share_of(name: str, user_id: str) -> float:
    """Return where a user stands for a feature, from 0 to below 100, always the same."""
    digest = hashlib.sha256(f"{name}\0{user_id}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


class Flags:
    """The flags of a file, read again when it changes.

    A file that cannot be used leaves the flags as they were, and ``trouble`` says why.

    Parameters
    ----------
    path : path
        A TOML file with one table a flag; without it every flag is off.
    warn : callable, optional
        Called once with each new trouble.
    """

    def __init__(self, path: Path, warn: Callable[[str], object] = lambda trouble: None) -> None:
        self.path, self.warn, self.trouble = path, warn, ""
        self._flags: dict[str, Flag] = {}
        self._seen: tuple[int, ...] | None = None

    def is_on(self, name: str, user_id: str | None) -> bool:
        """Return whether a feature is on for a user; one who is not known only gets it at 100 %."""
        self._read()
        flag = self._flags.get(name, Flag())
        if not flag.enabled:
            return False
        if user_id is None:
            return flag.rollout_percentage == 100
        return user_id in flag.whitelist_users or share_of(name, user_id) < flag.rollout_percentage

    def _read(self) -> None:
        try:
            found = self.path.stat()
            state: tuple[int, ...] = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            state = ()
        if state == self._seen:
            return
        self._seen = state
        try:
            text = self.path.read_text(encoding="utf-8") if state else ""
            self._flags, self.trouble = _FILE.validate_python(tomllib.loads(text)), ""
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            self._keep(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        except (OSError, ValueError) as error:
            self._keep(str(error))

    def _keep(self, why: str) -> None:
        self.trouble = f"{paths.relative(self.path)}: {why}. The flags stay as they were; mend it"
        self.warn(self.trouble)


_default: dict[Path, Flags] = {}


def should_use_feature(name: str, user_id: str | None) -> bool:
    """Return whether a feature of ``deploy/feature_flags.toml`` is on for a user."""
    return _flags().is_on(name, user_id)


def trouble() -> str:
    """Return what is wrong with ``deploy/feature_flags.toml``, whose flags stay as they were."""
    flags = _flags()
    flags._read()
    return flags.trouble


def _flags() -> Flags:
    path = paths.flags_file()
    return _default.setdefault(path, Flags(path))
