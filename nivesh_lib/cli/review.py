"""The command ``nivesh data review``: rows whose label is doubtful, as a file to fill in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nivesh_lib.cli.options import Json

if TYPE_CHECKING:
    import pandas as pd


def review(
    run: Annotated[
        str | None, typer.Option(help="A run's name or folder; by default the last good one.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The step of the model that doubts; by default the best.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file; by default reports/reviews/NAME@VERSION.csv.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows at most, the most doubtful.")] = 50,
    reviewer: Annotated[str, typer.Option(help="Who decides; fills that column.")] = "",
    as_json: Json = False,
) -> None:
    """Write the training rows whose label is likely wrong into a CSV for a person to fill in.

    Example: nivesh data review --model 03_tfidf --top 30 --reviewer asha
    """
    from nivesh_lib.data.review import write_review
    from nivesh_lib.data.versions import load_dataset, next_patch
    from nivesh_lib.evaluation.errors import likely_label_errors
    from nivesh_lib.paths import relative, reports_dir

    folder = _run_folder(run)
    step, result = _chosen(folder, model)
    data = load_dataset(result["dataset"])
    rows = data.train.rename(columns={data.version.label_column: "label"})[["id", "query", "label"]]
    doubted = likely_label_errors(rows, _oof(folder, step, data.ref, rows), label="label")
    facts = {"dataset": data.ref, "model": step, "doubted": len(doubted), "file": None, "rows": 0}
    if len(doubted):
        path = output or reports_dir() / "reviews" / f"{data.ref}.csv"
        shown = doubted.head(top).merge(rows[["id", "query"]], on="id")
        write_review(path, shown, reviewer=reviewer)
        facts |= {"file": str(path), "rows": len(shown)}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
    elif not len(doubted):
        typer.echo(f"{data.ref}: {step} doubts no label; there is nothing to review")
    else:
        typer.echo(
            f"{relative(path)}: {len(shown)} of {len(doubted)} rows of {data.ref} whose label "
            f"{step} doubts.\nFill in decision (keep, relabel, drop), new_label, note, reviewer; "
            f"then: nivesh data add {data.name} --review {relative(path)} --extends {data.ref} "
            f"--version {next_patch(data.version.version)}"
        )


def _run_folder(run: str | None) -> Path:
    from nivesh_lib.errors import DataError
    from nivesh_lib.paths import latest_run, runs_dir

    places = [latest_run()] if run in (None, "latest") else [runs_dir() / str(run), Path(str(run))]
    folder = next((place for place in places if (place / "results").is_dir()), None)
    if folder is None:
        raise DataError(f"There is no run in {places[0]}; make one with `nivesh run`.")
    return folder


def _chosen(folder: Path, model: str | None) -> tuple[str, dict[str, Any]]:
    """Return the step of a model and its results, by default those of the best one."""
    from nivesh_lib.errors import DataError
    from nivesh_lib.reporting.site import leaderboard, read_results

    results = read_results(folder)
    steps = [entry["step"] for entry in leaderboard(results)]
    steps = [step for step in steps if isinstance(results[step].get("dataset"), str)]
    if not steps:
        raise DataError(f"No model was evaluated in {folder}; run `nivesh run`.")
    if model is not None and model not in steps:
        raise DataError(f"{folder} has no model {model!r}; it has {', '.join(steps)}.")
    step = model or steps[0]
    return step, results[step]


def _oof(folder: Path, step: str, ref: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a step's out-of-fold table, after checking that it is one of these rows."""
    import pandas as pd

    from nivesh_lib.errors import DataError

    path = folder / "oof" / f"{step}.parquet"
    try:
        oof = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read; run `nivesh run --only {step}`.") from error
    fits = {"id", "fold", *rows["label"]} <= set(oof) and set(rows["id"]) == set(oof.get("id", ()))
    if not fits:
        raise DataError(
            f"{path} is not of the rows and labels of {ref}; run `nivesh run --dataset {ref}`."
        )
    return oof
