"""The commands ``nivesh data …``: list, show, validate, review, add, diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nivesh_lib.cli.options import Delimiter, Json
from nivesh_lib.cli.review import review

if TYPE_CHECKING:
    import pandas as pd

    from nivesh_lib.data.review import Decision
    from nivesh_lib.data.versions import Dataset, DataVersion

SHOWN = 20  # relabelled rows that `diff` prints

data_app = typer.Typer(
    help="Versioned datasets: list, show, validate, review, add, diff.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Text = Annotated[str, typer.Option(help="The file's column of texts.")]
Label = Annotated[str, typer.Option(help="The file's column of labels.")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="NAME@VERSION, or NAME for the newest.")]


@data_app.command("list")
def list_(as_json: Json = False) -> None:
    """List every dataset version.

    Example: nivesh data list
    """
    from nivesh_lib.data.versions import list_versions
    from nivesh_lib.paths import data_dir

    found = [_summary(version) for version in list_versions()]
    if as_json:
        return _echo_json(found)
    if not found:
        typer.echo(
            f"No dataset in {data_dir()}; add one: nivesh data add NAME FILE --version 1.0.0"
        )
    for facts in found:
        typer.echo(
            f"{facts['ref']:<24} {facts['rows']:>7,} rows  {facts['held_out']:>6,} held out  "
            f"{len(facts['labels']):>3} labels  {facts['created']}  {facts['description']}"
        )


@data_app.command()
def show(ref: Ref, as_json: Json = False) -> None:
    """Show a version: counts, labels and a few anonymised training queries.

    Example: nivesh data show intents@1.1.0
    """
    from nivesh_lib.data.versions import load_dataset
    from nivesh_lib.privacy import anonymize_query

    data = load_dataset(ref)
    label = data.version.label_column
    firsts = data.train.drop_duplicates(label).head(5)
    examples = [
        {"label": name, "query": anonymize_query(query)}
        for name, query in zip(firsts[label], firsts["query"], strict=True)
    ]
    facts = _summary(data.version) | {"examples": examples}
    if as_json:
        return _echo_json(facts)
    for key in ("ref", "description", "created", "parent", "transformation", "licence", "sources"):
        typer.echo(f"{key:<15} {facts[key]}")
    for key in ("path", "sha256"):
        typer.echo(f"{key:<15} {facts[key]}")
    folds = ", ".join(f"{n:,}" for n in facts["folds"])
    typer.echo(
        f"{'rows':<15} {facts['rows']:,}: {len(data.train):,} training (folds of {folds}), "
        f"{facts['held_out']:,} held out"
    )
    doubles = facts["cross_split_duplicates"]
    typer.echo(
        f"{'duplicates':<15} across the split: {doubles['exact']} exact, {doubles['near']} near"
    )
    typer.echo(f"\n{'label':<48}{'training':>9}{'held out':>10}")
    counts = facts["label_counts"]
    for name in facts["labels"]:
        typer.echo(
            f"{name:<48}{counts['train'].get(name, 0):>9,}{counts['holdout'].get(name, 0):>10,}"
        )
    typer.echo("\nTraining queries, personal data masked:")
    for example in examples:
        typer.echo(f"  {example['label']}: {example['query']}")


@data_app.command()
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
    from nivesh_lib.data.validation import as_frame, validate_intent_data

    frame, labels = as_frame(data, text, label, delimiter)
    earlier = None if reference is None else as_frame(reference, text, label, delimiter)[0]
    result = validate_intent_data(frame, reference=earlier, labels=labels)
    _add_leaks(result, frame, ref=data if labels else None)
    if as_json:
        _echo_json(result)
    else:
        for issue in result["issues"]:
            typer.echo(f"- {issue}")
        for warning in result["warnings"]:
            typer.echo(f"- warning: {warning}")
        stats = result["stats"]
        typer.echo(
            f"{data}: {'valid' if result['valid'] else 'not valid'}; {stats['rows']:,} rows, "
            f"{len(stats['label_distribution'])} labels, "
            f"{stats['avg_query_length']:.1f} words a query"
        )
    if not result["valid"]:
        raise typer.Exit(1)


data_app.command()(review)


@data_app.command()
def add(
    name: Annotated[str, typer.Argument(help="The dataset: small letters, digits, - and _.")],
    version: Annotated[str, typer.Option(help="Newer than what it extends; 0.x.y is a draft.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="CSV, JSON, JSON Lines or Parquet; not needed with --review."),
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
    store: Annotated[
        str | None, typer.Option(help="URL to put the rows at: s3://bucket/folder")
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish labelled texts, or a reviewed version, as a version of a dataset.

    Example: nivesh data add banking77 train.csv --text text --label category
    --holdout test.csv --version 1.0.0

    Example: nivesh data add mine --review review.csv --extends mine@1.0.0 --version 1.0.1
    """
    import functools
    import warnings

    from nivesh_lib.data.importing import read_rows
    from nivesh_lib.data.publishing import publish

    _check_call(file, holdout, reviewed, extends, store)
    taxonomy = [part.strip() for part in labels.split(",")] if labels else None
    rows = held = None
    if file is not None:
        read = functools.partial(
            read_rows,
            text=text,
            label=label,
            columns=_columns(map_ or []),
            delimiter=delimiter,
            keep_duplicates=drop_duplicates,
        )
        allowed = taxonomy or _parent_labels(name, extends, version)
        rows = read(file, labels=allowed, whole=extends is None)
        _refuse_reserved(set(rows["intent"]), file)
        if holdout:
            held = read(holdout, labels=allowed or sorted(set(rows["intent"])), whole=False)
        if drop_duplicates:
            rows = _without_repeats(rows, name, extends)
            held = None if held is None else _without_repeats(held, name, None)
        _warn_of_issues(rows, whole=extends is None)
    decisions: list[Decision] = []
    defaults = {"description": f"Imported from {file.name if file else ''}", "licence": ""}
    sources = [file.name] if file else []
    if reviewed is not None:
        decisions, parent = _decisions(reviewed, name, extends or "", taxonomy, delimiter)
        sources = list(dict.fromkeys(parent.manifest["sources"] + sources))
        defaults = {
            "description": f"{parent.ref} as reviewed in {reviewed.name}",
            "licence": parent.manifest["licence"],
        }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        published = publish(
            rows,
            name,
            version,
            description=description or defaults["description"],
            labels=taxonomy,
            parent=extends,
            holdout_rows=held,
            review=decisions,
            sources=source or sources,
            licence=licence or defaults["licence"],
            store=store,
        )
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)
    facts = _summary(published)
    if not facts["held_out"]:
        typer.echo("warning: too few rows to hold any out; nothing can judge a release", err=True)
    if as_json:
        return _echo_json(facts)
    if decisions:
        typer.echo(f"{reviewed}: {facts['transformation'].rpartition('; ')[2]}")
    typer.echo(
        f"{facts['ref']}: {facts['rows']:,} rows, {facts['held_out']:,} of them held out, "
        f"{len(facts['labels'])} labels. Next: nivesh run --dataset {facts['ref']}"
    )


