"""The command line. Every command imports what it needs when it is called."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from nivesh_lib import __version__
from nivesh_lib.cli.compare import compare
from nivesh_lib.cli.data import add, diff, list_, show, validate
from nivesh_lib.cli.predict import answers, as_line, predict
from nivesh_lib.cli.release import release
from nivesh_lib.cli.review import review

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
    read_objectives(name)  # a wrong mark is told before anything starts
    record, folder = run_pipeline(
        profile=profile,
        dataset=dataset,
        only=only or [],
        settings=set_ or [],
        executor=executor,
        jobs=jobs,
        force=force,
        dry_run=dry_run,
        report=lambda line: typer.echo(line, err=as_json),
    )
    if record is None or folder is None:
        return
    if as_json:
        typer.echo(json.dumps(record.__dict__, ensure_ascii=False, indent=1))
    else:
        _summary(folder, record)
    raise_for_failures(record, folder)


def _summary(folder: Path, record: Any) -> None:
    """Print leaderboard, verdict and the three next steps."""
    from nivesh_lib import paths
    from nivesh_lib.reporting.site import answer, human_bytes, leaderboard, read_results

    results = read_results(folder)
    board = leaderboard(results)
    wide = max([len(m["model"]) for m in board] + [11]) + 1
    if board:
        typer.echo(
            f"\n  {'model':<{wide}}{'macro-F1 [95 %]':<26}{'accuracy [95 %]':<26}"
            f"{'p95':>9}{'size':>10}"
        )
    for m in board:
        f1, accuracy = (
            f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]" for e in (m["f1"], m["accuracy"])
        )
        p95 = f"{m['p95']:.1f} ms" if m["p95"] is not None else "-"
        typer.echo(
            f"  {m['model']:<{wide}}{f1:<26}{accuracy:<26}{p95:>9}{human_bytes(m['bytes']):>10}"
        )
    typer.echo("")
    for sentence in answer(results):
        typer.echo(f"  {sentence}")
    shown = paths.latest_run() if record.complete else folder
    typer.echo("\nNext:")
    typer.echo(f"  report    {paths.relative(shown / 'index.html')}")
    typer.echo("  MLflow    make ui   (then http://127.0.0.1:5000)")
    if board and (folder / "models" / board[0]["step"]).is_dir():
        model = paths.relative(shown / "models" / board[0]["step"])
        query = _example(record.dataset["ref"], results)
        typer.echo(f"  predict   .venv/bin/nivesh predict {shlex.quote(query)} --model {model}")
        (answered,) = answers([query], folder / "models" / board[0]["step"])
        typer.echo(f"            {as_line(answered)}")


def _example(ref: str, results: dict[str, Any]) -> str:
    """Return a query to try: the assistant's own, or for other data one of its anonymised rows."""
    if ref.startswith("intents@"):
        return EXAMPLE_QUERY
    return str(results.get("01_data_validation", {}).get("example_query", EXAMPLE_QUERY))[:120]


app.command()(compare)
app.command()(predict)
app.command()(release)


@app.command()
def prune(
    keep: Annotated[int, typer.Option(help="Newest runs to keep.")] = 5,
) -> None:
    """Remove old run directories; the last good one always stays.

    Example: nivesh prune --keep 3
    """
    from nivesh_lib.pipeline.run import prune as remove

    gone = remove(keep)
    typer.echo(f"removed {len(gone)} runs" + (f": {', '.join(gone)}" if gone else ""))
