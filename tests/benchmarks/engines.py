"""Speed and size beside other engines: ``make bench-engines``, ``ARGS="--short"`` for a trial.

One transformer is trained without one fold, its weights go into every engine, and our small models
learn from the same rows. Each engine then answers the natural rows of that fold: in turns, each
time in a fresh process held to as many cores as threads, tokenisation included. Tables and the
marks, met or missed, go to standard output, everything to ``reports/benchmarks/engines-*.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.errors import NiveshError
from nivesh_lib.evaluation.benchmark import directory_bytes
from nivesh_lib.evaluation.scores import paired_difference, score
from nivesh_lib.reproducibility import (
    disable_telemetry,
    environment,
    git_state,
    thread_environment,
)
from tests.benchmarks import engine_tables as tables
from tests.benchmarks.engine_candidates import (
    FP32,
    Engine,
    Order,
    engines,
    missing,
    wanted,
)
from tests.benchmarks.engine_marks import EAGER, marks
from tests.benchmarks.peer_data import Labelled, Source, intents, sample
from tests.benchmarks.peers import (
    OUTPUT,
    Failed,
    positive,
    run_worker,
    say,
    shown,
    version_of,
    written,
)

PACKAGES = ("onnx", "onnxruntime", "openvino", "nncf", "tokenizers")
SIZES = (1, 8, 32)  # of batches
SHORT_ROWS, SHORT_TEXTS = 200, 32  # that a trial trains on, and answers


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-engines ARGS=…", description=(__doc__ or "").partition("\n\n")[2]
    )
    add = parser.add_argument
    add("--engines", metavar="A,B,C", help=f"of {', '.join(engines())}")
    add("--threads", metavar="N,N", default="1,2", help="of each process (default 1,2)")
    add("--rounds", type=positive, default=3, help="in which engines take turns (default 3)")
    add("--seconds", type=float, default=0.3, help="for each batch size (default 0.3)")
    add("--fold", type=int, default=0, help="that is answered and not trained on (default 0)")
    add("--epochs", type=positive, default=5, help="of the transformer (default 5)")
    add("--model", type=Path, metavar="DIR", help="a saved transformer; nothing is judged then")
    add("--threshold", type=float, help="of the cascade; default: chosen on the other folds")
    add("--short", action="store_true", help="a trial: few rows, one thread, one round")
    args = parser.parse_args(arguments)
    args.engines = args.engines.split(",") if args.engines else list(engines())
    unknown = [name for name in args.engines if name not in engines()]
    if unknown:
        parser.error(f"no engine {unknown[0]!r}; there are: {', '.join(engines())}")
    if not all(part.isdecimal() and int(part) for part in args.threads.split(",")):
        parser.error(f"--threads {args.threads}: give numbers from 1 on, such as 1,2")
    args.threads = [int(part) for part in args.threads.split(",")]
    if args.seconds <= 0:
        parser.error(f"--seconds {args.seconds:g} is not above 0")
    if args.model and not (args.model / "model.json").is_file():
        parser.error(f"--model {args.model}: no saved model; give what `save` wrote")
    if args.short:
        args.threads, args.rounds, args.seconds, args.epochs = [1], 1, 0.05, 1
        args.threshold = 0.9 if args.threshold is None else args.threshold
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    disable_telemetry()
    os.environ.update(thread_environment(max(args.threads)))
    with tempfile.TemporaryDirectory(prefix="bench-engines-") as folder:
        bench = Bench(args, Path(folder), intents())
        bench.measure()
        bench.tell()
    return 1 if bench.report["failed"] else 0


class Bench:
    """The artefacts, measurements and report of one run."""

    def __init__(self, args: argparse.Namespace, folder: Path, source: Source) -> None:
        self.args, self.folder, self.source = args, folder, source
        self.held = self.held_out(args.fold)
        self.chosen = [engine for engine in engines().values() if engine.name in args.engines]
        self.token_counts: list[int] = []  # of each text
        # Threads -> engine -> what the worker of each round told.
        self.told: dict[int, dict[str, list[dict[str, Any]]]] = {n: {} for n in args.threads}
        self.started = datetime.now(UTC)
        self.report: dict[str, Any] = {
            "started": self.started.isoformat(timespec="seconds"),
            "arguments": {name: shown(value) for name, value in vars(args).items()},
            "git": {name: git_state()[name] for name in ("commit", "dirty")},
            "environment": environment(),
            "packages": {name: version_of(name) for name in PACKAGES},
            "load_before": os.getloadavg(),
            "left_out": [],
            "failed": [],
            "make_seconds": {},
        }
        self.say_where()

    def held_out(self, fold: int) -> Labelled:
        """Return the natural rows of a fold, a few of them for a trial."""
        if not 0 <= fold < self.source.n_folds:
            raise NiveshError(
                f"--fold {fold}: {self.source.ref} has 0 to {self.source.n_folds - 1}"
            )
        return sample(self.source.split(fold)[1], SHORT_TEXTS if self.args.short else None)

    def say_where(self) -> None:
        processor, packages = environment()["processor"], self.report["packages"]
        say(
            f"{processor['model']} ({', '.join(processor['flags']) or 'no flags known'}), "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
            f"commit {self.report['git']['commit'][:10]}"
        )
        say(", ".join(f"{name} {version}" for name, version in packages.items()))
        if self.args.short:
            say(
                "A trial, all in one process: its figures say nothing about quality or memory, and "
                "little about speed."
            )

    # --- measurements ----------------------------------------------------------------------

    def measure(self) -> None:
        """Make what the engines need, then let them take turns, every second round backwards."""
        self.leave_out_missing()
        if self.args.model:
            (self.folder / FP32).symlink_to(self.args.model.resolve())
        if self.args.short:  # in one process: most of the time would go into importing torch
            self.make_and_turn(self.chosen, self.args.threads[0])
            return
        self.make_and_turn([], max(self.args.threads))
        for number in range(self.args.rounds):
            for threads in self.args.threads:
                for engine in self.chosen[:: -1 if number % 2 else 1]:
                    self.turn(engine, threads, number)

    def leave_out_missing(self) -> None:
        for engine in list(self.chosen):
            if absent := missing(engine):
                self.chosen.remove(engine)
                verb = "is" if len(absent) == 1 else "are"
                line = f"{engine.name} is left out: {', '.join(absent)} {verb} not there"
                self.report["left_out"].append(line)
                say(line)

    def make_and_turn(self, turns: Sequence[Engine], threads: int) -> None:
        """Make every artefact, and measure these engines in the same process.

        Raises
        ------
        NiveshError
            There is no transformer, so that nothing can be measured.
        """
        names = [name for name in wanted(self.chosen) if not (self.folder / name).exists()]
        job = {"make": names, "count_tokens": True, **self.turns(turns, threads, 0)}
        self.note(self.worker(job, threads), threads)
        if not self.has(FP32):
            raise NiveshError("there is no transformer to measure: see what failed above")
        self.chosen = [engine for engine in self.chosen if self.has(engine.artefact)]

    def has(self, artefact: str) -> bool:
        return (self.folder / artefact).exists()

    def turn(self, engine: Engine, threads: int, number: int) -> None:
        try:
            self.note(self.worker(self.turns([engine], threads, number), threads), threads)
        except Failed as error:
            self.failed(f"{engine.name}, {threads} threads", str(error))
        if len(self.told[threads].get(engine.name, ())) <= number:
            self.chosen = [one for one in self.chosen if one is not engine]

    def turns(self, chosen: Sequence[Engine], threads: int, number: int) -> dict[str, Any]:
        """Return the part of a job that says what to measure, and how."""
        return {
            "engines": [engine.name for engine in chosen],
            "threads": threads,
            "texts": [self.held.texts[row] for row in self.rows_of(number)],
            "sizes": SIZES,
            "seconds": self.args.seconds,
        }

    def rows_of(self, number: int) -> list[int]:
        """Return the rows in the order of a round, the same for each engine."""
        order: list[int] = np.random.default_rng(number).permutation(len(self.held.texts)).tolist()
        return order

    def note(self, told: dict[str, Any], threads: int) -> None:
        """Keep what a worker told, and say how it went."""
        self.report["make_seconds"] |= told["make_seconds"]
        self.token_counts = told.get("pieces", self.token_counts)
        for name, spent in told["make_seconds"].items():
            size = directory_bytes(self.folder / name) / 1e6
            sys.stderr.write(f"  {name}: made in {spent:.1f} s, {size:.1f} MB\n")
        for name, figures in told["engines"].items():
            self.told[threads].setdefault(name, []).append(figures)
            p50 = statistics.median(figures["times_ms"]["1"])
            sys.stderr.write(f"  {name}, threads {threads}: {p50:.3f} ms\n")
        for what, error in told["failed"].items():
            self.failed(what, error)

    def failed(self, what: str, error: str) -> None:
        self.report["failed"].append({"what": what, "error": error})
        say(f"{what} failed: {error}")

    def order(self) -> dict[str, Any]:
        """Return the fields of `Order`, but for the folder."""
        fold = self.args.fold
        train = sample(self.source.split(fold)[0], SHORT_ROWS if self.args.short else None)
        fields: dict[str, Any] = {"train": asdict(train), "epochs": self.args.epochs}
        if self.args.threshold is None and not self.args.model:
            fields["judged"] = fold
        else:
            fields["threshold"] = self.args.threshold or Order.threshold
        if self.args.short:
            fields["calibration"] = SHORT_TEXTS
        return fields

    def worker(self, job: dict[str, Any], threads: int) -> dict[str, Any]:
        """Run a worker in a fresh process and return its answer."""
        files = [self.folder / f"{part}.json" for part in ("job", "answer")]
        fixed = {"root": str(self.folder), "order": self.order(), "answer": str(files[1])}
        job = {"make": [], "engines": [], **fixed, **job}
        files[0].write_text(json.dumps(job), encoding="utf-8")
        files[1].unlink(missing_ok=True)
        run_worker(files[0], threads, "engine_worker")
        told: dict[str, Any] = json.loads(files[1].read_text("utf-8"))
        return told

    # --- the report ------------------------------------------------------------------------

    def tell(self) -> None:
        """Print tables and marks, and write the report."""
        whole = {  # an engine that failed in one round is no longer compared
            name for name in (one.name for one in self.chosen) if self.complete(name)
        }
        speeds = {
            threads: {
                name: tables.summary(told[name], len(self.held.texts))
                for name in engines()
                if name in whole
            }
            for threads, told in self.told.items()
        }
        sizes = {name: self.size_of(name) for name in engines() if name in whole}
        quality = self.quality(sorted(whole))
        self.say_tables(speeds, sizes, quality)
        found = marks(speeds, sizes, quality)
        say("\nMarks: " + f"{sum(mark.met is True for mark in found)} of {len(found)} met")
        for mark in found:
            say(str(mark))
        self.report |= {
            "pieces": {"median": self.median_tokens, "mean": statistics.mean(self.token_counts)},
            "rows": len(self.held.texts),
            "speeds": speeds,
            "sizes": sizes,
            "quality": quality,
            "marks": [mark.as_dict() for mark in found],
            "load_after": os.getloadavg(),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path = OUTPUT / f"engines-{self.started:%Y%m%dT%H%M%SZ}.json"
        say(f"\n{written(self.report, path)}")

    def complete(self, name: str) -> bool:
        return all(len(told.get(name, ())) == self.args.rounds for told in self.told.values())

    @property
    def median_tokens(self) -> float:
        return statistics.median(self.token_counts)

    def size_of(self, name: str) -> int:
        return directory_bytes((self.folder / engines()[name].artefact).resolve())

    def quality(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return agreement with fp32, and scores where the model has not seen the rows."""
        threads = self.args.threads[0]
        rows, told = self.rows_of(0), self.told[threads]
        true = [self.held.labels[row] for row in rows]
        reference = told[EAGER][0]["labels"] if EAGER in names else None
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            labels = told[name][0]["labels"]
            found[name] = {}
            if reference:
                same = sum(a == b for a, b in zip(labels, reference, strict=True))
                found[name]["agreement"] = same / len(labels)
            if self.args.model:
                continue
            found[name] |= {key: one.as_dict() for key, one in score(true, labels).items()}
            if reference:
                found[name]["difference"] = paired_difference(true, labels, reference).as_dict()
        return found

    def say_tables(
        self,
        speeds: Mapping[int, tables.Speeds],
        sizes: Mapping[str, int],
        quality: Mapping[str, Mapping[str, Any]],
    ) -> None:
        floored = [name for name, one in engines().items() if one.floor]
        say(
            f"\n{len(self.held.texts)} natural rows of fold {self.args.fold} of {self.source.ref}, "
            f"median {self.median_tokens:g} tokens, {self.args.rounds} rounds. x floor: time "
            f"on one core over {tables.FLOOR_MS} ms for {tables.FLOOR_TOKENS} tokens, "
            "what the multiplications alone would take in int8."
        )
        for threads, told in speeds.items():
            common: dict[str, Any] = {"threads": threads, "floored": floored}
            say(f"\nSingle queries, threads: {threads}")
            say(tables.single(told, tokens=self.median_tokens, **common))
            say(f"\nBatches, and a file as the engine's user would answer it, threads: {threads}")
            say(tables.batched(told, tokens=statistics.mean(self.token_counts), **common))
        first = speeds[self.args.threads[0]]
        fp32 = directory_bytes((self.folder / FP32).resolve())
        say("\nSize, memory, answers")
        say(tables.artefacts(first, sizes, quality, fp32=fp32))
        if self.args.model:
            say("Not judged: the given model may have been trained on these rows.")
        for name, one in engines().items():
            if name in sizes:
                say(f"  {name}: {one.about}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NiveshError as error:
        sys.exit(str(error))
