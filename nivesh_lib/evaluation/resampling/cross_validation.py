"""Out-of-fold probabilities on the folds that belong to the data version."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from nivesh_lib.evaluation.scores import Column

CASE_COLUMNS = ("probe", "id", "fold", "query")
EVERY_FOLD = -1  # of a test case that the models of all folds answer


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold probabilities.

    ``oof`` has ``id``, ``fold`` and one probability column for each label, rows in
    the order of the frame; ``fit_seconds`` has one entry for each fold; ``case_answers`` has
    ``probe`` (the name of a test case), ``id``, ``fold`` and the same probability columns.
    """

    oof: pd.DataFrame
    fit_seconds: tuple[float, ...]
    case_answers: pd.DataFrame | None = None

    @property
    def predicted(self) -> np.ndarray:
        """The most probable label for each row, shape (n,)."""
        return predicted_labels(self.oof)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted label for each row, shape (n,)."""
        return confidence_of(probabilities(self.oof))


def probabilities(oof: pd.DataFrame) -> pd.DataFrame:
    """Return only the probability columns of an out-of-fold table."""
    return oof.drop(columns=["id", "fold"])


def confidence_of(proba: pd.DataFrame) -> np.ndarray:
    """Return the probability of the most probable label for each row, shape (n,)."""
    return proba.max(axis=1).to_numpy()


def label_positions(proba: pd.DataFrame, labels: Column) -> np.ndarray:
    """Return the column number of each label in a table of probabilities, shape (n,).

    Raises
    ------
    ValueError
        A label has no column.
    """
    found = proba.columns.get_indexer(pd.Index(np.asarray(labels, dtype=object)))
    if (found < 0).any():
        unknown = np.asarray(labels, dtype=object)[found < 0][0]
        raise ValueError(f"label {unknown!r} has no column of probabilities")
    return found


def predicted_labels(oof: pd.DataFrame) -> np.ndarray:
    """Return the most probable label for each row of an out-of-fold table, shape (n,).

    Raises
    ------
    ValueError
        A probability is missing or infinite.
    """
    table = probabilities(oof)
    invalid = ~np.isfinite(table.to_numpy(dtype=float)).all(axis=1)
    if invalid.any():
        raise ValueError(
            f"row {oof['id'][invalid].iloc[0]!r} has a probability that is not a number"
        )
    return table.columns.to_numpy(dtype=object)[table.to_numpy().argmax(axis=1)]


def true_labels(frame: pd.DataFrame, oof: pd.DataFrame) -> np.ndarray:
    """Return the true intents of rows, shape (n,).

    Raises
    ------
    ValueError
        A label is missing, or ``oof`` has no column for it.
    """
    unknown = frame[~frame["intent"].isin(list(probabilities(oof)))]
    if len(unknown):
        raise ValueError(
            f"intent of {unknown['id'].iloc[0]!r} is {unknown['intent'].iloc[0]!r}, which the "
            "out-of-fold table has no column for"
        )
    return frame["intent"].to_numpy(dtype=object)


def aligned(oof: pd.DataFrame, ids: pd.Series) -> pd.DataFrame:
    """Return the rows of a recorded out-of-fold table in the order of ``ids``.

    Raises
    ------
    ValueError
        An id occurs twice in the table, or not at all.
    """
    if oof["id"].duplicated().any():
        raise ValueError("an id occurs twice in the out-of-fold table")
    missing = ids[~ids.isin(oof["id"])]
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(ids)} rows have no out-of-fold probabilities, "
            f"{missing.iloc[0]!r} the first"
        )
    return oof.set_index("id", drop=False).loc[ids].reset_index(drop=True)


def aligned_pair(
    oof: pd.DataFrame, reference: pd.DataFrame, ids: pd.Series, *, names: tuple[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two out-of-fold tables in the order of ``ids``, with the columns of ``reference``.

    Raises
    ------
    ValueError
        The tables have different labels or folds, or lack an id; ``names`` are in the message.
    """
    both = " and ".join(names)
    columns = [set(map(str, probabilities(table))) for table in (oof, reference)]
    if alone := sorted(columns[0] ^ columns[1]):
        raise ValueError(f"{both} have different labels: {alone[0]!r} is only in one")
    tables = aligned(oof, ids)[list(reference)], aligned(reference, ids)
    if (tables[0]["fold"] != tables[1]["fold"]).any():
        raise ValueError(f"{both} were made on different folds")
    return tables