@data_app.command()
def diff(old: Ref, new: Ref, as_json: Json = False) -> None:
    """Compare two versions: rows added, removed, relabelled; labels; query length.

    Example: nivesh data diff intents@1.0.0 intents@1.1.0
    """
    from nivesh_lib.data.versions import load_dataset

    facts = _differences(load_dataset(old), load_dataset(new))
    if as_json:
        return _echo_json(facts)
    typer.echo(
        f"{facts['old']} -> {facts['new']}: {facts['added']:,} rows added, "
        f"{facts['removed']:,} removed; of the training rows {len(facts['relabelled']):,} "
        f"relabelled, {len(facts['reworded']):,} reworded"
    )
    for row in facts["relabelled"][:SHOWN]:
        typer.echo(f"  {row['id']}: {row['from']} -> {row['to']}: {row['query']}")
    if len(facts["relabelled"]) > SHOWN:
        typer.echo(f"  and {len(facts['relabelled']) - SHOWN:,} more; --json prints all")
    shift = facts["length_shift"]
    typer.echo(f"query length in training: KS {shift['statistic']:.2f}, p {shift['p']:.2g}")
    typer.echo(f"\n{'label':<48}{'old':>8}{'new':>8}")
    for name, (before, after) in facts["labels"].items():
        typer.echo(f"{name:<48}{before:>8,}{after:>8,}")


def _differences(a: Dataset, b: Dataset) -> dict[str, Any]:
    """Compare by id; of held-out rows only ids and counts are looked at."""
    from nivesh_lib.data.validation import length_shift
    from nivesh_lib.privacy import anonymize_query

    old, new = (data.train.rename(columns={data.version.label_column: "label"}) for data in (a, b))
    old_ids, new_ids = {*old["id"], *a.manifest["holdout"]}, {*new["id"], *b.manifest["holdout"]}
    both = old.merge(new, on="id", suffixes=("", "_new"))
    relabelled = both[both["label"] != both["label_new"]]
    statistic, p = length_shift(new, old)
    return {
        "old": a.ref,
        "new": b.ref,
        "added": len(new_ids - old_ids),
        "removed": len(old_ids - new_ids),
        "relabelled": [
            {"id": row, "from": before, "to": after, "query": anonymize_query(query)}
            for row, before, after, query in relabelled[
                ["id", "label", "label_new", "query_new"]
            ].itertuples(index=False)
        ],
        "reworded": both["id"][both["query"] != both["query_new"]].tolist(),
        "labels": {
            name: [_count(data.version, name) for data in (a, b)]
            for name in dict.fromkeys(a.labels + b.labels)
        },
        "length_shift": {"statistic": statistic, "p": p},
    }


