"""The commands ``nivesh data …``: list, show, validate, review, add, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nivesh_lib.cli.options import Delimiter, Json, Label, Ref, Text, echo, echo_json
from nivesh_lib.paths import data_dir, feedback_file, relative, reports_dir

if TYPE_CHECKING:
    from nivesh_lib.data.importing import ImportRequest

SHOWN = 20  # relabelled rows that `diff` prints
SHOWN_FACTS = (
    *("ref", "description", "created", "parent", "transformation", "licence", "sources"),
    *("path", "sha256"),
)


def list_(as_json: Json = False) -> None:
    """List every dataset version.

    Example: nivesh data list
    """
    from nivesh_lib.data.versions import list_versions

    found = [version.facts() for version in list_versions()]
    if as_json:
        return echo_json(found)
    if not found:
        echo(f"No dataset in {data_dir()}; add one: nivesh data add NAME FILE --version 1.0.0")
    for facts in found:
        echo(
            f"{facts['ref']:<24} {facts['rows']:>7,} rows  {facts['held_out']:>6,} held out  "
            f"{len(facts['labels']):>3} labels  {facts['created']}  {facts['description']}"
        )


def show(ref: Ref, as_json: Json = False) -> None:
    """Show a version: counts, labels and a few anonymised training queries.

    Example: nivesh data show intents@1.1.0
    """
    from nivesh_lib.data.versions import load_dataset

    data = load_dataset(ref)
    facts = data.version.facts() | {"examples": data.examples()}
    if as_json:
        return echo_json(facts)
    for key in SHOWN_FACTS:
        echo(f"{key:<15} {facts[key]}")
    folds = ", ".join(f"{n:,}" for n in facts["folds"])
    echo(
        f"{'rows':<15} {facts['rows']:,}: {len(data.train):,} training (folds of {folds}), "
        f"{facts['held_out']:,} held out"
    )
    doubles = facts["cross_split_duplicates"]
    echo(f"{'duplicates':<15} across the split: {doubles['exact']} exact, {doubles['near']} near")
    echo("", f"{'label':<48}{'training':>9}{'held out':>10}")
    for name in facts["labels"]:
        train, held = (facts["label_counts"][side].get(name, 0) for side in ("train", "holdout"))
        echo(f"{name:<48}{train:>9,}{held:>10,}")
    echo("", "Training queries, personal data masked:")
    for example in facts["examples"]:
        echo(f"  {example['label']}: {example['query']}")


def validate(
    data: Annotated[str, typer.Argument(metavar="REF_OR_FILE", help="NAME@VERSION or a file.")],
    text: Text = "query",
    label: Label = "intent",
    delimiter: Delimiter = None,
    reference: Annotated[
        str | None, typer.Option(help="Earlier data (REF or file), to notice a shift.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check whether data is fit to train on, and free of leaks; exit code 1 where it is not.

    Example: nivesh data validate queries.csv --text text --label category
    """
    from nivesh_lib.data.validation import validate_intent_data

    result = validate_intent_data(
        data, reference=reference, text=text, label=label, delimiter=delimiter, leaks=True
    )
    if as_json:
        echo_json(result)
    else:
        for issue in result["issues"]:
            echo(f"- {issue}")
        for warning in result["warnings"]:
            echo(f"- warning: {warning}")
        stats = result["stats"]
        echo(
            f"{data}: {'valid' if result['valid'] else 'not valid'}; {stats['rows']:,} rows, "
            f"{len(stats['label_distribution'])} labels, "
            f"{stats['avg_query_length']:.1f} words a query"
        )
    if not result["valid"]:
        raise typer.Exit(1)


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
        echo(f"{data.ref}: {step} doubts no label; there is nothing to review")
    else:
        echo(
            f"{relative(path)}: {len(shown)} of {len(doubted)} rows of {data.ref} whose label "
            f"{step} doubts.",
            "Fill in decision (keep, relabel, drop), new_label, note, reviewer; "
            f"then: nivesh data add {data.name} --review {relative(path)} --extends {data.ref} "
            f"--version {next_patch(data.version.version)}",
        )


