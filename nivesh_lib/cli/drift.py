"""The command ``nivesh drift``: whether queries of now still look like those of before."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nivesh_lib.cli.options import Delimiter, Json, Label, echo, echo_json
from nivesh_lib.errors import DataError, NoModelError
from nivesh_lib.wording import counted, percent

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from nivesh_lib.data.versions import Dataset
    from nivesh_lib.evaluation.drift import Drift
    from nivesh_lib.records.finding import Finding

DRIFT = 3  # exit code
_COLUMNS = ["id", "query", "intent", "language", "selection"]
_ENOUGH = 20  # rows of the reference that the model has not seen, to compare its answers


@dataclass
class _Compared:
    """The rows of both sides, a model's probabilities of them, and what limits the comparison."""

    before: pd.DataFrame
    now: pd.DataFrame
    proba: tuple[np.ndarray, np.ndarray] | None = None
    classes: list[str] = field(default_factory=list)
    same_model: bool = True
    caveats: list[str] = field(default_factory=list)

    def test(self) -> Drift:
        """Return what `drift_between` finds."""
        from nivesh_lib.evaluation.drift import Batch, drift_between

        batches = [
            Batch(
                rows["query"].tolist(), proba, *(rows[c].tolist() for c in ("intent", "language"))
            )
            for rows, proba in zip((self.before, self.now), self.proba or (None, None), strict=True)
        ]
        return drift_between(batches[0], batches[1], self.classes, same_model=self.same_model)

    def described(self) -> list[pd.DataFrame]:
        """Return both sides as columns for Evidently's page."""
        from nivesh_lib.reporting.drift import describe_texts

        frames = [describe_texts(rows.drop(columns="id")) for rows in (self.before, self.now)]
        for frame, proba in zip(frames, self.proba or (), strict=False):
            frame["predicted"] = [self.classes[best] for best in proba.argmax(axis=1)]
            frame["confidence"] = proba.max(axis=1)
        return frames


