"""The command ``nivesh compare``: a leaderboard with intervals, paired tests and ties."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from nivesh_lib.cli.options import Json, echo, echo_json

if TYPE_CHECKING:
    from nivesh_lib.evaluation.comparison import Comparison, Difference


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
    as_json: Json = False,
) -> None:
    """Rank the models of one or more runs; those that cannot be told apart share a rank.

    Scores are out of fold, over the natural training rows of the dataset that the runs share.

    Example: nivesh compare

    Example: nivesh compare 20260125-101500 20260126-090000 --metric accuracy --json
    """
    from nivesh_lib.evaluation.comparison import compare as compared
    from nivesh_lib.evaluation.scores import METRICS, headline_mask
    from nivesh_lib.runs.directories import find_run
    from nivesh_lib.runs.models import predicted_models, shared_dataset

    if metric not in METRICS:
        raise typer.BadParameter(f"--metric {metric}: is not one of {', '.join(METRICS)}")
    found = {run.path.resolve(): run for run in map(find_run, runs or ["latest"])}
    data = shared_dataset(list(found.values()))
    models, repeated = predicted_models(list(found.values()), data.train)
    if champion is not None and champion not in {model.name for model in models}:
        names = ", ".join(model.name for model in models)
        raise typer.BadParameter(f"--champion {champion}: is not one of {names}")
    rows = headline_mask(data.train)
    table = compared(
        data.train["intent"][rows],
        {model.name: model.predicted[rows] for model in models},
        metric=metric,
        champion=champion,
    )
    if as_json:
        origin = {m.name: {"model": m.model, "run": m.run, "step": m.step} for m in models}
        facts = {"dataset": data.ref, "sources": origin, "repeated": repeated, **table.as_dict()}
        echo_json(facts)
    else:
        for line in [*_lines(table, data.ref), *repeated]:
            echo(*line.split("\n"))


def _lines(table: Comparison, ref: str) -> Iterator[str]:
    """Yield the leaderboard, one line a model, and its conclusion."""
    from nivesh_lib.runs.comparison import score_title
    from nivesh_lib.runs.leaderboard import score_names

    width = max(len("model"), *(len(row.model) for row in table.models)) + 2
    title, names = score_title(table.metric), score_names(row.scores for row in table.models)
    scores = "".join(f"{f'{score_title(name)} [95 %]':<24}" for name in names)
    yield f"{table.n:,} natural rows of {ref}, out of fold, by {title}\n"
    yield (
        f"{'rank':<6}{'model':<{width}}{scores}{f'{title} to champion':<27}{'corrected p':<12}"
    ).rstrip()
    for row in table.models:
        apart = _apart(row.to_champion) if row.to_champion else "champion"
        scores = "".join(f"{row.scores[name]!s:<24}" for name in names)
        yield f"{row.rank:<6}{row.model:<{width}}{scores}{apart}"
    yield from _steps(table, width, title)
    yield f"\n{table.sentence}"
    if table.pairs:
        test = "McNemar's exact test" if table.metric == "accuracy" else "swapping answers"
        yield (
            f"p by {test}, corrected for {table.pairs} pair{'s' * (table.pairs > 1)} of models "
            f"(Holm); = marks a tie: no difference at {table.alpha:g}, which is no proof of none."
        )


def _steps(table: Comparison, width: int, metric: str) -> Iterator[str]:
    """Yield what each model scores more than the next one, beside the champion's column."""
    from nivesh_lib.runs.comparison import p_value

    steps = [(row.model, row.to_next) for row in table.models if row.to_next]
    if len(steps) < 2:  # two models: the column says it
        return
    yield (
        f"\n{'':<6}{'model':<{width}}{'more than':<{width}}{metric + ' [95 %]':<27}"
        f"{'corrected p':<13}McNemar's p"
    )
    for model, apart in steps:
        p = p_value(apart.p_mcnemar_corrected)
        yield f"{'':<6}{model:<{width}}{apart.other:<{width}}{_apart(apart):<40}{p}"


def _apart(difference: Difference) -> str:
    from nivesh_lib.runs.comparison import p_value

    value = difference.value
    interval = f"{value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
    return f"{interval:<27}{p_value(difference.p_corrected)}"
