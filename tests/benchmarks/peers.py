"""Quality and training time beside peers: ``make bench-peers ARGS="--data intents --folds 5"``.

Each fit runs in a process of its own on the same number of threads. A table goes to standard
output, everything to ``reports/benchmarks/<time>.json``, which is written after each measurement.
Two parts by default: quality on held-out folds, and the time of one epoch in interleaved rounds.
``--shots K`` or ``--test`` take their place.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nivesh_lib.errors import NiveshError
from nivesh_lib.evaluation.scores import paired_difference, score
from nivesh_lib.reproducibility import (
    NO_TELEMETRY,
    disable_telemetry,
    environment,
    git_state,
    thread_environment,
)
from tests.benchmarks import peer_tables as tables
from tests.benchmarks.peer_candidates import Candidate, candidates
from tests.benchmarks.peer_data import (
    Labelled,
    Source,
    banking77,
    draw_shots,
    intents,
    openings,
    public_folder,
    sample,
    sha256_of,
)

REPOSITORY = Path(__file__).resolve().parents[2]
OUTPUT = REPOSITORY / "reports" / "benchmarks"
OURS = "transformer"  # what differences and ratios are taken to
LARGE = 5_000  # training rows from which a slow candidate has to be named
PARTS = ("quality", "epochs")
LEFT_OUT = (
    "model2vec is left out: no package is known that carries English weights of it, "
    "and nothing is downloaded from a hub."
)
PACKAGES = ("accelerate", "datasets", "sentence-transformers", "setfit")


class Failed(Exception):
    """A candidate's process ended without an answer."""


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-peers ARGS=…", description=(__doc__ or "").partition("\n\n")[2]
    )
    add = parser.add_argument
    add("--data", choices=("intents", "banking77", "all"), default="all")
    add("--benchmarks", metavar="DIR", help="holds banking77/; default $NIVESH_BENCHMARKS")
    add("--candidates", metavar="A,B,C", help=f"of {', '.join(candidates())}")
    add("--parts", default=",".join(PARTS), help="quality, epochs or both (default)")
    add("--folds", type=positive, default=1, help="of the version's folds (default 1)")
    add("--rounds", type=positive, default=3, help="of timed epochs (default 3)")
    add("--epoch-rows", type=positive, default=512, help="rows of a timed epoch (default 512)")
    add("--shots", type=positive, metavar="K", help="train on K rows of each class")
    add("--draws", type=positive, default=5, help="of --shots, each with its seed (default 5)")
    add("--test", action="store_true", help="open banking77's test file, once for each candidate")
    add("--ledger", type=Path, default=OUTPUT / "test_openings.jsonl", help="of --test")
    add("--threads", type=positive, default=2, help="of each process (default 2)")
    add("--rows", type=positive, help="a trial: train on so many rows only")
    add("--short", action="store_true", help="a trial: one epoch, or two steps, of everything")
    args = parser.parse_args(arguments)
    args.parts = args.parts.split(",")
    args.candidates = args.candidates.split(",") if args.candidates else []
    unknown = [name for name in args.candidates if name not in candidates()]
    if unknown:
        parser.error(f"no candidate {unknown[0]!r}; there are: {', '.join(candidates())}")
    if set(args.parts) - set(PARTS):
        parser.error(f"--parts {','.join(args.parts)}: choose of {', '.join(PARTS)}")
    if args.test and args.data == "intents":
        parser.error("--test is for banking77; `nivesh release` opens the holdout of intents")
    if args.test and (args.rows or args.short):
        parser.error("--test spends an opening of the test file: leave --rows and --short out")
    return args


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    disable_telemetry()
    os.environ.update(thread_environment(args.threads))
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        sources = found_sources(args, Path(folder))
        if not sources:
            return 0
        bench = Bench(args, Path(folder))
        for source in sources:
            for part in parts(args):
                getattr(bench, part)(source)
        if "epochs" in args.parts and not (args.shots or args.test):
            bench.epochs(sources[-1])
        bench.finish()
    return 1 if bench.report["failed"] else 0


def parts(args: argparse.Namespace) -> list[str]:
    """Return the parts that run on each dataset."""
    if args.shots:
        return ["shots"]
    if args.test:
        return ["test"]
    return ["quality"] if "quality" in args.parts else []