def drift(
    reference: Annotated[
        str,
        typer.Option(metavar="DATA|FILE", help="Queries of before: NAME@VERSION, or as --current."),
    ],
    current: Annotated[
        str,
        typer.Option(metavar="FILE", help="Queries of now: .txt, .csv, .jsonl, .json, .parquet."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model directory, models:/… or runs:/… whose answers are compared; default: the "
            "best of the last run. Without any, the input alone is."
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The files' column of texts.", show_default="query")
    ] = None,
    label: Label = "intent",
    delimiter: Delimiter = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write Evidently's page here, as HTML.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test whether queries have drifted, with 5 false alarms in 100 whatever their number.

    Compared are the model's probabilities and predicted labels, the true ones where both sides
    have them, language and length. Exit code 0: none is shown; 3: drift; 1: failure; 2: wrong
    usage. Rows with "hard" in the column selection were chosen for it: they are left out, or,
    where nothing else is there, not judged.

    Example: nivesh drift --reference intents@1.1.0 --current last_week.csv

    Example: nivesh drift --reference may.csv --current june.csv --page drift.html --json
    """
    from nivesh_lib.data.versions import load_dataset
    from nivesh_lib.evaluation.drift import HARD
    from nivesh_lib.evaluation.findings.batches import drift as finding_of
    from nivesh_lib.serving.model_source import model_at

    data = None if _is_file(reference) else load_dataset(reference)
    read = functools.partial(_file_rows, text=text, label=label, delimiter=delimiter)
    now, before = read(current), data.train if data else read(reference)
    before = before.reindex(columns=_COLUMNS)  # `kind` is no label that a model knows
    if Counter(before["query"]) == Counter(now["query"]):
        raise DataError(f"{current} holds the very queries of {reference}. Name others of now.")
    compared, hard = _natural(before, now)
    try:
        with model_at(model) as folder:
            _answer(compared, folder, data)
    except NoModelError:
        compared.caveats.append("There is no model yet, so no answers are compared.")
    if not all(rows["language"].notna().all() for rows in (compared.before, compared.now)):
        compared.caveats.append("Languages are told by Hindi words, as no column has all of them.")
    found = compared.test()
    limits = dict(zip(("noun", "limit"), HARD, strict=True)) if hard else {}
    finding = finding_of(found, caveats=compared.caveats, **limits)
    if page is not None:
        from nivesh_lib.reporting.drift import write_drift_page

        described = compared.described()
        write_drift_page(described[0], described[1], page, verdict=finding)
    drifted = finding.verdict == "not met"
    if as_json:
        sizes = {"before": found.n_before, "now": found.n_now}
        echo_json({"drift": drifted, "rows": sizes, **finding.as_dict()})
    else:
        _print(finding, page)
    raise typer.Exit(DRIFT if drifted else 0)


def _is_file(source: str) -> bool:
    from nivesh_lib.data.reading import EXTENSIONS

    return Path(source).exists() or Path(source).suffix.lower() in {".txt", *EXTENSIONS}


def _file_rows(path: str, *, text: str | None, label: str, delimiter: str | None) -> pd.DataFrame:
    import pandas as pd

    from nivesh_lib.data.reading import read_queries

    column = None if path.endswith(".txt") else text
    also = (label, "language", "selection")
    queries = read_queries(path, column, delimiter=delimiter, also=also)
    rows = pd.DataFrame([{**one.origin, "query": one.text} for one in queries], dtype=object)
    if len(rows) < 2:
        raise DataError(
            f"{path} has {'one row' if len(rows) else 'no rows'}; drift shows in many. Export more."
        )
    return rows.rename(columns={label: "intent"}).reindex(columns=_COLUMNS)


def _natural(before: pd.DataFrame, now: pd.DataFrame) -> tuple[_Compared, bool]:
    """Return the natural rows of both sides, and whether those of now are hard all the same."""
    from nivesh_lib.evaluation.drift import natural_first

    sides, caveats, hard = [], [], False
    for rows, name in ((before, "--reference"), (now, "--current")):
        kept, hard = natural_first(rows["selection"].to_numpy())
        sides.append(rows[kept].reset_index(drop=True))
        if left := int((~kept).sum()):
            other = "natural" if hard else "chosen for being hard"
            caveats.append(f"Left out of {name}: {counted(left, 'row')} {other}.")
    return _Compared(sides[0], sides[1], caveats=caveats), hard


def _answer(compared: _Compared, folder: Path, data: Dataset | None) -> None:
    """Add a model's probabilities of both sides, where they have rows that it was not trained on.

    A model is surer of rows that it has seen, which would look like drift. So these are left out
    of both sides, or, where the reference is its training data and its run is kept, those of the
    reference are answered by the models of the folds.
    """
    from nivesh_lib.models.base import load_with_card

    model, card = load_with_card(folder)
    classes, trained = [str(name) for name in model.classes_], _trained_texts(str(card["data"]))
    if trained is None:
        compared.caveats.append("Whether the model was trained on some of these rows is not known.")
    unseen = [rows[~rows["query"].isin(trained or ())] for rows in (compared.before, compared.now)]
    held = _out_of_fold(folder, data) if data and data.ref == card["data"] else None
    if held is not None:
        unseen[0] = compared.before
        compared.caveats.append(
            "The model was trained on the reference, which the models of the folds answer. They "
            "have seen fewer rows and are less sure, so how sure answers are is not compared."
        )
    if len(unseen[0]) < min(_ENOUGH, len(compared.before)) or len(unseen[1]) < 2:
        compared.caveats.append(
            "Its answers are not compared, as the model was trained on these rows and is surer of "
            "them. Name queries that it answered later as --reference."
        )
        return
    if left := len(compared.before) + len(compared.now) - sum(map(len, unseen)):
        said = f"Left out of both sides: {counted(left, 'row')} that the model was trained on."
        compared.caveats.append(said)
    before, now = compared.before, compared.now = unseen[0], unseen[1]
    old = (
        model.predict_proba(before["query"].tolist())
        if held is None
        else held.set_index("id").loc[before["id"], classes].to_numpy()
    )
    compared.classes, compared.same_model = classes, held is None
    compared.proba = (old, model.predict_proba(now["query"].tolist()))


def _trained_texts(ref: str) -> frozenset[str] | None:
    """Return the texts that a model of a dataset was trained on; None where they are not known."""
    from nivesh_lib.data.versions import load_dataset

    with contextlib.suppress(DataError):
        return frozenset(load_dataset(ref).train["query"])
    return None


def _out_of_fold(folder: Path, data: Dataset) -> pd.DataFrame | None:
    """Return the probabilities out of fold that the run of a model has kept, if it has."""
    from nivesh_lib.runs.layout import RunDirectory

    run = RunDirectory(folder.resolve().parent.parent)
    with contextlib.suppress(DataError):
        return run.out_of_fold(folder.name, data.train, data.version.label_column)
    return None


def _print(finding: Finding, page: Path | None) -> None:
    echo(
        finding.claim, "", f"{'':<15}{'moved most':<44}{'before':>8}{'now':>8}{'errors':>8}{'p':>8}"
    )
    for row in finding.cells:
        shares = "".join(f"{percent(row[side]):>8}" for side in ("before", "now"))
        echo(
            f"{row['test']:<15}{row['moved most']:<44}{shares}{row['standard errors']:>8.1f}"
            f"{row['p']:>8}"
        )
    echo("", *(f"- {caveat}" for caveat in finding.caveats))
    if page is not None:
        echo(f"Evidently's page: {page}")
