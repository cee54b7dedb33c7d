"""The command line. Every command imports what it needs when it is called."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from nivesh_lib import __version__
from nivesh_lib.cli.canary import abort, start
from nivesh_lib.cli.canary import status as canary_status
from nivesh_lib.cli.compare import compare
from nivesh_lib.cli.data import add, diff, list_, review, show, validate
from nivesh_lib.cli.doctor import doctor
from nivesh_lib.cli.drift import drift
from nivesh_lib.cli.options import echo, echo_json
from nivesh_lib.cli.predict import predict
from nivesh_lib.cli.release import release
from nivesh_lib.cli.reproduce import reproduce
from nivesh_lib.cli.serve import serve
from nivesh_lib.cli.stages import archive, card, history, promote, rollback
from nivesh_lib.cli.status import status
from nivesh_lib.wording import human_bytes, milliseconds

if TYPE_CHECKING:
    from nivesh_lib.records.run import Example, RunRecord
    from nivesh_lib.runs.comparison import Results
    from nivesh_lib.runs.layout import RunDirectory
    from nivesh_lib.runs.leaderboard import LeaderboardEntry

app = typer.Typer(
    name="nivesh",
    help="Research workbench for text-intent classification: data, notebooks, pipeline, report.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data_app = typer.Typer(
    help="Versioned datasets: list, show, validate, review, add, diff.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
data_app.command("list")(list_)
for command in (show, validate, review, add, diff):
    data_app.command()(command)
app.add_typer(data_app, name="data")

canary_app = typer.Typer(
    help="A release beside the one in production: start, status, abort.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for one in (start, canary_status, abort):
    canary_app.command()(one)
app.add_typer(canary_app, name="canary")

EXAMPLE_QUERY = "Can I afford a ₹50L home loan?"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"nivesh {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    profile: Annotated[str, typer.Option(help="smoke, default or full.")] = "default",
    dataset: Annotated[
        str | None, typer.Option(help="NAME@VERSION; see `nivesh data list`.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="A step, with what it needs.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE or STEP.NAME=VALUE.")
    ] = None,
    executor: Annotated[str, typer.Option(help="Where notebooks run.")] = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="Notebooks side by side.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run steps that did not change too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would run, why.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print run.json at the end.")] = False,
) -> None:
    """Run the notebooks that changed, and write the report.

    Example: nivesh run --dataset intents@1.1.0 --set 03_tfidf.C=5
    """
    from nivesh_lib.data.versions import parse_ref
    from nivesh_lib.evaluation.objectives import read_objectives
    from nivesh_lib.pipeline.run import DEFAULT_DATASET, raise_for_failures, run_pipeline

    name, _ = parse_ref(dataset or DEFAULT_DATASET)
    read_objectives(name)  # a wrong mark is refused before anything starts
    made = run_pipeline(
        profile=profile,
        dataset=dataset,
        only=only or [],
        settings=set_ or [],
        executor=executor,
        jobs=jobs,
        force=force,
        dry_run=dry_run,
        report=lambda text: echo(*text.split("\n"), err=as_json),
    )
    if made is None:
        return
    record, directory = made
    if as_json:
        echo_json(record.as_dict())
    else:
        _print_summary(directory, record)
    raise_for_failures(record, directory)


def _print_summary(run: RunDirectory, record: RunRecord) -> None:
    """Print leaderboard, verdict and the three next steps."""
    from nivesh_lib import paths
    from nivesh_lib.runs.directories import latest_run
    from nivesh_lib.runs.leaderboard import leaderboard, verdict_of

    results = run.results()
    board = leaderboard(results)
    _print_board(board)
    echo("")
    for sentence in verdict_of(results):
        echo(f"  {sentence}")
    shown = latest_run() if record.complete else run
    echo("", "Next:")
    echo(f"  report    {paths.relative(shown.index)}")
    echo("  MLflow    make ui   (then http://127.0.0.1:5000)")
    if board and run.model(board[0].step).is_dir():
        model = paths.relative(shown.model(board[0].step))
        shown_answer = record.example or _answered(run, board[0].step, record, results)
        query = shlex.quote(shown_answer.query)
        echo(f"  predict   .venv/bin/nivesh predict {query} --model {model}")
        echo(f"            {shown_answer.answer}")


def _answered(run: RunDirectory, step: str, record: RunRecord, results: Results) -> Example:
    """Ask a model once, and keep the answer in the record of its run: loading takes seconds."""
    query = _example(record.dataset.ref, results)
    example = _kept_answer(step, record, query) or _new_answer(run, step, query)
    run.write_record(record.changed(example=example))
    return example


def _kept_answer(step: str, record: RunRecord, query: str) -> Example | None:
    """Return the answer that the newest other run with the same model has kept."""
    from nivesh_lib.runs.directories import all_runs
    from nivesh_lib.runs.layout import notebook_of

    made = record.steps.get(notebook_of(step))
    for other in (run.sound_record() for run in reversed(all_runs())):
        kept = other.example if other else None
        if other is None or kept is None or (kept.step, kept.query) != (step, query):
            continue
        same = other.steps.get(notebook_of(step))
        if made is not None and same is not None and same.key == made.key:
            return kept
    return None


def _new_answer(run: RunDirectory, step: str, query: str) -> Example:
    from nivesh_lib.records.run import Example
    from nivesh_lib.serving.predictor import Predictor, as_line

    (answer,) = Predictor.from_directory(run.model(step)).predict([query])
    return Example(query=query, answer=as_line(answer), step=step)


def _print_board(board: list[LeaderboardEntry]) -> None:
    from nivesh_lib.runs.comparison import score_title
    from nivesh_lib.runs.leaderboard import score_names

    if not board:
        return
    wide = max([len(entry.model) for entry in board] + [11]) + 1
    names = score_names(entry.scores for entry in board)
    titles = "".join(f"{f'{score_title(name)} [95 %]':<26}" for name in names)
    echo("", f"  {'model':<{wide}}{titles}{'p95':>9}{'size':>10}")
    for entry in board:
        scores = "".join(f"{entry.scores.get(name, '-')!s:<26}" for name in names)
        time, size = milliseconds(entry.p95_ms, "-"), human_bytes(entry.size_bytes)
        echo(f"  {entry.model:<{wide}}{scores}{time:>9}{size:>10}")


def _example(ref: str, results: Results) -> str:
    """Return a query to try: the assistant's own, or for other data one of its anonymised rows."""
    if ref.startswith("intents@"):
        return EXAMPLE_QUERY
    validated = results.get("01_data_validation")
    return ((validated.example_query if validated else "") or EXAMPLE_QUERY)[:120]


app.command()(compare)
app.command()(predict)
app.command()(release)
app.command()(promote)
app.command()(rollback)
app.command()(history)
app.command()(card)
app.command()(archive)
app.command()(drift)
app.command()(reproduce)
app.command()(serve)
app.command()(status)
app.command()(doctor)


@app.command()
def prune(
    keep: Annotated[int, typer.Option(help="Newest runs to keep.")] = 5,
) -> None:
    """Remove old runs, with what MLflow keeps of them; the last good run always stays.

    Runs with a registered model stay in MLflow, and so do those whose steps a kept run uses.

    Example: nivesh prune --keep 3
    """
    from nivesh_lib.pipeline.pruning import prune as remove

    gone = remove(keep)
    named = f": {', '.join(gone.runs)}" if gone.runs else ""
    echo(f"removed {len(gone.runs)} runs, freed {human_bytes(gone.bytes)}{named}")
