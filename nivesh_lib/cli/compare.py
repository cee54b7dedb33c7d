"""The command ``nivesh compare``: a leaderboard with intervals, paired tests and ties."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from nivesh_lib.evaluation.comparison import Comparison, Difference
    from nivesh_lib.evaluation.scores import Metric
    from nivesh_lib.pipeline.run import RunRecord


@dataclass(frozen=True)
class Entry:
    """A model of a run: its name in the leaderboard, where it is from, and what it predicted."""

    name: str
    model: str
    run: str
    step: str
    predicted: np.ndarray


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...", help="Names under reports/runs, latest, or paths; default: latest."
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="Rank by macro_f1 or accuracy.")] = "macro_f1",
    champion: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Compare with this model.", show_default="the best score"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for a program to read.")
    ] = False,
) -> None:
    """Rank the models of one or more runs; those that cannot be told apart share a rank.

    Scores are out of fold, over the natural training rows of the dataset that the runs share.

    Example: nivesh compare

    Example: nivesh compare 20260125-101500 20260126-090000 --metric accuracy --json
    """
    from nivesh_lib.evaluation.comparison import compare as compared
    from nivesh_lib.evaluation.scores import METRICS, headline_mask

    if metric not in METRICS:
        names = ", ".join(one.name for one in _columns())
        raise typer.BadParameter(f"--metric {metric}: is not one of {names}")
    folders = _folders(runs or [])
    train, ref = _rows([record for _, record in folders])
    found = [entry for folder, record in folders for entry in _entries(folder, record, train)]
    entries, repeated = _listed_once(found)
    _check_there_is_a_model(entries, [folder for folder, _ in folders])
    if champion is not None and champion not in {entry.name for entry in entries}:
        names = ", ".join(entry.name for entry in entries)
        raise typer.BadParameter(f"--champion {champion}: is not one of {names}")
    rows = headline_mask(train)
    table = compared(
        train["intent"][rows],
        {entry.name: entry.predicted[rows] for entry in entries},
        metric=metric,
        champion=champion,
    )
    if as_json:
        origin = {e.name: {"model": e.model, "run": e.run, "step": e.step} for e in entries}
        facts = {"dataset": ref, "sources": origin, "repeated": repeated, **table.as_dict()}
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
    else:
        for line in [*_lines(table, ref), *repeated]:
            typer.echo(line)


def _folders(runs: list[str]) -> list[tuple[Path, RunRecord]]:
    """Return the directories and records of runs, each once, in the order given."""
    from nivesh_lib import paths
    from nivesh_lib.errors import DataError
    from nivesh_lib.pipeline.run import read_record

    found: dict[Path, tuple[Path, RunRecord]] = {}
    if "" in runs:
        place = paths.relative(paths.runs_dir())
        raise DataError(f"no run has an empty name; names are the folders in {place}")
    for name in runs or ["latest"]:
        named = paths.latest_run() if name == "latest" else paths.runs_dir() / name
        folder = named if named.is_dir() or name == "latest" else Path(name)
        if not folder.is_dir():
            what = "is not there: no run ended well yet" if name == "latest" else "is no run"
            raise DataError(
                f"{paths.relative(folder)} {what}. `nivesh run` makes one, and names of runs are "
                f"the folders in {paths.relative(paths.runs_dir())}"
            )
        record = read_record(folder)
        if record is None:
            raise DataError(
                f"{paths.relative(folder)} has no sound run.json, so its dataset is unknown. "
                "Name another run, or make one with `nivesh run`"
            )
        found.setdefault(folder.resolve(), (folder, record))
    return list(found.values())


def _rows(records: list[RunRecord]) -> tuple[pd.DataFrame, str]:
    """Return the training rows that all the runs share, and their dataset's name."""
    from nivesh_lib.data.versions import load_dataset
    from nivesh_lib.errors import DataError

    refs = {record.dataset["ref"]: record.run for record in records}
    if len(refs) > 1:
        made = ", ".join(f"{run} on {ref}" for ref, run in refs.items())
        raise DataError(
            f"models can be compared on the same rows only, and these runs differ: {made}. "
            f"Run both on one: `nivesh run --dataset {list(refs)[-1]}`"
        )
    data = load_dataset(next(iter(refs)))
    for record in records:
        recorded = record.dataset.get("sha256", data.version.sha256)
        if recorded != data.version.sha256:
            raise DataError(
                f"{record.run} was made on other rows of {data.ref} (sha256 {recorded}) than those "
                f"that are there now ({data.version.sha256}). "
                f"Make it again: `nivesh run --dataset {data.ref}`"
            )
    if data.version.label_column != "intent":
        raise DataError(f"{data.ref} has no intents, so no models to compare. Name another run")
    return data.train, data.ref


def _entries(folder: Path, record: RunRecord, train: pd.DataFrame) -> Iterator[Entry]:
    """Yield the models of a run that left both results and out-of-fold probabilities."""
    from nivesh_lib import paths
    from nivesh_lib.errors import DataError
    from nivesh_lib.reporting.site import odd_results, read_results

    for path in odd_results(folder):  # it might be a model's
        raise DataError(
            f"{paths.relative(path)}: not the results of a step. "
            "`nivesh run --force` makes them again"
        )
    for step, result in read_results(folder).items():
        path = folder / "oof" / f"{step}.parquet"
        if result.get("model") and "macro_f1" in result["metrics"]:
            name = result["model"]
            yield Entry(name, name, record.run, step, _predicted(path, train))


