"""Which model a server answers with: a release by stage or version, or a model directory."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nivesh_lib import paths
from nivesh_lib.errors import DataError, ModelError, ReleaseError
from nivesh_lib.releases.log import STAGES, read_log, released, state_of
from nivesh_lib.releases.package import Package
from nivesh_lib.runs.comparison import Results
from nivesh_lib.runs.directories import latest_run
from nivesh_lib.runs.leaderboard import leaderboard
from nivesh_lib.serving.model_source import model_at
from nivesh_lib.serving.settings import NAME

MIN_CONFIDENCE = 0.70  # below, a person should answer; where no release says otherwise
_HEAVY = {"lstm", "embedding", "transformer", "abstaining"}  # kinds that need PyTorch
_VERSION = re.compile(r"v?\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Source:
    """A model directory and what is known of it.

    ``release`` and ``digest`` are empty where it is no release; ``stage`` is the one that it was
    asked for by. ``passed_over`` has a sentence for each release that should have been served.
    """

    folder: Path
    release: str = ""
    stage: str = ""
    min_confidence: float = MIN_CONFIDENCE
    passed_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.release:
            return paths.relative(self.folder)
        return f"release {self.release}" + (f" in {self.stage}" if self.stage else "")


def follows_log(address: str) -> bool:
    """Return whether another release may come to be meant by an address."""
    return address in ("", *STAGES)


@contextlib.contextmanager
def source_of(address: str = "") -> Iterator[Source]:
    """Yield what an address means; the folder may be gone after the block.

    Parameters
    ----------
    address : str
        ``production``, ``staging``, a version, the folder of a package or of a model, or an
        address in the tracking store. Empty is the release in production, else in staging, else
        the best model of the last run that the package's core can load, else the one that ships.

    Raises
    ------
    ReleaseError
        The release is not there, or was altered.
    ModelError
        There is no such model.
    """
    if address in STAGES:
        yield _in_stage(address)
    elif _VERSION.fullmatch(address):
        yield _package(released(read_log(NAME), address)["version"])
    elif address and (Path(address) / "release.json").is_file():
        yield _copied(Package(Path(address)))
    elif address:
        with model_at(address) as folder:
            yield Source(folder)
    else:
        yield default_source(_last_small)


def default_source(small: Callable[[], Path | None]) -> Source:
    """Return the release in production, else in staging, else a small model, else what ships.

    Parameters
    ----------
    small
        Returns the folder of a model for where no release is served, None without one.
    """
    passed_over: list[str] = []  # of a broken log: that it is, once
    for stage in reversed(STAGES):
        try:
            return replace(_in_stage(stage), passed_over=tuple(passed_over))
        except _NothingThere:
            continue
        except ReleaseError as error:
            passed_over.append(f"the release in {stage} is not served: {error}")
        except DataError as error:
            passed_over = [f"no release is served: {error}"]
    folder = small() or paths.shipped_model()
    if not folder.is_dir():
        why = "; ".join(passed_over) or "no release is in production or in staging"
        raise ModelError(
            f"{paths.home()}: {why}, and there is no model of a run. Set NIVESH_HOME to the folder "
            "with data/release_log.jsonl and reports/releases, or name a model"
        )
    return Source(folder, passed_over=tuple(passed_over))


def _last_small() -> Path | None:
    run = latest_run()
    return small_model(run.results(), run.model)


def small_model(results: Results, folder_of: Callable[[str], Path]) -> Path | None:
    """Return the folder of the best model that needs no more than the core; None without one.

    Parameters
    ----------
    results
        Of the steps of a run by name.
    folder_of
        Returns the folder of a step's model; it may not exist.
    """
    for entry in leaderboard(results):
        folder = folder_of(entry.step)
        cards = [json.loads(one.read_text(encoding="utf-8")) for one in folder.rglob("model.json")]
        if cards and _HEAVY.isdisjoint(card.get("kind") for card in cards):
            return folder
    return None


class _NothingThere(ReleaseError):
    """No release is in a stage."""


def _in_stage(stage: str) -> Source:
    version = getattr(state_of(read_log(NAME)), stage)
    if not version:
        raise _NothingThere(
            f"no release is in {stage}. `nivesh history` tells which there are; "
            f"`nivesh promote VERSION --to {stage}`"
        )
    return _package(version, stage)


def _package(version: str, stage: str = "") -> Source:
    package = Package.of(NAME, version)
    release = package.verify(released(read_log(NAME), version))
    return Source(package.model, version, stage, release.min_confidence or MIN_CONFIDENCE)


def _copied(package: Package) -> Source:
    """Return a package that was copied to a machine without the log that tells of it."""
    release = package.release()
    package.verify({"digest": release.digest})
    return Source(package.model, release.version, "", release.min_confidence or MIN_CONFIDENCE)
