"""One measurement in a process of its own, so that memory and imports are one candidate's alone.

``python -m tests.benchmarks.peer_worker JOB``: JOB is a JSON file that `peers.measure` wrote; the
answer goes to the path that it names.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.peer_candidates import Candidate, candidates
from tests.benchmarks.peer_data import Labelled, open_test

_WARM_UP_ROWS = 10  # of each of two classes


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Train on each list of row numbers in ``draws``, then predict ``texts`` or the test file."""
    candidate = candidates()[job["candidate"]]
    candidate = candidate.shortest() if job["short"] else candidate
    rows = Labelled(**job["train"])
    _warm_up(candidate, rows)
    models, seconds = [], []
    for draw in job["draws"]:
        train = rows.part(draw)
        started = time.perf_counter()
        models.append(candidate.fit(train.texts, train.labels))
        seconds.append(time.perf_counter() - started)
    told: dict[str, Any] = {"fit_seconds": seconds, "epochs": _epochs(candidate, models[-1])}
    if job["texts"] is None and job["test"] is None:
        return told
    texts = job["texts"]
    if job["test"] is not None:
        test = open_test(
            Path(job["test"]["path"]), Path(job["test"]["ledger"]), job["test"]["entry"]
        )
        texts, told["labels"] = test.texts, test.labels
    told["predicted"] = [[str(label) for label in model.predict(texts)] for model in models]
    told["peak_bytes"] = peak_bytes()
    told["size_bytes"] = _size_bytes(models[-1])
    return told


def _warm_up(candidate: Candidate, rows: Labelled) -> None:
    """Train on a few rows: what is imported and compiled once is no part of a fit."""
    few: list[int] = []
    for label in sorted(set(rows.labels)):
        members = [n for n, other in enumerate(rows.labels) if other == label]
        few += members[:_WARM_UP_ROWS] if len(members) > 1 else []
        if len({rows.labels[n] for n in few}) == 2:
            break
    part = rows.part(few)
    candidate.shortest().fit(part.texts, part.labels)


def _epochs(candidate: Candidate, model: Any) -> int:
    """Return the passes over the rows that were made; early stopping makes fewer than planned."""
    return len(getattr(model, "history_", ())) or candidate.epochs


def peak_bytes() -> int:
    """Return the most memory that this process held at once.

    Linux passes the peak of the parent on in ``ru_maxrss``; ``VmHWM`` is the process's own.
    """
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _size_bytes(model: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        model.save(target)
        return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def work(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Read the job that the command line names, and write its answer where the job says."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Path(job["answer"]).write_text(json.dumps(answer(job)), encoding="utf-8")


if __name__ == "__main__":
    work(answer)
