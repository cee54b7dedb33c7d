"""Out-of-fold probabilities on the folds that belong to the data version."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

PROBE_COLUMNS = ("probe", "id", "fold", "query")
EVERY_FOLD = -1  # of a probe that the models of all folds answer


@dataclass(frozen=True)
class CrossValidation:
    """Probabilities for rows that the predicting model never saw.

    ``oof`` has ``id``, ``fold`` and one probability column for each label, rows in
    the order of the frame; ``fit_seconds`` has one entry for each fold; ``probes`` has
    ``probe``, ``id``, ``fold`` and the same probability columns for other texts, if any were asked.
    """

    oof: pd.DataFrame
    fit_seconds: tuple[float, ...]
    probes: pd.DataFrame | None = None

    @property
    def predicted(self) -> np.ndarray:
        """The most probable label for each row, shape (n,)."""
        return predicted_labels(self.oof)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted label for each row, shape (n,)."""
        return probabilities(self.oof).max(axis=1).to_numpy()


def probabilities(oof: pd.DataFrame) -> pd.DataFrame:
    """Return only the probability columns of an out-of-fold table."""
    return oof.drop(columns=["id", "fold"])


def predicted_labels(oof: pd.DataFrame) -> np.ndarray:
    """Return the most probable label for each row of an out-of-fold table, shape (n,).

    Raises
    ------
    ValueError
        A probability is missing or infinite.
    """
    table = probabilities(oof)
    odd = ~np.isfinite(table.to_numpy(dtype=float)).all(axis=1)
    if odd.any():
        raise ValueError(f"the row of {oof['id'][odd].iloc[0]!r} has a probability that is none")
    return table.columns.to_numpy(dtype=object)[table.to_numpy().argmax(axis=1)]


def true_labels(frame: pd.DataFrame, label: str, oof: pd.DataFrame) -> np.ndarray:
    """Return the true labels of rows, (n,), which are among those that a table has columns for.

    Raises
    ------
    ValueError
        A label is missing, or none of the table's.
    """
    odd = ~frame[label].isin(list(probabilities(oof)))
    if odd.any():
        raise ValueError(
            f"{label} of {frame['id'][odd].iloc[0]!r} is {frame[label][odd].iloc[0]!r}, which the "
            "out-of-fold table has no column for"
        )
    return frame[label].to_numpy(dtype=object)


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


def cross_validate(
    model: Any,
    frame: pd.DataFrame,
    *,
    labels: Sequence[str],
    text: str = "query",
    label: str = "intent",
    fold: str = "fold",
    probes: pd.DataFrame | None = None,
    models_to: Path | None = None,
) -> CrossValidation:
    """Fit a clone of ``model`` for each fold and predict the rows left out.

    Parameters
    ----------
    probes : DataFrame, optional
        Other texts, never trained on, with the columns probe, id, fold and query. The model
        that left fold ``fold`` out answers; with fold -1 each model does, and the answer
        appears once for each fold.
    models_to : Path, optional
        Folder that keeps the fitted models, each saved as `fold_directory` says, so that what is
        made from a model later can be judged on the rows that it never saw.

    Raises
    ------
    ValueError
        Fewer than two folds in ``frame``; probes of no fold, asked twice, or made from a row
        that the model asked was trained on.
    """
    folds = sorted(frame[fold].unique())
    if len(folds) < 2:
        raise ValueError(f"column {fold!r} holds {len(folds)} fold; at least 2 are needed")
    if probes is not None:
        _check_probes(probes, dict(zip(frame["id"], frame[fold], strict=True)))
    proba = pd.DataFrame(0.0, index=frame.index, columns=sorted(labels))
    seconds, asked = [], []
    for k in folds:
        held = (frame[fold] == k).to_numpy()
        started = time.perf_counter()
        fitted = clone(model).fit(frame.loc[~held, text].tolist(), frame.loc[~held, label].tolist())
        seconds.append(time.perf_counter() - started)
        predicted = fitted.predict_proba(frame.loc[held, text].tolist())
        proba.loc[held, list(fitted.classes_)] = predicted
        if models_to is not None:
            fitted.save(fold_directory(models_to, k))
        if probes is not None:
            asked.append(_answers(fitted, probes, k, columns=sorted(labels)))
    oof = pd.concat([frame[["id", fold]].rename(columns={fold: "fold"}), proba], axis=1)
    answered = pd.concat(asked, ignore_index=True) if asked else None
    return CrossValidation(oof, tuple(seconds), answered)


def answers_of(
    models: Mapping[int, Any],
    frame: pd.DataFrame,
    *,
    labels: Sequence[str],
    text: str = "query",
    fold: str = "fold",
) -> pd.DataFrame:
    """Return the out-of-fold table of fitted models, of which each answers the fold it is named by.

    Raises
    ------
    ValueError
        A fold of ``frame`` has no model, or a model knows a label that is not among ``labels``.
    """
    if missing := sorted(set(frame[fold]) - set(models)):
        raise ValueError(f"no model was given for fold {missing[0]}; there are {sorted(models)}")
    proba = pd.DataFrame(0.0, index=frame.index, columns=sorted(labels))
    for k, model in models.items():
        if alone := sorted(set(model.classes_) - set(labels)):
            raise ValueError(f"the model of fold {k} knows {alone[0]!r}, which is no label here")
        held = (frame[fold] == k).to_numpy()
        answered = model.predict_proba(frame.loc[held, text].tolist())
        proba.loc[held, list(model.classes_)] = answered
    return pd.concat([frame[["id", fold]].rename(columns={fold: "fold"}), proba], axis=1)


def fold_directory(folder: Path, fold: int) -> Path:
    """Return where the model that never saw the rows of ``fold`` is kept below ``folder``."""
    return folder / f"fold_{fold}"


def _check_probes(probes: pd.DataFrame, fold_of: dict[Any, int]) -> None:
    if missing := [name for name in PROBE_COLUMNS if name not in probes]:
        raise ValueError(f"probes lack the columns {missing}; they need {list(PROBE_COLUMNS)}")
    if strange := sorted(set(probes["fold"]) - {*fold_of.values(), EVERY_FOLD}):
        raise ValueError(f"probes name the folds {strange}, which the rows do not have")
    if probes.duplicated(["probe", "id"]).any():
        raise ValueError("a probe asks twice with the same id; give each text its own")
    known = probes["id"].map(fold_of)
    if (known.notna() & (known != probes["fold"])).any():
        raise ValueError("a probe is made from a row that the model asked was trained on")


def _answers(fitted: Any, probes: pd.DataFrame, fold: int, *, columns: list[str]) -> pd.DataFrame:
    mine = probes[probes["fold"].isin([fold, EVERY_FOLD])].reset_index(drop=True)
    proba = pd.DataFrame(0.0, index=mine.index, columns=columns)
    if len(mine):
        proba[list(fitted.classes_)] = fitted.predict_proba(mine["query"].tolist())
    return pd.concat([mine[["probe", "id"]].assign(fold=fold), proba], axis=1)