def _predicted(path: Path, train: pd.DataFrame) -> np.ndarray:
    """Return the labels that a model predicted out of fold, in the order of the training rows."""
    import pandas as pd

    from nivesh_lib import paths
    from nivesh_lib.errors import DataError
    from nivesh_lib.evaluation.resampling.cross_validation import predicted_labels

    wanted = "id, fold and a probability for each label, for every training row"
    try:
        table = pd.read_parquet(path)
        if not _is_sound(table, train):
            raise ValueError
        by_id = dict(zip(table["id"], predicted_labels(table), strict=True))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{paths.relative(path)}: does not hold {wanted}. `nivesh run --force` makes it again"
        ) from error
    return train["id"].map(by_id).to_numpy(dtype=object)


def _is_sound(table: pd.DataFrame, train: pd.DataFrame) -> bool:
    """Return whether a table has every row once, in its fold, with probabilities of the labels."""
    import numpy as np

    from nivesh_lib.evaluation.resampling.cross_validation import probabilities

    folds = dict(zip(train["id"], train["fold"], strict=True))
    proba = probabilities(table)
    values = proba.to_numpy(dtype=float)
    return bool(
        len(table) == len(train)
        and dict(zip(table["id"], table["fold"], strict=True)) == folds
        and set(proba.columns) == set(train["intent"])
        and np.isfinite(values).all()
        and (values >= 0).all()
        and np.allclose(values.sum(axis=1), 1, atol=1e-3)
    )


def _listed_once(found: list[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the models under names of their own, and what is said of those left out.

    A step that did not change is linked into the next run: the same model, not another one,
    and a comparison with itself would only make the corrected tests stricter.
    """
    kept: list[Entry] = []
    repeated = []
    for entry in found:
        same = next((k for k in kept if _is_same(k, entry)), None)
        if same is None:
            kept.append(entry)
        else:
            repeated.append(
                f"{entry.model} ({entry.step}) gave the same answers in {entry.run} as in "
                f"{same.run}: listed once."
            )
    models = [entry.model for entry in kept]
    places = [(entry.model, entry.run) for entry in kept]
    named = []
    for entry in kept:
        name = entry.model
        if models.count(entry.model) > 1:
            alone = places.count((entry.model, entry.run)) == 1
            name += f" ({entry.run})" if alone else f" ({entry.run}, {entry.step})"
        named.append(replace(entry, name=name))
    return named, repeated


def _is_same(one: Entry, other: Entry) -> bool:
    same_model = (one.model, one.step) == (other.model, other.step)
    return same_model and bool((one.predicted == other.predicted).all())


def _check_there_is_a_model(entries: list[Entry], folders: list[Path]) -> None:
    from nivesh_lib import paths
    from nivesh_lib.errors import DataError

    if not entries:
        places = ", ".join(paths.relative(folder) for folder in folders)
        raise DataError(
            f"{places}: no model with out-of-fold results in oof/. "
            "`nivesh run` evaluates models, and so does `nivesh run --only 03_tfidf`"
        )


def _columns() -> list[Metric]:
    """Return the metrics in the order of their columns, the headline one first."""
    from nivesh_lib.evaluation.scores import HEADLINE, METRICS

    return sorted(METRICS.values(), key=lambda metric: metric.name != HEADLINE)


def _lines(table: Comparison, ref: str) -> Iterator[str]:
    """Yield the leaderboard, one line a model, and its result in words."""
    from nivesh_lib.evaluation.scores import METRICS

    width = max(len("model"), *(len(row.model) for row in table.models)) + 2
    name = METRICS[table.metric].title
    yield f"{table.n:,} natural rows of {ref}, out of fold, by {name}\n"
    heads = "".join(f"{metric.title + ' [95 %]':<24}" for metric in _columns())
    yield (
        f"{'rank':<6}{'model':<{width}}{heads}{f'{name} to champion':<27}{'corrected p':<12}"
    ).rstrip()
    for row in table.models:
        apart = _apart(row.to_champion) if row.to_champion else "champion"
        scores = "".join(f"{row.scores[metric.name]!s:<24}" for metric in _columns())
        yield f"{row.rank:<6}{row.model:<{width}}{scores}{apart}"
    yield from _steps(table, width, name)
    yield f"\n{table.sentence}"
    if table.pairs:
        test = "McNemar's exact test" if table.metric == "accuracy" else "swapping answers"
        yield (
            f"p by {test}, corrected for {table.pairs} pair{'s' * (table.pairs > 1)} of models "
            f"(Holm); = marks a tie: no difference at {table.alpha:g}, which is no proof of none."
        )


def _steps(table: Comparison, width: int, metric: str) -> Iterator[str]:
    """Yield what each model scores more than the next one, beside the champion's column."""
    steps = [(row.model, row.to_next) for row in table.models if row.to_next]
    if len(steps) < 2:  # two models: the column says it
        return
    yield (
        f"\n{'':<6}{'model':<{width}}{'more than':<{width}}{metric + ' [95 %]':<27}"
        f"{'corrected p':<13}McNemar's p"
    )
    for model, apart in steps:
        p = _p(apart.p_mcnemar_corrected)
        yield f"{'':<6}{model:<{width}}{apart.other:<{width}}{_apart(apart):<40}{p}"


def _apart(difference: Difference) -> str:
    value = difference.value
    interval = f"{value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
    return f"{interval:<27}{_p(difference.p_corrected)}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
