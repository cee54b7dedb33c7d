"""The command ``nivesh data review``: rows whose label is doubtful, as a file to fill in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nivesh_lib.cli.options import Json, echo_json


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
    from nivesh_lib.runs.directories import find_run
    from nivesh_lib.runs.leaderboard import chosen_model

    folder = find_run(run or "latest")
    step, result = chosen_model(folder, model)
    data = load_dataset(result.dataset or folder.record().dataset.ref)
    rows = data.train.rename(columns={data.version.label_column: "label"})[["id", "query", "label"]]
    oof = folder.out_of_fold(step, data.train, data.version.label_column)
    doubted = likely_label_errors(rows, oof, label="label")
    facts = {"dataset": data.ref, "model": step, "doubted": len(doubted), "file": None, "rows": 0}
    if len(doubted):
        path = output or reports_dir() / "reviews" / f"{data.ref}.csv"
        shown = doubted.head(top).merge(rows[["id", "query"]], on="id")
        write_review(path, shown, reviewer=reviewer)
        facts |= {"file": str(path), "rows": len(shown)}
    if as_json:
        echo_json(facts)
    elif not len(doubted):
        typer.echo(f"{data.ref}: {step} doubts no label; there is nothing to review")
    else:
        typer.echo(
            f"{relative(path)}: {len(shown)} of {len(doubted)} rows of {data.ref} whose label "
            f"{step} doubts.\nFill in decision (keep, relabel, drop), new_label, note, reviewer; "
            f"then: nivesh data add {data.name} --review {relative(path)} --extends {data.ref} "
            f"--version {next_patch(data.version.version)}"
        )