def add(
    name: Annotated[str, typer.Argument(help="The dataset: small letters, digits, - and _.")],
    version: Annotated[str, typer.Option(help="Newer than what it extends; 0.x.y is a draft.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="CSV, JSON, JSON Lines or Parquet; not with --review alone."),
    ] = None,
    text: Text = "query",
    label: Label = "intent",
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="SRC=DST: the file's column for income_segment …"),
    ] = None,
    extends: Annotated[
        str | None, typer.Option(help="The version that the rows are added to.")
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(help="A test file; else 20 % is held out.")
    ] = None,
    reviewed: Annotated[
        Path | None,
        typer.Option("--review", help="What `nivesh data review` wrote and a person filled in."),
    ] = None,
    feedback: Annotated[
        bool,
        typer.Option("--feedback", help="FILE, or the servers' own, holds corrections to review."),
    ] = False,
    description: Annotated[str, typer.Option(help="One sentence for the manifest.")] = "",
    licence: Annotated[str, typer.Option(help="The data's licence.")] = "",
    source: Annotated[
        list[str] | None, typer.Option(help="Where rows come from; repeatable.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="The labels in id order: a,b,c")] = None,
    delimiter: Delimiter = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Keep the first of repeated rows.")
    ] = False,
    keep_rare: Annotated[
        bool, typer.Option("--keep-rare", help="Keep labels with one row, for training only.")
    ] = False,
    store: Annotated[
        str | None, typer.Option(help="URL to put the rows at: s3://bucket/folder")
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish labelled texts, or a reviewed version, as a version of a dataset.

    With --feedback it writes the users' corrections that are new for a person to decide on, and
    with --review too it publishes the accepted ones, for training only.

    Example: nivesh data add banking77 train.csv --text text --label category
    --holdout test.csv --version 1.0.0

    Example: nivesh data add mine --review review.csv --extends mine@1.0.0 --version 1.0.1

    Example: nivesh data add mine --feedback --extends mine@1.0.1 --version 1.1.0
    """
    from nivesh_lib.data.importing import ImportRequest
    from nivesh_lib.data.publishing import publish_import

    if file is None and reviewed is None and not feedback:
        raise typer.BadParameter("name a FILE of rows, or a reviewed file with --review")
    if feedback and extends is None:
        raise typer.BadParameter("--feedback needs --extends NAME@VERSION, what is added to")
    if reviewed is not None and extends is None:
        raise typer.BadParameter("--review needs --extends NAME@VERSION, what was reviewed")
    if holdout is not None and (file is None or feedback):
        raise typer.BadParameter("--holdout needs a FILE of training rows")
    if store and "://" not in store:
        raise typer.BadParameter(f"--store {store}: write a URL such as s3://bucket/folder")
    request = ImportRequest(
        name,
        version,
        file=None if feedback else file,
        feedback=(file or feedback_file()) if feedback else None,
        holdout=holdout,
        review=reviewed,
        parent=extends,
        text=text,
        label=label,
        columns=_columns(map_ or []),
        delimiter=delimiter,
        labels=[part.strip() for part in labels.split(",")] if labels else None,
        drop_duplicates=drop_duplicates,
        keep_rare=keep_rare,
        description=description,
        licence=licence,
        sources=source or [],
        store=store,
    )
    if request.feedback and reviewed is None:
        return _review_corrections(request, request.feedback, as_json)
    facts = publish_import(request, report=lambda line: echo(line, err=True)).facts()
    if as_json:
        return echo_json(facts)
    if reviewed is not None:
        echo(f"{reviewed}: {facts['transformation'].rpartition('; ')[2]}")
    echo(
        f"{facts['ref']}: {facts['rows']:,} rows, {facts['held_out']:,} of them held out, "
        f"{len(facts['labels'])} labels. Next: nivesh run --dataset {facts['ref']}"
    )


def _review_corrections(request: ImportRequest, file: Path, as_json: bool) -> None:
    """Write corrections into a CSV for a person to fill in."""
    from nivesh_lib.data.publishing import corrections
    from nivesh_lib.data.review import write_review

    rows, left_out, _ = corrections(request, file, lambda line: echo(line, err=True))
    ref = request.parent_ref
    path = reports_dir() / "reviews" / f"{ref}.corrections.csv"
    write_review(path, rows.rename(columns={"intent": "label", "predicted": "suggested"}))
    if as_json:
        counts = {"rows": len(rows), "left_out": {why: len(n) for why, n in left_out.items()}}
        return echo_json({"dataset": ref, "feedback": str(file), "file": str(path), **counts})
    echo(
        f"{relative(path)}: {len(rows)} rows; label is the user's, suggested what was answered.",
        "Fill in decision (keep, relabel, drop), new_label, note, reviewer; then: nivesh data add "
        f"{request.name} {relative(file)} --feedback --review {relative(path)} --extends {ref} "
        f"--version {request.version}",
    )


def diff(old: Ref, new: Ref, as_json: Json = False) -> None:
    """Compare two versions: rows added, removed, relabelled; labels; query length.

    Example: nivesh data diff intents@1.0.0 intents@1.1.0
    """
    from nivesh_lib.data.validation import compare_versions
    from nivesh_lib.data.versions import load_dataset

    facts = compare_versions(load_dataset(old), load_dataset(new))
    if as_json:
        return echo_json(facts)
    echo(
        f"{facts['old']} -> {facts['new']}: {facts['added']:,} rows added, "
        f"{facts['removed']:,} removed; of the training rows {len(facts['relabelled']):,} "
        f"relabelled, {len(facts['reworded']):,} reworded"
    )
    for row in facts["relabelled"][:SHOWN]:
        echo(f"  {row['id']}: {row['from']} -> {row['to']}: {row['query']}")
    if len(facts["relabelled"]) > SHOWN:
        echo(f"  and {len(facts['relabelled']) - SHOWN:,} more; --json prints all")
    shift = facts["length_shift"]
    echo(f"query length in training: KS {shift['statistic']:.2f}, p {shift['p']:.2g}")
    echo("", f"{'label':<48}{'old':>8}{'new':>8}")
    for name, (before, after) in facts["labels"].items():
        echo(f"{name:<48}{before:>8,}{after:>8,}")


def _columns(pairs: list[str]) -> dict[str, str]:
    """Return source column -> canonical column of ``--map``."""
    columns: dict[str, str] = {}
    for pair in pairs:
        source, _, target = pair.partition("=")
        if not (source and target):
            raise typer.BadParameter("write --map SRC=DST, such as --map segment=income_segment")
        if source in columns:
            raise typer.BadParameter(f"--map names {source} twice; give each column one meaning")
        columns[source] = target
    return columns
