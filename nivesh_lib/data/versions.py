"""Dataset versions: folders that are written once, verified on every load, never edited.

``data/<name>/v<version>/`` holds all rows in ``<name>.json``, and in ``manifest.json`` where they
come from, the side of the split and the fold of each. ``load_dataset`` returns the training
side; ``holdout.py`` returns the other one.

The column of labels of a dataset of the task ``out_of_scope`` is called ``kind`` on disk and in
``Dataset.train``. ``publishing.publish`` and ``_read_sides`` rename it: everywhere else in this
package the column is ``intent``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nivesh_lib.data.remote import read_bytes
from nivesh_lib.data.schema import OPTIONAL
from nivesh_lib.errors import ChecksumError, DataError
from nivesh_lib.files import locked, read_file, restore_folders
from nivesh_lib.paths import data_dir, home
from nivesh_lib.privacy import anonymize_query

if TYPE_CHECKING:
    import pandas as pd

Manifest = dict[str, Any]

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
VERSION = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")


# --- names -------------------------------------------------------------------------------------


def parse_ref(ref: str) -> tuple[str, str | None]:
    """Split ``"intents@1.2.0"``; the version is None where it is not given.

    Anything but a plain name and three numbers is refused, so no reference leaves ``data/``.
    """
    name, at, version = str(ref).partition("@")
    version = version.removeprefix("v")
    if not NAME.fullmatch(name):
        raise DataError(
            f"{ref!r} is no dataset: a name has small letters, digits, - and _; try intents@1.0.0."
        )
    if at and not VERSION.fullmatch(version):
        raise DataError(f"{ref!r} has no version of the form 1.0.0; `nivesh data list` shows them.")
    return name, version if at else None


def full_ref(name: str, version: str) -> str:
    """Return ``name@version`` for a version that may be given with its name or without."""
    return version if "@" in version else f"{name}@{version}"


def version_key(version: str) -> tuple[int, ...]:
    """Return the sort key of a version: ``1.10.0`` comes after ``1.9.0``."""
    return tuple(int(part) for part in version.split("."))


def next_patch(version: str) -> str:
    """Return the version with the next PATCH number."""
    stem, _, patch = version.rpartition(".")
    return f"{stem}.{int(patch) + 1}"


def is_draft(version: str) -> bool:
    """Return whether a version may be replaced."""
    return version.startswith("0.")


def versions_of(name: str) -> list[str]:
    """Return the published versions of a dataset, oldest first."""
    folder = data_dir() / name
    if any(folder.glob(".v*.old")):
        _restore(folder)
    folders = folder.glob("v*/manifest.json")
    versions = (folder.parent.name.removeprefix("v") for folder in folders)
    return sorted((version for version in versions if VERSION.fullmatch(version)), key=version_key)


def _restore(folder: Path) -> None:
    """Bring back the draft that a killed process was replacing, unless one is publishing now."""
    with contextlib.suppress(OSError), locked(data_dir(), wait=False):
        restore_folders(folder)


# --- reading -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataVersion:
    """A published version: its folder and its verified manifest."""

    name: str
    version: str
    folder: Path
    manifest: Manifest

    @property
    def ref(self) -> str:
        """Return ``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels in id order."""
        return tuple(self.manifest["labels"])

    @property
    def sha256(self) -> str:
        """Return the checksum of the data file."""
        return str(self.manifest["sha256"])

    @property
    def parent(self) -> str | None:
        """Return the version that this one extends."""
        return self.manifest["parent"]

    @property
    def parent_ref(self) -> str | None:
        """Return ``name@version`` of the version that this one extends."""
        return None if self.parent is None else full_ref(self.name, self.parent)

    @property
    def rows(self) -> int:
        """Return the number of rows on both sides of the split."""
        return int(self.manifest["rows"])

    @property
    def label_column(self) -> str:
        """Return ``intent``, or ``kind`` for an out-of-scope set."""
        return label_column(self.manifest["task"])

    def count(self, label: str) -> int:
        """Return the number of rows with a label on both sides of the split."""
        return sum(side.get(label, 0) for side in self.manifest["label_counts"].values())

    def facts(self) -> dict[str, Any]:
        """Return the manifest without ids of rows: nothing of a held-out row may be shown."""
        hidden = ("holdout", "folds", "manifest_sha256", "name", "version")
        shown = {key: value for key, value in self.manifest.items() if key not in hidden}
        return {
            "ref": self.ref,
            **shown,
            "held_out": len(self.manifest["holdout"]),
            "folds": [len(fold) for fold in self.manifest["folds"]],
        }

    @property
    def location(self) -> str:
        """Return the path or URL of the data file."""
        path = str(self.manifest["path"])
        if "://" in path:
            return path
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise DataError(f"{self.ref}: path {path!r} leaves the version's folder; use a URL.")
        return str(self.folder / path)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The training side of a version: no holdout row is in it.

    ``train`` has the columns id, query, intent (``kind`` for an out-of-scope set), fold and the
    optional ones that the data has, in file order.
    """

    version: DataVersion
    train: pd.DataFrame

    @property
    def ref(self) -> str:
        """Return ``name@version``."""
        return self.version.ref

    @property
    def name(self) -> str:
        """Return the dataset's name."""
        return self.version.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels in id order."""
        return self.version.labels

    @property
    def manifest(self) -> Manifest:
        """Return the version's manifest."""
        return self.version.manifest

    @property
    def rules_file(self) -> str | None:
        """Return the path of ``data/<name>/rules.toml`` where the dataset has one."""
        path = self.version.folder.parent / "rules.toml"
        return str(path) if path.exists() else None

    @property
    def n_folds(self) -> int:
        """Return the number of folds that are part of the version."""
        return len(self.manifest["folds"])

    def parent_rows(self) -> pd.DataFrame | None:
        """Return the training rows of the version that this one extends, if it extends one."""
        parent = self.version.parent
        return load_dataset(full_ref(self.name, parent)).train if parent else None

    def examples(self) -> list[dict[str, str]]:
        """Return ``label`` and anonymised ``query`` of a training row of each of five labels."""
        label = self.version.label_column
        firsts = self.train.drop_duplicates(label).head(5)
        return [
            {"label": name, "query": anonymize_query(query)}
            for name, query in zip(firsts[label], firsts["query"], strict=True)
        ]