def cross_validate(
    model: Any,
    frame: pd.DataFrame,
    *,
    labels: Sequence[str],
    cases: pd.DataFrame | None = None,
    models_to: Path | None = None,
) -> CrossValidation:
    """Fit a clone of ``model`` for each fold and predict the rows left out.

    Parameters
    ----------
    cases : DataFrame, optional
        Behavioural test cases, never trained on, with the columns probe, id, fold and query (see
        `robustness.cases`). The model that left fold ``fold`` out answers; with fold -1 each model
        does, and the answer appears once for each fold.
    models_to : Path, optional
        Folder for the fitted models, each in its `fold_directory`, so that models derived from
        them later can be evaluated on held-out rows.

    Raises
    ------
    ValueError
        Fewer than two folds in ``frame``; test cases of no fold, with duplicate ids, or made from
        a row that the answering model was trained on.
    """
    folds = sorted(frame["fold"].unique())
    if len(folds) < 2:
        raise ValueError(f"column 'fold' holds {len(folds)} fold; at least 2 are needed")
    if cases is not None:
        _check_cases(cases, dict(zip(frame["id"], frame["fold"], strict=True)))
    proba = pd.DataFrame(0.0, index=frame.index, columns=sorted(labels))
    seconds, answers = [], []
    for k in folds:
        held = (frame["fold"] == k).to_numpy()
        train = frame[~held]
        started = time.perf_counter()
        fitted = clone(model).fit(train["query"].tolist(), train["intent"].tolist())
        seconds.append(time.perf_counter() - started)
        predicted = fitted.predict_proba(frame.loc[held, "query"].tolist())
        proba.loc[held, list(fitted.classes_)] = predicted
        if models_to is not None:
            fitted.save(fold_directory(models_to, k))
        if cases is not None:
            answers.append(_case_answers(fitted, cases, k, columns=sorted(labels)))
    oof = pd.concat([frame[["id", "fold"]], proba], axis=1)
    case_answers = pd.concat(answers, ignore_index=True) if answers else None
    return CrossValidation(oof, tuple(seconds), case_answers)


def out_of_fold(
    model_of: Callable[[int], Any],
    frame: pd.DataFrame,
    *,
    labels: Sequence[str],
) -> pd.DataFrame:
    """Return the out-of-fold table of models that were fitted before.

    Parameters
    ----------
    model_of
        Returns the model that was fitted without the rows of a fold. Folds are asked one after
        the other and their models not kept, so that one is in memory at a time.

    Raises
    ------
    ValueError
        A model has a class that is not among ``labels``.
    """
    proba = pd.DataFrame(0.0, index=frame.index, columns=sorted(labels))
    for k in sorted(frame["fold"].unique()):
        model = model_of(int(k))
        if unknown := sorted(set(model.classes_) - set(labels)):
            raise ValueError(
                f"the model of fold {k} has the class {unknown[0]!r}, not a label here"
            )
        held = (frame["fold"] == k).to_numpy()
        predicted = model.predict_proba(frame.loc[held, "query"].tolist())
        proba.loc[held, list(model.classes_)] = predicted
        del model  # before the next one is made
    return pd.concat([frame[["id", "fold"]], proba], axis=1)


def fold_directory(folder: Path, fold: int) -> Path:
    """Return the directory below ``folder`` of the model fitted without the rows of ``fold``."""
    return folder / f"fold_{fold}"


def _check_cases(cases: pd.DataFrame, fold_of: dict[Any, int]) -> None:
    if unknown := sorted(set(cases["fold"]) - {*fold_of.values(), EVERY_FOLD}):
        raise ValueError(f"test cases name the folds {unknown}, which the rows do not have")
    if cases.duplicated(["probe", "id"]).any():
        raise ValueError("an id occurs twice in one test case; give each text its own")
    known = cases["id"].map(fold_of)
    if (known.notna() & (known != cases["fold"])).any():
        raise ValueError("a test case is made from a row that its model was trained on")


def _case_answers(
    fitted: Any, cases: pd.DataFrame, fold: int, *, columns: list[str]
) -> pd.DataFrame:
    mine = cases[cases["fold"].isin([fold, EVERY_FOLD])].reset_index(drop=True)
    proba = pd.DataFrame(0.0, index=mine.index, columns=columns)
    if len(mine):
        proba[list(fitted.classes_)] = fitted.predict_proba(mine["query"].tolist())
    return pd.concat([mine[["probe", "id"]].assign(fold=fold), proba], axis=1)
