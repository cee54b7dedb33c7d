"""The rows of `make bench-peers`: folds, draws of k a class, and the test file with its ledger."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nivesh_lib.data.importing import drop_duplicates, read_rows
from nivesh_lib.data.publishing import publish
from nivesh_lib.data.reading import read_table
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.scores import headline_mask

if TYPE_CHECKING:
    import pandas as pd

INTENTS = "intents@1.1.0"
# The columns of the public files.
TEXT, LABEL = "text", "category"


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels."""

    texts: list[str]
    labels: list[str]

    def part(self, rows: Sequence[int]) -> Labelled:
        """Return the rows with these numbers."""
        return Labelled([self.texts[n] for n in rows], [self.labels[n] for n in rows])


@dataclass(frozen=True, eq=False)
class Source:
    """The training side of a dataset version, in folds."""

    name: str
    ref: str
    train: pd.DataFrame

    @property
    def n_folds(self) -> int:
        """Return the number of folds of the version."""
        return int(self.train["fold"].nunique())

    def all(self) -> Labelled:
        """Return every training row."""
        return _labelled(self.train)

    def split(self, fold: int) -> tuple[Labelled, Labelled]:
        """Return the rows outside a fold, and the fold's natural rows, which are judged on."""
        held = (self.train["fold"] == fold).to_numpy()
        return _labelled(self.train[~held]), _labelled(self.train[held & headline_mask(self.train)])


def _labelled(frame: pd.DataFrame) -> Labelled:
    return Labelled(frame["query"].tolist(), frame["intent"].tolist())


def intents() -> Source:
    """Return the assistant's own dataset."""
    return Source("intents", INTENTS, load_dataset(INTENTS).train)


def banking77(folder: Path, home: Path) -> Source:
    """Publish ``train.csv`` of a folder below ``home``, as `nivesh data add` would, and load it.

    No row is held out: the dataset has a test file of its own, which is not read here.
    """
    rows = read_rows(folder / "train.csv", TEXT, LABEL, keep_duplicates=True)
    rows, _ = drop_duplicates(rows)
    with _home(home), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        home.joinpath("data").mkdir(parents=True, exist_ok=True)
        version = publish(
            rows, "banking77", "1.0.0", description="public", holdout_rows=rows.iloc[:0]
        )
        return Source("banking77", version.ref, load_dataset(version.ref).train)


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    before = os.environ.get("NIVESH_HOME")
    os.environ["NIVESH_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["NIVESH_HOME"]
        else:
            os.environ["NIVESH_HOME"] = before


def public_folder(given: str | None, files: Sequence[str] = ("train.csv",)) -> Path | str:
    """Return the folder of banking77, or one line that says why it is left out."""
    root = given or os.environ.get("NIVESH_BENCHMARKS")
    if not root:
        return "banking77 is left out: name its parent with --benchmarks DIR or NIVESH_BENCHMARKS."
    folder = Path(root).expanduser() / "banking77"
    absent = [folder / name for name in files if not (folder / name).is_file()]
    if absent:
        return f"banking77 is left out: {absent[0]} does not exist; check --benchmarks DIR."
    return folder


def draw_shots(labels: Sequence[str], k: int, seed: int) -> list[int]:
    """Return the numbers of ``k`` rows of each class, drawn with ``seed``, in file order."""
    rng = np.random.default_rng(seed)
    column = np.asarray(labels, dtype=object)
    drawn: list[int] = []
    for label in sorted(set(labels)):
        members = np.flatnonzero(column == label)
        if len(members) < k:
            raise DataError(f"--shots {k}: label {label!r} has {len(members)} rows; choose fewer.")
        drawn += rng.choice(members, size=k, replace=False).tolist()
    return sorted(drawn)


def sample(rows: Labelled, n: int | None, seed: int = 42) -> Labelled:
    """Return ``n`` rows chosen once and for all, or all of them."""
    if n is None or n >= len(rows.texts):
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows.texts), size=n, replace=False)
    return rows.part(sorted(chosen.tolist()))


# --- the test file -----------------------------------------------------------------------------


def open_test(path: Path, ledger: Path, entry: Mapping[str, Any]) -> Labelled:
    """Return the rows of a test file, after the opening is in the ledger and on disk."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    _append_line(ledger, json.dumps({"date": now, **entry, "sha256": sha256_of(path)}))
    rows = read_table(path).rows
    return Labelled([row[TEXT] for row in rows], [row[LABEL].strip() for row in rows])


def _append_line(path: Path, line: str) -> None:
    """Append one line, under a lock, and return when it is on disk."""
    try:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from error


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def openings(ledger: Path, recipe: str, sha256: str) -> tuple[int, int]:
    """Return how often a file was opened by a recipe, whatever its parameters, and by all."""
    lines = ledger.read_text("utf-8").splitlines() if ledger.exists() else []
    of_file = [entry for entry in map(json.loads, lines) if entry["sha256"] == sha256]
    return sum(entry["recipe"] == recipe for entry in of_file), len(of_file)
