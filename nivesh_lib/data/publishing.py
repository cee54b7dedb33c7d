"""Publishing a dataset version: checks, split, folder; all of it or nothing."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from nivesh_lib.data.corrections import SOURCE, accept, read_corrections
from nivesh_lib.data.importing import ImportRequest, import_files
from nivesh_lib.data.remote import upload
from nivesh_lib.data.review import Decision, changes_of, read_review, revise, summary
from nivesh_lib.data.schema import (
    LABELS,
    OPTIONAL,
    check_reserved,
    is_iso_date,
    normalise,
    personal_cells,
    schema_failures,
)
from nivesh_lib.data.split_assignment import (
    WORKING,
    assign_split,
    check_conflicts,
    joined,
    make_ids,
    new_rows,
)
from nivesh_lib.data.splits import MIN_CLASS, NEAR, hard_rows, mask_amounts, near_duplicate_pairs
from nivesh_lib.data.validation import Measures, check_balance, check_personal_data
from nivesh_lib.data.versions import (
    DataVersion,
    Manifest,
    _read_sides,
    full_ref,
    is_draft,
    label_column,
    load_dataset,
    manifest_sha256,
    parse_ref,
    read_manifest,
    resolve,
    version_key,
    versions_of,
)
from nivesh_lib.errors import DataError
from nivesh_lib.files import locked_folder, restore_folders, write_errors, write_folder
from nivesh_lib.paths import data_dir
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.terminal import listed

SHOWN = 20  # numbers of lines in one message


def publish(
    rows: pd.DataFrame | None,
    name: str,
    version: str,
    *,
    description: str,
    labels: Sequence[str] | None = None,
    parent: str | None = None,
    holdout_rows: pd.DataFrame | None = None,
    review: Sequence[Decision] = (),
    sources: Sequence[str] = (),
    licence: str = "",
    task: str = "intent_classification",
    created: str | None = None,
    seed: int = 42,
    store: str | None = None,
) -> DataVersion:
    """Write a new version, whole or not at all, and return it.

    Other labels require a new MAJOR number, otherwise any newer number is accepted; by
    convention, added rows raise MINOR and corrected ones PATCH.

    Parameters
    ----------
    rows
        Columns ``query`` and ``intent``, optionally ``id`` and those of ``schema.OPTIONAL``.
        With ``parent``, only what is new; None where a review is all there is.
    labels
        Labels in id order, each with a training row; by default those of the parent or the newest
        version, then new ones.
    parent
        The version to extend: its rows keep id, side and fold. A new row that near-duplicates
        one on the other side is refused; one near a training row joins its fold.
    holdout_rows
        Exactly these new rows are held out. Without them 20 % of the new rows are chosen.
    review
        The decisions of a person on training rows of the parent (``data.review``), and on
        corrections, of which ``rows`` has the accepted ones. The parent stays as it is; the new
        version's manifest lists every change.
    created
        ISO date; today by default.
    store
        URL below which the data file goes (``s3://bucket/nivesh``); the manifest stays here.

    Raises
    ------
    DataError
        The rows, labels or the version number cannot be published; nothing was written.
    """
    name, version = _parsed(f"{name}@{version}")
    created = created or datetime.now(UTC).date().isoformat()
    if not is_iso_date(created):
        raise DataError(f"created {created!r} is no ISO date; write 2026-01-25.")
    with locked_folder(data_dir()):
        restore_folders(data_dir() / name)
        base = _check_version(name, version, parent)
        task = str(base.manifest["task"]) if base else task
        new = _new_rows(rows, holdout_rows, task, reviewed=bool(review))
        if base is None and review:
            raise DataError("A review changes the rows of a version; name it as the parent.")
        frame = joined(revise(_read_sides(base), review) if base else None, new)
        frame["id"] = make_ids(frame, name)
        ordered = _ordered_labels(name, version, base, frame["intent"], labels)
        _check_rows(frame, ordered)
        # In an out-of-scope set, labels without a training row are the point.
        needed = None if task == "out_of_scope" else ordered
        duplicates = assign_split(frame, _earlier_sides(name, version), needed, seed)
        manifest: Manifest = {
            "name": name,
            "version": version,
            "task": task,
            "labels": ordered,
            "description": description,
            "created": created,
            "schema_version": "1.0",
            "licence": licence,
            "sources": list(sources),
            "parent": base.version if base else None,
            "transformation": _transformation(base, new, review, holdout_rows is not None, seed),
        }
        if base and review:
            manifest["changes"] = changes_of(review, column=base.label_column, when=created)
        manifest |= _split_facts(frame) | {"cross_split_duplicates": duplicates}
        published = _write(frame.drop(columns=list(WORKING)), manifest, store)
    _warn_of_duplicates(published)
    return published


def publish_import(request: ImportRequest, report: Callable[[str], None]) -> DataVersion:
    """Read the files of a request, publish them as a new version and return it.

    ``report`` is called with one line for each warning, and for each file of which repeated
    rows were dropped.
    """
    rows = holdout_rows = None
    description, licence, sources = "", "", []
    decisions: list[Decision] = []
    if request.feedback is not None:
        rows, _, decisions = corrections(request, request.feedback, report)
        sources = [SOURCE]
    elif request.file is not None:
        rows, holdout_rows = import_files(request.file, request, report)
        measures = Measures(rows)
        balance = [] if request.parent else check_balance(measures)
        for issue in check_personal_data(measures) + balance:
            report(f"warning: {issue.message}")
        description, sources = f"Imported from {request.file.name}", [request.file.name]
    if request.review is not None:
        parent = load_dataset(request.parent_ref or request.name)
        decisions = decisions or read_review(
            request.review, parent, labels=request.labels, delimiter=request.delimiter
        )
        description = f"{parent.ref} as reviewed in {request.review.name}"
        licence = parent.manifest["licence"]
        sources = list(dict.fromkeys(parent.manifest["sources"] + sources))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        published = publish(
            rows,
            request.name,
            request.version,
            description=request.description or description,
            labels=request.labels,
            parent=request.parent,
            holdout_rows=holdout_rows,
            review=decisions,
            sources=request.sources or sources,
            licence=request.licence or licence,
            store=request.store,
        )
    for warning in caught:
        report(f"warning: {warning.message}")
    if request.keep_rare:
        report(_rare_labels(published))
    if not published.manifest["holdout"]:
        report("warning: too few rows to hold any out; nothing can judge a release")
    return published


def corrections(
    request: ImportRequest, file: Path, report: Callable[[str], None]
) -> tuple[pd.DataFrame, dict[str, list[int]], list[Decision]]:
    """Return what a file of corrections has to add to the parent of a request.

    Parameters
    ----------
    report
        Is called with one line for each reason to leave lines out.

    Returns
    -------
    tuple
        The corrections to decide on or, with a review, the accepted ones; the numbers of the lines
        left out, by the reason, ``present`` among them; and the decisions.

    Raises
    ------
    DataError
        There is nothing to add, or file, review or version number are refused.
    """
    _check_version(*_parsed(f"{request.name}@{request.version}"), request.parent)
    data = load_dataset(request.parent_ref or request.name)
    rows, left_out = read_corrections(file, data.version, decided=request.review is not None)
    decisions: list[Decision] = []
    if request.review is not None:
        about = replace(data, train=rows.rename(columns={"intent": data.version.label_column}))
        decisions = read_review(
            request.review, about, labels=request.labels, delimiter=request.delimiter
        )
        rows, decisions = accept(rows, decisions, request.review)
    new = _unseen(rows, data.version)
    left_out["present"] = (rows.index.difference(new.index) + 1).tolist()
    for reason, lines in left_out.items():
        more = ", …" if len(lines) > SHOWN else ""
        # The lines would give away which queries are held out.
        where = "" if reason == "present" else f": line {listed(lines[:SHOWN])}{more}"
        if lines:
            report(f"{file}: {len(lines)} left out, {reason.replace('_', ' ')}{where}")
    if new.empty:
        raise DataError(f"{file} has nothing to add to {data.ref}.")
    added = set(new["id"])
    return new, left_out, [d for d in decisions if d.action == "reject" or d.id in added]


def _unseen(rows: pd.DataFrame, base: DataVersion) -> pd.DataFrame:
    """Return the corrections that no row of the dataset has, or nearly so, on either side."""
    there = _read_sides(base)["query"].tolist()
    sides = _earlier_sides(base.name, "")  # a text never changes side
    known = {key for key, were in sides.items() if "train" not in were}
    known.update(normalise(anonymize_query(query)) for query in there)
    rows = rows[~rows["key"].isin(known)]
    while len(rows):  # the cosines vary a little with the rows that are compared
        pairs = near_duplicate_pairs(map(mask_amounts, [*there, *rows["query"]]))
        near = {j - len(there) for i, j, _ in pairs if i < len(there) <= j}
        if not near:
            break
        rows = rows.drop(rows.index[sorted(near)])
    return rows


def _rare_labels(version: DataVersion) -> str:
    """Name the labels that are in training only, since they have too few rows."""
    held = version.manifest["label_counts"]["holdout"]
    counts = {label: version.count(label) for label in version.labels if not held.get(label)}
    rare = {label: n for label, n in counts.items() if n < MIN_CLASS}
    if not rare:
        return f"no label has fewer than {MIN_CLASS} rows; --keep-rare changed nothing"
    shown = listed(f"{label} ({n})" for label, n in rare.items())
    return (
        f"warning: {len(rare)} of {len(version.labels)} labels are in training only, since they "
        f"have fewer than {MIN_CLASS} rows ({sum(rare.values())} in all): {shown}. Scores leave "
        "out a label of one row: no fold can learn it from another"
    )


def _parsed(ref: str) -> tuple[str, str]:
    name, version = parse_ref(ref)
    if version is None:
        raise DataError(f"{ref!r} needs a version, such as {name}@1.0.0.")
    return name, version


def _new_rows(
    rows: pd.DataFrame | None, holdout_rows: pd.DataFrame | None, task: str, *, reviewed: bool
) -> pd.DataFrame | None:
    if rows is None and (holdout_rows is not None or not reviewed):
        raise DataError("There are no training rows to publish.")
    if rows is None:
        return None
    names = {label_column(task): "intent"}
    held = None if holdout_rows is None else holdout_rows.rename(columns=names)
    return _without_personal_data(new_rows(rows.rename(columns=names), held))


def _without_personal_data(new: pd.DataFrame) -> pd.DataFrame:
    """Return new rows with free text beside the query anonymised.

    Ids, dates and labels must stay what they are, so personal data in them is refused.
    """
    for row, column, kind in personal_cells(new, ("id", "intent", "created_at")):
        raise DataError(
            f"{new['place'].iloc[row]}: {column} holds personal data ({kind}). Rename it."
        )
    for column in OPTIONAL:
        if found := personal_cells(new, [column]):
            new[column] = new[column].map(anonymize_query, na_action="ignore")
            warnings.warn(
                f"{column} held personal data in {len(found)} new row{'s' * (len(found) > 1)}, now "
                "replaced by tags.",
                stacklevel=3,
            )
    return new


def _check_version(name: str, version: str, parent: str | None) -> DataVersion | None:
    """Return the parent, after refusing a version that exists or comes too late."""
    known = versions_of(name)
    base = None
    if parent is not None:
        parent = full_ref(name, parent)
        if _parsed(parent)[0] != name:
            there = ", ".join(known) or "no version"
            raise DataError(f"The parent {parent} is another dataset; {name} has {there}.")
        base = resolve(parent)
    if version in known and not is_draft(version):
        raise DataError(f"{name}@{version} exists and is never edited; publish the next version.")
    children = [v for v in known if resolve(f"{name}@{v}").parent == version]
    if children:
        raise DataError(f"{name}@{version} is the parent of {children[0]}; publish another draft.")
    released = [v for v in known if not is_draft(v)]
    newest = base.version if base else released[-1] if released else None
    too_old = newest is not None and version_key(version) <= version_key(newest)
    if too_old and (base is not None or not is_draft(version)):
        hint = "its parent" if base else "the newest; name a --extends version to branch from"
        raise DataError(f"{name}@{version} is not newer than {newest}, {hint}.")
    return base


def _ordered_labels(
    name: str, version: str, base: DataVersion | None, used: pd.Series, labels: Sequence[str] | None
) -> list[str]:
    """Return the labels in id order; refuse a changed set without a new MAJOR number."""
    older = [
        v for v in versions_of(name) if not is_draft(v) and version_key(v) < version_key(version)
    ]
    before = base or (resolve(f"{name}@{older[-1]}") if older else None)
    known = list(before.labels if before else LABELS)
    present = set(used.dropna())
    if labels is None:
        ordered = [label for label in known if label in present or base]
        ordered += sorted(present.difference(known))
    else:
        ordered = [label.strip() for label in labels]
        _check_given_labels(ordered, present)
    check_reserved(f"{name}@{version}", ordered)
    changes = [f"{label!r} is new" for label in ordered if label not in known]
    changes += [f"{label!r} is gone" for label in known if label not in ordered]
    if not changes and ordered != known:
        changes = ["their order differs, and with it their ids"]
    major = before is None or version_key(version)[0] > version_key(before.version)[0]
    # Kinds of out-of-scope queries are no labels that a model could have learned.
    learned = before is None or before.manifest["task"] != "out_of_scope"
    if changes and before and learned and not major and not is_draft(version):
        more = f" and {len(changes) - 8} more" if len(changes) > 8 else ""
        raise DataError(
            f"{name}@{version} changes the labels of {before.version}: {', '.join(changes[:8])}"
            f"{more}. Trained models would break: correct the rows, extend {before.version} with "
            f"--extends, or publish version {version_key(before.version)[0] + 1}.0.0."
        )
    return ordered


def _check_given_labels(ordered: list[str], present: set[str]) -> None:
    twice = [label for label, n in Counter(ordered).items() if n > 1 or not label]
    if twice:
        raise DataError(f"The labels name {twice[0]!r} twice or leave one empty.")
    unknown = sorted(present.difference(ordered))
    if unknown:
        raise DataError(
            f"The rows have {', '.join(map(repr, unknown))}, not among the labels given: "
            f"{listed(ordered)}. Correct the rows or the labels."
        )


def _check_rows(frame: pd.DataFrame, labels: Sequence[str]) -> None:
    failures = schema_failures(frame.drop(columns=list(WORKING)), labels)
    if failures:
        column, reason, row = failures[0]
        place = "" if row is None else f"{frame['place'].iloc[row] or frame['id'].iloc[row]}: "
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise DataError(f"{place}{column} {reason}{more}. Correct the rows.")
    check_conflicts(frame)


def _earlier_sides(name: str, version: str) -> dict[str, set[str]]:
    sides: dict[str, set[str]] = {}
    for other in versions_of(name):
        if other != version:
            frame = _read_sides(resolve(f"{name}@{other}"))
            for query, side in zip(frame["query"], frame["side"], strict=True):
                sides.setdefault(normalise(query), set()).add(side)
    return sides


def _transformation(
    base: DataVersion | None,
    new: pd.DataFrame | None,
    review: Sequence[Decision],
    given: bool,
    seed: int,
) -> str:
    reviewed = summary(review) if review else ""
    if new is None:
        return reviewed
    start = f"{base.rows} rows of {base.ref} and " if base else ""
    which = " that are not hard" if hard_rows(new).any() else ""
    held = "given" if given else f"20 % of the new rows{which}, stratified, seed {seed}"
    return (
        f"{start}{len(new)} new rows; holdout {held}; near-duplicates (character 3-5-gram cosine "
        f"of {NEAR} or more, amounts masked) share side and fold"
        + (f"; {reviewed}" if reviewed else "")
    )


def _split_facts(frame: pd.DataFrame) -> Manifest:
    by_side = {side: frame[frame["side"] == side] for side in ("train", "holdout")}
    return {
        "rows": len(frame),
        "label_counts": {
            side: {label: int(n) for label, n in sorted(Counter(part["intent"]).items())}
            for side, part in by_side.items()
        },
        "holdout": by_side["holdout"]["id"].tolist(),
        "folds": [part["id"].tolist() for _, part in by_side["train"].groupby("fold")],
    }


def _warn_of_duplicates(version: DataVersion) -> None:
    exact, near = version.manifest["cross_split_duplicates"].values()
    if exact or near:
        warnings.warn(
            f"{version.ref}: {exact} held-out rows are in training too and {near} nearly so; "
            "scores on this holdout are a little too good.",
            stacklevel=3,
        )


def _write(frame: pd.DataFrame, manifest: Manifest, store: str | None) -> DataVersion:
    name, folder = manifest["name"], f"v{manifest['version']}"
    rows = frame.rename(columns={"intent": label_column(manifest["task"])})
    raw = _rows_json(rows).encode()
    path = f"{store.rstrip('/')}/{name}/{folder}/{name}.json" if store else f"{name}.json"
    manifest |= {"path": path, "sha256": hashlib.sha256(raw).hexdigest()}
    manifest["manifest_sha256"] = manifest_sha256(manifest)
    try:
        files = {"manifest.json": _manifest_json(manifest).encode()}
    except UnicodeEncodeError as error:
        raise DataError(
            "The description, licence, sources or labels hold half a surrogate pair, which cannot "
            "be stored; give them as UTF-8 (a file's name can be given with --source)."
        ) from error
    if store:
        upload(path, raw, replace=is_draft(manifest["version"]))
    else:
        files[path] = raw
    target = data_dir() / name / folder
    with write_errors(target):
        write_folder(target, files)
    return read_manifest(target)


def _rows_json(rows: pd.DataFrame) -> str:
    """Return a JSON list with one row a line, missing cells left out."""
    records = (
        {key: cell for key, cell in row.items() if isinstance(cell, str)}
        for row in rows.to_dict("records")
    )
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in records) + "\n]\n"


def _manifest_json(manifest: Manifest) -> str:
    """Return JSON with one line for each key, and one for each fold and change."""
    lines = []
    for key, value in manifest.items():
        shown = json.dumps(value, ensure_ascii=False)
        if key in ("folds", "changes"):
            items = (json.dumps(item, ensure_ascii=False) for item in value)
            shown = "[\n    " + ",\n    ".join(items) + "\n  ]"
        lines.append(f"  {json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