def label_column(task: str) -> str:
    """Return the name of the column of labels, on disk and in `Dataset.train`."""
    return "kind" if task == "out_of_scope" else "intent"


def resolve(ref: str) -> DataVersion:
    """Find a version and verify its manifest; a bare name means the newest that is no draft."""
    name, version = parse_ref(ref)
    versions = versions_of(name)
    if not versions:
        known = _names()
        choice = f"it has {', '.join(known)}" if known else "it has none; add one: nivesh data add"
        raise DataError(f"There is no dataset {name!r} in {data_dir()}; {choice}.")
    if version is None:
        version = next((v for v in reversed(versions) if not is_draft(v)), None)
        if version is None:
            raise DataError(f"{name} has drafts only; name one: {name}@{versions[-1]}.")
    if version not in versions:
        raise DataError(f"{name} has no version {version}; it has {', '.join(versions)}.")
    return read_manifest(data_dir() / name / f"v{version}")


def list_versions() -> list[DataVersion]:
    """Return every published version, by name, oldest first."""
    return [resolve(f"{name}@{version}") for name in _names() for version in versions_of(name)]


def load_dataset(ref: str) -> Dataset:
    """Return the verified training rows of a version with their folds."""
    version = resolve(ref)
    frame = _read_sides(version)
    train = frame[frame["side"] == "train"].drop(columns="side").reset_index(drop=True)
    # A column that only held-out rows fill is none of the training side.
    optional = [name for name in OPTIONAL if name in train and train[name].notna().any()]
    train = train[["id", "query", "intent", "fold", *optional]]
    return Dataset(version, train.rename(columns={"intent": version.label_column}))


def _names() -> list[str]:
    """Return the names of the datasets that have a published version."""
    names = (folder.name for folder in data_dir().glob("*"))
    return sorted(name for name in names if NAME.fullmatch(name) and versions_of(name))


def read_manifest(folder: Path) -> DataVersion:
    """Return the version in a folder, after verifying the hash of its manifest.

    Raises
    ------
    DataError
        The manifest cannot be read, or was changed since it was written.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(read_file(path))
        recorded = manifest["manifest_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no manifest; restore it with git or publish again.") from error
    _same_checksum(path, recorded, manifest_sha256(manifest))
    name, version = folder.parent.name, folder.name.removeprefix("v")
    if (manifest["name"], manifest["version"]) != (name, version):
        raise DataError(
            f"{path} is the manifest of {manifest['name']}@{manifest['version']}, in a folder of "
            f"{name}@{version}; versions are published, not copied."
        )
    return DataVersion(name, version, folder, manifest)


def manifest_sha256(manifest: Manifest) -> str:
    """Return the SHA-256 of a manifest's content, without the key that holds it."""
    content = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _same_checksum(place: object, recorded: str, actual: str) -> None:
    if recorded != actual:
        raise ChecksumError(
            f"{place} was changed after it was published: sha256 is {actual}, the manifest says "
            f"{recorded}. Restore the file, or publish the change as a new version."
        )


def _read_sides(version: DataVersion) -> pd.DataFrame:
    """Return all rows with the columns ``side`` and ``fold`` (-1 on the holdout side)."""
    import pandas as pd

    try:
        raw = read_bytes(version.location)
    except DataError as error:
        raise DataError(
            f"{error} It is the data of {version.ref}, sha256 {version.sha256}: "
            "restore it with git or from its source."
        ) from error
    _same_checksum(version.location, version.sha256, hashlib.sha256(raw).hexdigest())
    frame = pd.DataFrame(json.loads(raw), dtype="str").rename(
        columns={version.label_column: "intent"}
    )
    fold_of = {row: n for n, fold in enumerate(version.manifest["folds"]) for row in fold}
    held = frame["id"].isin(version.manifest["holdout"])
    frame["side"] = held.map({True: "holdout", False: "train"})
    frame["fold"] = frame["id"].map(fold_of).fillna(-1).astype("int64")
    if ((frame["fold"] < 0) != held).any():
        raise DataError(f"{version.ref}: rows, folds and holdout of the manifest do not match.")
    return frame


# --- the seed's view ---------------------------------------------------------------------------


class _Catalogue(Mapping[str, Manifest]):
    """The versions of the intents dataset in the seed's shape, read when asked for."""

    def __getitem__(self, key: str) -> Manifest:
        try:
            version = resolve(f"intents@{key}")
        except DataError as error:
            raise KeyError(key) from error
        place = version.location
        inside = "://" not in place and Path(place).is_relative_to(home())
        facts = ("created", "description", "schema_version", "sources")
        return {
            "path": str(Path(place).relative_to(home())) if inside else place,
            "size": version.rows,
            **{fact: version.manifest[fact] for fact in facts},
        }

    def __iter__(self) -> Iterator[str]:
        return (f"v{version}" for version in versions_of("intents"))

    def __len__(self) -> int:
        return len(versions_of("intents"))


DATA_VERSIONS: Mapping[str, Manifest] = _Catalogue()
