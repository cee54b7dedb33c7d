"""The package of a release: its model directory, ``release.json``, answers by row, and card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import DataError, ModelError, ReleaseError
from nivesh_lib.files import sha256_file
from nivesh_lib.models.directory import model_hash, read_card
from nivesh_lib.records.base import read_record, write_json
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.release import AnsweredRow, Release

_CHANGING = ".changing"
_RECORDS = ("release.json", "rows.json", "findings.json")


@dataclass(frozen=True)
class Package:
    """The folder of one release; it may not be on this machine."""

    folder: Path

    @classmethod
    def of(cls, name: str, version: str) -> Package:
        """Return the package of a version."""
        return cls(paths.releases_dir() / name / version)

    @property
    def model(self) -> Path:
        """The model directory."""
        return self.folder / "model"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / "README.md"

    def write(
        self, release: Release, answers: Sequence[AnsweredRow], findings: Mapping[str, Finding]
    ) -> None:
        """Write the records beside the model, with the findings that the card shows."""
        write_json(self.folder / "release.json", release)
        write_json(self.folder / "rows.json", {"rows": [row.as_dict() for row in answers]})
        write_json(self.folder / "findings.json", {k: f.as_dict() for k, f in findings.items()})

    def release(self) -> Release:
        """Return the record. Raises ReleaseError where it is missing or damaged."""
        try:
            return read_record(self.folder / "release.json", Release, "the record of a release")
        except DataError as error:
            raise ReleaseError(self._lost(str(error).partition(" `nivesh run")[0])) from None

    def answers(self) -> list[AnsweredRow]:
        """Return the answers by row; none where the file is missing or damaged."""
        try:
            rows = json.loads((self.folder / "rows.json").read_text(encoding="utf-8"))["rows"]
            return [AnsweredRow.model_validate(row) for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def findings(self) -> dict[str, Finding]:
        """Return the findings of the run by name; none where the file is missing or damaged."""
        try:
            found = json.loads((self.folder / "findings.json").read_text(encoding="utf-8"))
            return {name: Finding.model_validate(value) for name, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def records_hash(self) -> str:
        """Return the SHA-256 of the records beside the model, which gates are judged on.

        Raises
        ------
        ReleaseError
            One is missing.
        """
        try:
            hashes = [f"{name} {sha256_file(self.folder / name)}\n" for name in _RECORDS]
        except OSError as error:
            raise ReleaseError(self._lost(f"{error.filename}: {error.strerror}")) from None
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def verify(self, entry: Mapping[str, Any]) -> Release:
        """Return the record after comparing every file but the card with what was released.

        Parameters
        ----------
        entry
            That of the release in the log.

        Raises
        ------
        ReleaseError
            The package is not on this machine, was altered since, or is not signed as configured.
        """
        from nivesh_lib.releases.signing import verify

        try:
            model = model_hash(read_card(self.model))
        except ModelError as error:
            raise ReleaseError(self._lost(f"it was altered: {error}")) from None
        digest, records = entry["digest"], self.records_hash()
        found = {"model": (model, digest), "records": (records, entry.get("records", records))}
        for what, (now, then) in found.items():
            if now != then:
                why = f"{what} altered: {now[:12]} where {then[:12]} was released"
                raise ReleaseError(self._lost(why))
        release = self.release()
        if release.digest != digest:
            raise ReleaseError(self._lost("its record is of another model"))
        verify(self.folder)
        return release

    def _lost(self, why: str) -> str:
        where = paths.relative(self.folder)
        if not self.folder.is_dir():
            return f"{where}: the package is not on this machine. Copy it from where it was made"
        return f"{where}: {why}. Put the released files back from a copy, or release again"


def changing_marker(name: str) -> Path:
    """Return the file that is there while a change of releases is under way."""
    return paths.releases_dir() / name / _CHANGING


def algorithm_of(model: Path) -> str:
    """Return the kinds of the models in a model directory, outermost first, with backbones."""
    names = []
    for path in sorted(model.rglob("model.json"), key=lambda one: (len(one.parts), one)):
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        backbone = card.get("params", {}).get("backbone")
        if card["kind"] != "calibrated":
            names.append(f"{card['kind']} {backbone}" if backbone else str(card["kind"]))
    return " + ".join(dict.fromkeys(names))


def lock_hash() -> str:
    """Return the SHA-256 of requirements.lock; empty where there is none."""
    lock = paths.home() / "requirements.lock"
    return sha256_file(lock) if lock.is_file() else ""
