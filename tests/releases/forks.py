"""Commands in forks of this process, which has imported the libraries already.

So a kill falls into the work and not into seconds of imports. Every fork has a home and a tracking
store of its own: MLflow's database is the one below that home.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("nivesh_lib.cli.app", "nivesh_lib.releases.release", "nivesh_lib.models.text.tfidf"),
    *("mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "mlflow.data.pandas_dataset"),
)


def warm_up() -> None:
    """Import what the commands import."""
    for name in LIBRARIES:
        importlib.import_module(name)


def start(home: Path, function: Callable[..., object], *arguments: Any) -> int:
    """Call a function in a fork that works in a home; return the fork's process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = _work(home, function, *arguments)
    finally:
        os._exit(code)


def _work(home: Path, function: Callable[..., object], *arguments: Any) -> int:
    from nivesh_lib.reproducibility import git_state

    log = os.open(said_in(home), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
    os.environ["NIVESH_HOME"] = str(home)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(home)
    git_state.cache_clear()
    try:
        function(*arguments)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def said_in(home: Path) -> Path:
    """Return the file with what the forks of a home printed."""
    return home.with_name(f"{home.name}.log")


def wait(pid: int) -> int:
    """Wait for a fork and return its exit code, minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(home: Path, function: Callable[..., object], *arguments: Any) -> None:
    """Call a function in a fork; fail with what it printed where it does."""
    code = wait(start(home, function, *arguments))
    assert code == 0, said_in(home).read_text(encoding="utf-8")[-3000:]


def nivesh(*arguments: str) -> None:
    """Run a command of the command line in this process."""
    from nivesh_lib.__main__ import main

    sys.argv = ["nivesh", *arguments]
    main()


def seen(home: Path) -> dict[str, Any]:
    """Return what log, registry and packages of a home say, without times."""
    run(home, _write_seen, home.with_name(f"{home.name}.json"))
    return json.loads(home.with_name(f"{home.name}.json").read_text(encoding="utf-8"))


def _write_seen(target: Path) -> None:
    target.write_text(json.dumps(_seen()), encoding="utf-8")


def _seen(name: str = "intent_classifier") -> dict[str, Any]:
    from nivesh_lib.paths import releases_dir
    from nivesh_lib.releases.card import model_card
    from nivesh_lib.releases.log import read_log, state_of
    from nivesh_lib.releases.package import Package
    from nivesh_lib.releases.promotion import notices
    from nivesh_lib.tracking.store import client

    entries, store, packages = read_log(name), client(), {}
    for entry in (e for e in entries if e["kind"] == "release"):
        package = Package.of(name, entry["version"])
        release = package.verify(entry)
        card = model_card(release, package.answers(), package.findings(), entries)
        files = sorted(str(p.relative_to(package.folder)) for p in package.folder.rglob("*"))
        fits = package.card.read_text(encoding="utf-8") == card.content
        packages[release.version] = [*files, "its card fits" if fits else "its card is older"]
    kept = ("nivesh.release", "digest", "stage", "deprecated")
    found = store.search_model_versions(f"name = '{name}'")
    versions = {one.version: [one.tags.get(key, "") for key in kept] for one in found}
    aliases = {a: n for m in store.search_registered_models() for a, n in m.aliases.items()}
    ids = [one.experiment_id for one in store.search_experiments()]
    state = state_of(entries)
    return {
        "log": [[e.get(k, "") for k in ("kind", "version", "digest", "stage")] for e in entries],
        "state": [state.staging, state.production, state.previous, state.stages],
        "aliases": {alias: versions[number][0] for alias, number in aliases.items()},
        "versions": sorted(versions.values()),
        "folders": sorted(p.name for p in (releases_dir() / name).iterdir()),
        "packages": packages,
        "open": len(store.search_runs(ids, filter_string="attributes.status = 'RUNNING'")),
        "notices": notices(name),
    }
