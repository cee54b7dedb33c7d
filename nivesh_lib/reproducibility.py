"""Seeds, the recorded environment of a run, and telemetry opt-outs."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from nivesh_lib import paths

# The opt-out of every dependency that would otherwise report usage.
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Variables that make git look for repository and objects in another place than the home folder.
_GIT_PLACES = {
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
}
_PACKAGES = (
    "evidently",
    "mlflow",
    "numpy",
    "pandas",
    "papermill",
    "scikit-learn",
    "torch",
    "transformers",
    "nivesh-workbench",
)


def disable_telemetry() -> None:
    """Set the opt-outs of ``NO_TELEMETRY``; a variable that is set already stays."""
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)


def threads() -> int:
    """Return the number of threads, 0 for one a core: NIVESH_THREADS, else OMP_NUM_THREADS."""
    for variable in ("NIVESH_THREADS", "OMP_NUM_THREADS"):
        given = os.environ.get(variable, "")
        if given.isascii() and given.isdigit():
            return int(given)
    return 0


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that limit the numeric libraries to ``threads`` threads."""
    return dict.fromkeys((*_THREAD_VARIABLES, "NIVESH_THREADS"), str(threads))


def set_seeds(seed: int = 42) -> None:
    """Seed Python, NumPy and, where it is loaded already, torch with CUDA.

    torch is not imported for this, since that takes a second; models that use it seed it in
    ``fit`` from their ``random_state``.
    """
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)
        torch.backends.cudnn.deterministic = True


def git_environment() -> dict[str, str]:
    """Return the variables for git, without those that point it away from the working folder."""
    return {name: value for name, value in os.environ.items() if name not in _GIT_PLACES}


def _git_bytes(*arguments: str, elsewhere: bool = False) -> bytes:
    """Return what git says of the home folder; of where the variables point if ``elsewhere``."""
    outside = dict(os.environ) if elsewhere else git_environment()
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=paths.home(),
            env=outside | {"GIT_NO_REPLACE_OBJECTS": "1"},
            capture_output=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout if done.returncode == 0 else b""


def _git(*arguments: str, elsewhere: bool = False) -> str:
    return _git_bytes(*arguments, elsewhere=elsewhere).decode(errors="replace")


# Ledger and release log: what releases append to them is committed later, and changes no code.
_LOGS = ":(exclude,glob)data/*.jsonl"


@functools.cache
def git_state() -> dict[str, Any]:
    """Return ``commit``, ``branch``, ``dirty`` and ``patch`` of the home folder.

    The patch excludes data and notebooks: rows may hold personal data, and each run keeps its
    own executed notebook. Without git all values are empty.
    """
    return {
        "commit": _git("rev-parse", "HEAD").strip(),
        "branch": _git("rev-parse", "--abbrev-ref", "HEAD").strip(),
        "dirty": bool(_changed()),
        "patch": _git("diff", "HEAD", "--", ".", ":(exclude)data", ":(exclude)*.ipynb"),
    }


def committed(path: Path) -> bytes:
    """Return the bytes of a file below the home folder at HEAD; empty where git has none."""
    return _git_bytes("show", _at_head(path))


def is_committed(path: Path) -> bool:
    """Return whether a file below the home folder is as at HEAD; also where neither is there."""
    return committed(path) == (path.read_bytes() if path.is_file() else b"")


def _at_head(path: Path) -> str:
    try:
        return f"HEAD:./{path.relative_to(paths.home()).as_posix()}"
    except ValueError:
        return "HEAD:/"  # no name that git has


def objects_at(commit: str, *places: str) -> str:
    """Return the ids that git has for files and folders of the home folder at a commit.

    They are equal where the contents are. Empty where git does not know the commit, or it lacks
    one of the places.
    """
    return _git("rev-parse", *(f"{commit}:./{place}" for place in places)) if commit else ""


def git_standing(path: Path) -> str:
    """Return the commit with which `committed` compares a file, or why with none, in a few words.

    ``missing`` (no git), ``no commit`` (no repository, none yet, or git refuses this one) or
    ``not in`` and the commit. ``; GIT_DIR elsewhere`` is added where a variable points to another
    repository; git is asked about the home folder all the same.
    """
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        standing = "no commit" if shutil.which("git") else "missing"
    else:
        known = _git("rev-parse", "--verify", "--quiet", _at_head(path))
        standing = commit if known else f"not in {commit}"
    place = ("rev-parse", "--absolute-git-dir", "--show-toplevel")
    given = [name for name in ("GIT_DIR", "GIT_WORK_TREE") if name in os.environ]
    if given and _git(*place) != _git(*place, elsewhere=True):
        standing += f"; {' and '.join(given)} elsewhere"
    return standing


def code_version() -> str:
    """Return the commit of the home folder, ``-dirty`` where it has other changes than `_LOGS`.

    Empty without git or before the first commit.
    """
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return ""
    return f"{commit}-dirty" if _changed() else commit


def _changed() -> str:
    return _git("status", "--porcelain", "--", ".", _LOGS).strip()


def author() -> str:
    """Return git's ``user.name``, else the user's login; empty where neither is known."""
    try:
        return _git("config", "user.name").strip() or getpass.getuser()
    except (OSError, KeyError):  # in a container, the user may have no name
        return ""


def machine() -> dict[str, Any]:
    """Return the processor: its ``model``, and those of its ``flags`` that decide the speed and
    the rounding of models; no flags where ``/proc/cpuinfo`` cannot be read.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {"model": platform.processor(), "flags": []}
    pairs = (line.partition(":") for line in text.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    relevant = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"}
    return {
        "model": fields.get("model name", platform.processor()),
        "flags": sorted(relevant & set(fields.get("flags", "").split())),
    }


def gpu() -> str:
    """Return the name of the first GPU, as its driver gives it, or ``CPU``."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                return value.strip()
    return "CPU"


def memory_bytes() -> int:
    """Return the memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def money_for(processor_seconds: float) -> float | None:
    """Return what processor time costs at ``NIVESH_CPU_HOUR_COST``, or None where none is set.

    Raises
    ------
    ValueError
        The setting is no number from 0.
    """
    rate = os.environ.get("NIVESH_CPU_HOUR_COST", "")
    if not rate:
        return None
    try:
        cost = float(rate)
    except ValueError:
        cost = -1.0
    if not 0 <= cost < float("inf"):
        raise ValueError(f"NIVESH_CPU_HOUR_COST={rate} is no number from 0. Set what an hour costs")
    return cost * processor_seconds / 3600


def installed_version(package: str) -> str:
    """Return the version of an installed package, else ``not installed``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def environment() -> dict[str, Any]:
    """Return interpreter, platform, processor, threads and versions that decide a result."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": machine(),
        "cores": os.cpu_count(),
        "gpu": gpu(),
        "memory_bytes": memory_bytes(),
        "threads": os.environ.get("NIVESH_THREADS", "unset"),
        "packages": {package: installed_version(package) for package in _PACKAGES},
    }