def _add_leaks(result: dict[str, Any], frame: pd.DataFrame, *, ref: str | None) -> None:
    """Add what leaks to the issues and warnings; of a version, its folds and split too."""
    from nivesh_lib.data.leakage import find_leaks
    from nivesh_lib.data.splits import mask_amounts, near_duplicate_pairs
    from nivesh_lib.data.versions import resolve

    if ref is None:
        leaks = find_leaks(frame)
    else:
        manifest = resolve(ref).manifest
        leaks = find_leaks(
            frame,
            pairs=near_duplicate_pairs([mask_amounts(text) for text in frame["query"]]),
            held_ids=manifest["holdout"],
            recorded=manifest["cross_split_duplicates"],
        )
    result["issues"] += [leak.message for leak in leaks if leak.severity == "error"]
    result["warnings"] += [leak.message for leak in leaks if leak.severity == "warning"]
    result["valid"] = not result["issues"]


def _check_call(
    file: Path | None,
    holdout: Path | None,
    reviewed: Path | None,
    extends: str | None,
    store: str | None,
) -> None:
    if file is None and reviewed is None:
        raise typer.BadParameter("name a FILE of rows, or a reviewed file with --review")
    if reviewed is not None and extends is None:
        raise typer.BadParameter("--review needs --extends NAME@VERSION, what was reviewed")
    if holdout is not None and file is None:
        raise typer.BadParameter("--holdout needs a FILE of training rows")
    if store and "://" not in store:
        raise typer.BadParameter(f"--store {store}: write a URL such as s3://bucket/folder")


def _warn_of_issues(rows: pd.DataFrame, *, whole: bool) -> None:
    from nivesh_lib.data.validation import check_balance, check_personal_data

    for issue in check_personal_data(rows) + (check_balance(rows) if whole else []):
        typer.echo(f"warning: {issue.message}", err=True)


def _decisions(
    path: Path, name: str, extends: str, labels: list[str] | None, delimiter: str | None
) -> tuple[list[Decision], DataVersion]:
    from nivesh_lib.data.review import read_review
    from nivesh_lib.data.versions import load_dataset

    parent = load_dataset(extends if "@" in extends else f"{name}@{extends}")
    decisions = read_review(path, parent, labels=labels, delimiter=delimiter)
    _refuse_reserved({decision.new_label for decision in decisions}, path)
    return decisions, parent.version


def _summary(version: DataVersion) -> dict[str, Any]:
    """Return what may be shown of a version: no ids of held-out rows, no texts."""
    manifest = version.manifest
    hidden = ("holdout", "folds", "manifest_sha256", "name", "version")
    return {
        "ref": version.ref,
        **{key: value for key, value in manifest.items() if key not in hidden},
        "held_out": len(manifest["holdout"]),
        "folds": [len(fold) for fold in manifest["folds"]],
    }


def _count(version: DataVersion, label: str) -> int:
    return sum(side.get(label, 0) for side in version.manifest["label_counts"].values())


def _refuse_reserved(labels: set[str], file: Path) -> None:
    """Out-of-fold tables have a column for each label, beside these two."""
    from nivesh_lib.errors import DataError

    for name in sorted(labels & {"id", "fold"}):
        raise DataError(
            f"{file}: a label cannot be called {name!r}; rename it, such as {name}_label."
        )


def _columns(pairs: list[str]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    if any(not (source and target) for source, _, target in split):
        raise typer.BadParameter("write --map SRC=DST, such as --map segment=income_segment")
    columns = {source: target for source, _, target in split}
    if len(columns) < len(split):
        twice = next(source for source in columns if [s for s, _, _ in split].count(source) > 1)
        raise typer.BadParameter(f"--map names {twice} twice; give each column one meaning")
    return columns


def _parent_labels(name: str, extends: str | None, version: str) -> tuple[str, ...] | None:
    """Return the labels that additions must keep to; a new MAJOR number may bring others."""
    from nivesh_lib.data.versions import resolve

    if extends is None:
        return None
    parent = resolve(extends if "@" in extends else f"{name}@{extends}")
    same_major = parent.version.split(".")[0] == version.removeprefix("v").split(".")[0]
    return parent.labels if same_major else None


def _without_repeats(rows: pd.DataFrame, name: str, extends: str | None) -> pd.DataFrame:
    """Drop rows that repeat another one of the file, or of the parent's training side."""
    from nivesh_lib.data.importing import drop_duplicates
    from nivesh_lib.data.versions import load_dataset

    rows, dropped = drop_duplicates(rows)
    if extends is not None:
        known = load_dataset(extends if "@" in extends else f"{name}@{extends}").train["query"]
        there = rows["query"].isin(known)
        rows, dropped = rows[~there], dropped + int(there.sum())
    typer.echo(f"{dropped} repeated rows dropped", err=True)
    return rows


def _echo_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))