def found_sources(args: argparse.Namespace, folder: Path) -> list[Source]:
    """Return the datasets asked for; one that is absent is named and left out."""
    sources = [intents()] if args.data in ("intents", "all") and not args.test else []
    if args.data != "intents":
        files = ("train.csv", "test.csv") if args.test else ("train.csv",)
        place = public_folder(args.benchmarks, files)
        if isinstance(place, str):
            say(place)
        else:
            sources.append(banking77(place, folder / "home"))
    return sources


class Bench:
    """The measurements of one run, and the report that grows with them."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.started = datetime.now(UTC)
        git = git_state()
        self.report: dict[str, Any] = {
            "started": self.started.isoformat(timespec="seconds"),
            "arguments": {name: shown(value) for name, value in vars(args).items()},
            "trial": bool(args.rows or args.short),
            "git": {"commit": git["commit"], "dirty": git["dirty"]},
            "environment": environment(),
            "peers": {name: version_of(name) for name in PACKAGES},
            "load_before": os.getloadavg(),
            "left_out": [LEFT_OUT],
            "failed": [],
            "quality": [],
            "differences": [],
            "shots": [],
            "test": [],
            "epochs": {},
        }
        processor = environment()["processor"]["model"]
        say(
            f"{processor}, {args.threads} threads of {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.1f}, commit {git['commit'][:10]}"
        )
        if self.report["trial"]:
            say("A trial on few rows or epochs: its figures say nothing about quality.")

    # --- parts -----------------------------------------------------------------------------

    def quality(self, source: Source) -> None:
        """Score each candidate on the first folds, all of them on the same rows."""
        n_folds = min(self.args.folds, source.n_folds)
        names = self.chosen(source)
        if not names:
            return
        say(
            f"\nQuality on {source.ref}: {n_folds} of {source.n_folds} folds, natural rows; "
            f"{', '.join(names)}"
        )
        rows: list[dict[str, Any]] = []
        answers: dict[str, tuple[list[str], list[str]]] = {}
        for name in names:
            folds = [source.split(fold) for fold in range(n_folds)]
            told = [self.tried(name, sample(train, self.args.rows), held) for train, held in folds]
            if None in told:
                continue
            true = [label for _, held in folds for label in held.labels]
            predicted = [label for one in told if one for label in one["predicted"][0]]
            answers[name] = true, predicted
            rows.append(
                {"data": source.ref, "folds": n_folds, **self.row(name, told, true, predicted)}
            )
            self.keep("quality", rows[-1])
        if rows:
            say("\n" + tables.quality(rows))
            self.differences(source, answers)

    def differences(self, source: Source, answers: dict[str, tuple[list[str], list[str]]]) -> None:
        """Print what ours has over each other candidate on the same rows."""
        if OURS not in answers:
            return
        for name, (true, predicted) in answers.items():
            if name != OURS:
                found = paired_difference(true, answers[OURS][1], predicted)
                entry = {"data": source.ref, "ours": OURS, "other": name, **found.as_dict()}
                self.keep("differences", entry)
                say(
                    f"{OURS} minus {name}: accuracy {found.value:+.3f} "
                    f"[{found.low:+.3f}, {found.high:+.3f}]"
                )

    def shots(self, source: Source) -> None:
        """Score candidates trained on k rows of each class, over several draws."""
        k, draws = self.args.shots, self.args.draws
        train, held = source.split(0)
        if self.args.test:
            train, held = source.all(), None
        chosen = [draw_shots(train.labels, k, seed) for seed in range(draws)]
        names = self.chosen(source, large=False)
        if not names:
            return
        where = "the test file" if self.args.test else "one held-out fold, natural rows"
        say(f"\n{k} rows of each class of {source.ref}, {draws} draws, judged on {where}")
        rows = []
        for name in names:
            told = self.tried(name, train, held, draws=chosen, recipe=f"{name}, {k}-shot")
            if told is None:
                continue
            true = told.get("labels") or (held.labels if held else [])
            # The spread over draws is told, so intervals over rows are not computed.
            scores = [score(true, one, n_boot=1) for one in told["predicted"]]
            row = {
                **self.identity(name),
                "data": source.ref,
                "test": self.args.test,
                "shots": k,
                "n": len(true),
                "accuracies": [found["accuracy"].value for found in scores],
                "macro_f1s": [found["macro_f1"].value for found in scores],
                "fit_seconds": statistics.mean(told["fit_seconds"]),
                "openings": told.get("openings"),
            }
            self.keep("shots", row)
            rows.append(row)
        if rows:
            say("\n" + tables.shots(rows))
            self.say_openings(rows)

    def test(self, source: Source) -> None:
        """Train on every training row and score on the test file, which is opened for each."""
        say(f"\n{source.ref}: trained on every training row, judged on the test file")
        rows = []
        for name in self.chosen(source):
            told = self.tried(name, source.all(), None, recipe=name)
            if told is not None:
                row = self.row(name, [told], told["labels"], told["predicted"][0])
                rows.append({"data": source.ref, **row, "openings": told["openings"]})
                self.keep("test", rows[-1])
        if rows:
            say("\n" + tables.quality(rows))
            self.say_openings(rows)
            say("\n" + tables.published())

    def epochs(self, source: Source) -> None:
        """Time one epoch of each fine-tuned candidate on the same rows, in interleaved rounds."""
        known = candidates()
        names = self.args.candidates or [n for n, one in known.items() if one.fine_tuned]
        names = [n for n in names if known[n].fine_tuned and self.installed(known[n])]
        rows = sample(source.split(0)[0], self.args.epoch_rows)
        if not names:
            return
        say(
            f"\nOne epoch on {len(rows.texts)} rows of {source.ref}, {self.args.rounds} rounds; "
            "model and tokenizer are loaded in it, libraries before it"
        )
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(self.args.rounds):
            for name in names:
                told = self.tried(name, rows, None, short=True) if name in found else None
                if told is None:
                    found.pop(name, None)
                    continue
                found[name].append(told["fit_seconds"][0])
                self.report["epochs"] = {"rows": len(rows.texts), "data": source.ref, **found}
                self.write()
        if found:
            say("\n" + tables.epoch_times(found, OURS))
            say(
                f"x {OURS}: ratio of medians, above 1 where ours is faster; "
                "worst round: its least value in one round"
            )

    # --- one measurement -------------------------------------------------------------------

    def chosen(self, source: Source, *, large: bool = True) -> list[str]:
        """Return the candidates to run on a dataset; what is left out is said."""
        known = candidates()
        names = self.args.candidates or [name for name, one in known.items() if one.default]
        kept = []
        for name in names:
            one = known[name]
            slow = large and not one.large and len(source.train) >= LARGE and not self.args.rows
            if slow and not self.args.candidates:
                self.leave_out(
                    f"{name} is left out on {source.ref}: it is slow there; the timed epoch says "
                    f"how slow, and --candidates {name} runs it"
                )
            elif self.installed(one):
                kept.append(name)
        return kept

    def installed(self, one: Candidate) -> bool:
        if one.missing():
            self.leave_out(
                f"{one.name} is left out: {', '.join(one.missing())} is not installed; "
                "`make bench-peers` installs it, or pip install -e '.[bench]'"
            )
        return not one.missing()

    def leave_out(self, line: str) -> None:
        if line not in self.report["left_out"]:
            self.report["left_out"].append(line)
            say(line)

    def tried(self, name: str, train: Labelled, held: Labelled | None, **more: Any) -> Any:
        """Return the measurement, or None after noting that it failed."""
        try:
            told = self.measure(name, train, held, **more)
            fits = ", ".join(f"{one:.1f}" for one in told["fit_seconds"])
            sys.stderr.write(f"  {name}: {fits} s\n")
            return told
        except Failed as error:
            self.keep("failed", {"candidate": name, "error": str(error)})
            say(f"{name} failed: {error}")
            return None

    def measure(
        self,
        name: str,
        train: Labelled,
        held: Labelled | None,
        *,
        draws: list[list[int]] | None = None,
        recipe: str = "",
        short: bool = False,
    ) -> dict[str, Any]:
        """Run a candidate in a fresh process and return its answer."""
        files = [self.folder / f"{part}.json" for part in ("job", "answer")]
        opening = self.opening(name, recipe, draws) if self.args.test and recipe else None
        job = {
            "candidate": name,
            "short": short or self.args.short,
            "train": asdict(train),
            "draws": draws or [list(range(len(train.texts)))],
            "texts": held.texts if held else None,
            "test": opening,
            "answer": str(files[1]),
        }
        files[0].write_text(json.dumps(job), encoding="utf-8")
        files[1].unlink(missing_ok=True)
        run_worker(files[0], self.args.threads)
        told: dict[str, Any] = json.loads(files[1].read_text("utf-8"))
        if opening:
            checksum = sha256_of(Path(opening["path"]))
            told["openings"] = openings(self.args.ledger, recipe, checksum)
        return told

    def opening(self, name: str, recipe: str, draws: list[list[int]] | None) -> dict[str, Any]:
        """Return what the worker writes into the ledger before it reads the test file."""
        folder = public_folder(self.args.benchmarks)
        entry = {
            "recipe": recipe,
            "params_sha256": candidates()[name].sha256,
            "draws": len(draws) if draws else 1,
            **self.report["git"],
        }
        return {
            "path": str(Path(folder).resolve() / "test.csv"),
            "ledger": str(self.args.ledger.resolve()),
            "entry": entry,
        }

    def identity(self, name: str) -> dict[str, Any]:
        one = candidates()[name]
        one = one.shortest() if self.args.short else one
        params = {key: shown(value) for key, value in one.params.items()}
        return {
            "candidate": name,
            "about": one.about,
            "params": params,
            "params_sha256": one.sha256,
        }

    def row(
        self, name: str, told: list[dict[str, Any]], true: list[str], predicted: list[str]
    ) -> dict[str, Any]:
        """Return the figures of a candidate over its folds: means, and the highest memory."""
        fit = [one["fit_seconds"][0] for one in told]
        passes = statistics.mean(one["epochs"] for one in told)
        return {
            **self.identity(name),
            **{metric: found.as_dict() for metric, found in score(true, predicted).items()},
            "fit_seconds": statistics.mean(fit),
            "fit_seconds_each": fit,
            "epochs": passes,
            "epoch_seconds": statistics.mean(fit) / passes if passes else None,
            "size_bytes": max(one["size_bytes"] for one in told),
            "peak_bytes": max(one["peak_bytes"] for one in told),
        }

    # --- the report ------------------------------------------------------------------------

    def say_openings(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row.get("openings"):
                of_recipe, of_file = row["openings"]
                say(
                    f"{row['candidate']}: opening {of_recipe} of the test file by this recipe, "
                    f"{of_file} by all"
                )

    def keep(self, part: str, entry: dict[str, Any]) -> None:
        self.report[part].append(entry)
        self.write()

    def write(self) -> Path:
        return written(self.report, OUTPUT / f"{self.started:%Y%m%dT%H%M%SZ}.json")

    def finish(self) -> None:
        self.report["load_after"] = os.getloadavg()
        self.report["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        if not self.args.test and self.args.data != "intents":
            say("\n" + tables.published())
        say(f"\n{LEFT_OUT}\n{self.write()}")


def written(report: dict[str, Any], path: Path) -> Path:
    """Write a report under another name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(path)
    return path


def run_worker(job: Path, threads: int, worker: str = "peer_worker") -> None:
    """Run a worker to its end; what it says goes to a file beside the job."""
    env = {
        **os.environ,
        **NO_TELEMETRY,
        **thread_environment(threads),
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "CI": "true",  # what OpenVINO's packages take for a wish to send nothing
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    log = job.with_suffix(".log")
    with log.open("wb") as file:
        command = [sys.executable, "-m", f"tests.benchmarks.{worker}", str(job)]
        done = subprocess.run(command, cwd=REPOSITORY, env=env, stdout=file, stderr=file)
    if done.returncode < 0:
        raise Failed(f"its process was ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
        raise Failed(lines[-1] if lines else f"its process ended with {done.returncode}")


def version_of(package: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def shown(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    plain = value is None or isinstance(value, bool | int | float | list)
    return value if plain else str(value)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NiveshError as error:
        sys.exit(str(error))
