"""Paths of the folders and files of a home. Nothing is created here.

The home is ``NIVESH_HOME`` when set, else the repository that this package was
installed from, else the current directory.
"""

from __future__ import annotations

import os
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Return the folder that holds ``data/``, ``notebooks/`` and ``reports/``."""
    override = os.environ.get("NIVESH_HOME")
    if override:
        return Path(override).expanduser().resolve()
    if (_REPOSITORY / "notebooks" / "pipeline.toml").exists():
        return _REPOSITORY
    return Path.cwd()


def package_dir() -> Path:
    """Return the folder of the library's own sources."""
    return Path(__file__).resolve().parent


def data_dir() -> Path:
    """Return the folder of datasets, objectives and the holdout ledger."""
    return home() / "data"


def objectives_file(dataset: str) -> Path:
    """Return the file of objectives for a dataset, named with or without its version.

    The assistant's own dataset has ``data/objectives.toml``, any other one a file in
    its folder. It may not exist.
    """
    name = dataset.partition("@")[0]
    return (data_dir() if name == "intents" else data_dir() / name) / "objectives.toml"


def cases_file(dataset: str) -> Path:
    """Return the file of a dataset's own behavioural test cases, named with or without version.

    It may not exist.
    """
    return data_dir() / dataset.partition("@")[0] / "probes.toml"


def notebooks_dir() -> Path:
    """Return the folder of the numbered notebooks and ``pipeline.toml``."""
    return home() / "notebooks"


def reports_dir() -> Path:
    """Return the folder that runs write to."""
    return home() / "reports"


def runs_dir() -> Path:
    """Return the folder with one directory for each pipeline run."""
    return reports_dir() / "runs"


def scratch_dir() -> Path:
    """Return the folder that notebooks write to which are run by hand."""
    return reports_dir() / "scratch"


def latest_run() -> Path:
    """Return the link to the last good run; it may not exist yet."""
    return reports_dir() / "latest"


def shipped_model() -> Path:
    """Return the model directory beside the example report; it may not exist."""
    return reports_dir() / "example" / "model"


def pictures_dir() -> Path:
    """Return the folder of the README's pictures."""
    return home() / "docs" / "pictures"


def releases_dir() -> Path:
    """Return the folder with the released packages, and one record for each opened holdout."""
    return reports_dir() / "releases"


def release_log() -> Path:
    """Return the path of the release log; it may not exist yet."""
    return data_dir() / "release_log.jsonl"


def feedback_file() -> Path:
    """Return the file of corrections that servers append to; it may not exist yet."""
    return reports_dir() / "feedback" / "feedback.jsonl"


def flags_file() -> Path:
    """Return the file of feature flags; it may not exist."""
    return home() / "deploy" / "feature_flags.toml"


def relative(path: Path) -> str:
    """Return ``path`` relative to the current directory where it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
