"""The speed figures that the project promises itself: ``make bench``. Prints, never fails.

Whole processes, run in turn; medians with the range, since machines are noisy. Single queries
are timed within one process, the two sides in turn, so that noise falls on both.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
NIVESH = [sys.executable, "-m", "nivesh_lib"]


def seconds(command: list[str], home: Path) -> float:
    started = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(home),
    )
    return time.perf_counter() - started


def environment(home: Path) -> dict[str, str]:
    import os

    return {**os.environ, "NIVESH_HOME": str(home), "MLFLOW_TRACKING_URI": ""}


def told(name: str, values: list[float], goal: float) -> None:
    median = statistics.median(values)
    verdict = "met" if median <= goal else "MISSED"
    sys.stdout.write(
        f"{name:<44} median {median:7.3f} s  ({min(values):.3f} to {max(values):.3f}, "
        f"n={len(values)})  goal {goal:g} s: {verdict}\n"
    )
    sys.stdout.flush()


def repeated(measure: Callable[[], float], n: int) -> list[float]:
    measure()  # not counted: fills the file cache
    return [measure() for _ in range(n)]


def single_queries(n_rounds: int = 12) -> list[tuple[float, float]]:
    """Return the median seconds of a query in each round: our TF-IDF model, a plain pipeline.

    Seconds of the processor, so that what else runs counts little. Both have the same rows and
    kinds of n-grams; ours also takes out personal data and reads Hindi words in English. No query
    is among the rows, and each is asked once.
    """
    from nivesh_lib.data.versions import load_dataset
    from nivesh_lib.models.text.tfidf import TfidfClassifier

    train = load_dataset("intents@1.1.0").train
    rows, asked = train[train["fold"] > 1], train[train["fold"] <= 1]["query"].tolist()
    ours = TfidfClassifier().fit(rows["query"], rows["intent"])
    plain = plain_pipeline(ours).fit(rows["query"], rows["intent"])
    in_turn(ours.predict, plain.predict, rows["query"].tolist()[:100])  # not counted: warms up
    return [in_turn(ours.predict, plain.predict, asked[n::n_rounds]) for n in range(n_rounds)]


def plain_pipeline(ours: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, Pipeline

    ngrams = FeatureUnion(list(ours._new_vectorizers().items()))
    return Pipeline([("ngrams", ngrams), ("linear", LogisticRegression(C=ours.C, max_iter=300))])


def in_turn(
    first: Callable[[list[str]], Any], second: Callable[[list[str]], Any], queries: list[str]
) -> tuple[float, float]:
    ours, theirs = (statistics.median(processor_seconds(f, queries)) for f in (first, second))
    return ours, theirs


def processor_seconds(predict: Callable[[list[str]], Any], queries: list[str]) -> list[float]:
    times = []
    for query in queries:
        started = time.thread_time()
        predict([query])
        times.append(time.thread_time() - started)
    return times


def drift_command(folder: Path, n: int = 1_000) -> list[str]:
    """Return a comparison of ``n`` queries with ``n`` others, by the model that ships."""
    from nivesh_lib.data.versions import load_dataset

    queries, sides = load_dataset("intents@1.1.0").train["query"], []
    for seed, end in enumerate(("please", "thanks")):  # no query that the model has seen
        sides.append(folder / f"{end}.txt")
        drawn = queries.sample(n, random_state=seed)
        sides[-1].write_text("".join(f"{query} {end}\n" for query in drawn), encoding="utf-8")
    model = str(REPOSITORY / "reports" / "example" / "model")
    return [
        *NIVESH,
        "drift",
        "--reference",
        str(sides[0]),
        "--current",
        str(sides[1]),
        "--model",
        model,
    ]


def told_ratio(name: str, rounds: list[tuple[float, float]], goal: float) -> None:
    ours, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratios = [other / own for own, other in rounds]
    verdict = "met" if statistics.median(ratios) >= goal else "MISSED"
    sys.stdout.write(
        f"{name:<44} {1e6 * ours:.0f} against {1e6 * theirs:.0f} µs: "
        f"{statistics.median(ratios):.1f} times faster, worst of {len(ratios)} rounds "
        f"{min(ratios):.1f}  goal {goal:g}: {verdict}\n"
    )
    sys.stdout.flush()


def main() -> None:
    told_ratio("TF-IDF, one query, beside scikit-learn", single_queries(), 10)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("notebooks", "data"):
            shutil.copytree(REPOSITORY / name, home / name)
        shutil.copy(REPOSITORY / "requirements.lock", home)
        idle = repeated(lambda: seconds([sys.executable, "-c", "pass"], home), 10)
        library = repeated(lambda: seconds([sys.executable, "-c", "import nivesh_lib"], home), 10)
        start = statistics.median(idle)
        told("import nivesh_lib, beyond starting Python", [t - start for t in library], 0.05)
        told("nivesh --help", repeated(lambda: seconds([*NIVESH, "--help"], home), 10), 0.4)
        drift = drift_command(home)
        told("nivesh drift, 1,000 rows", repeated(lambda: seconds(drift, home), 5), 2)
        told("nivesh run, from nothing to the report", [seconds([*NIVESH, "run"], home)], 180)
        told("nivesh run, nothing changed", repeated(lambda: seconds([*NIVESH, "run"], home), 5), 3)


if __name__ == "__main__":
    main()
