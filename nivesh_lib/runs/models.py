"""The models of several runs with their out-of-fold predictions, for comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nivesh_lib.data.versions import Dataset, load_dataset
from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.resampling.cross_validation import predicted_labels
from nivesh_lib.paths import relative
from nivesh_lib.records.results import ModelResult
from nivesh_lib.runs.layout import RunDirectory


@dataclass(frozen=True, eq=False)
class PredictedModel:
    """A model of a run under a unique name, and its predicted label of each training row."""

    name: str
    model: str
    run: str
    step: str
    predicted: np.ndarray

    def is_same(self, other: PredictedModel) -> bool:
        """Return whether both are one model: a step that did not change is linked between runs."""
        same_step = (self.model, self.step) == (other.model, other.step)
        return same_step and bool((self.predicted == other.predicted).all())


def shared_dataset(runs: Sequence[RunDirectory]) -> Dataset:
    """Return the dataset that all the runs were made on.

    Raises
    ------
    DataError
        The runs differ in it, its rows are others now, or it has no intents.
    """
    records = [run.record() for run in runs]
    refs = {record.dataset.ref: record.run for record in records}
    if len(refs) > 1:
        made = ", ".join(f"{run} on {ref}" for ref, run in refs.items())
        raise DataError(
            f"models can be compared on the same rows only, and these runs differ: {made}. "
            f"Run both on one: `nivesh run --dataset {list(refs)[-1]}`"
        )
    data = load_dataset(next(iter(refs)))
    for record in records:
        if record.dataset.sha256 != data.version.sha256:
            raise DataError(
                f"{record.run} was made on other rows of {data.ref} (sha256 "
                f"{record.dataset.sha256}) than those that are there now "
                f"({data.version.sha256}). Make it again: `nivesh run --dataset {data.ref}`"
            )
    if data.version.label_column != "intent":
        raise DataError(f"{data.ref} has no intents, so no models to compare. Name another run")
    return data


def predicted_models(
    runs: Sequence[RunDirectory], train: pd.DataFrame
) -> tuple[list[PredictedModel], list[str]]:
    """Return the models of runs, each once and under a name of its own.

    Returns
    -------
    tuple
        The models, and a sentence on each that is left out: a comparison of a model with itself
        would only make the corrected tests stricter.

    Raises
    ------
    DataError
        There is no model, or results or out-of-fold probabilities are damaged.
    """
    kept: list[PredictedModel] = []
    repeated = []
    for found in (model for run in runs for model in _models_of(run, train)):
        same = next((model for model in kept if model.is_same(found)), None)
        if same is None:
            kept.append(found)
        else:
            repeated.append(
                f"{found.model} ({found.step}) gave the same answers in {found.run} as in "
                f"{same.run}: listed once."
            )
    if not kept:
        places = ", ".join(relative(run.path) for run in runs)
        raise DataError(
            f"{places}: no model with out-of-fold results in oof/. "
            "`nivesh run` evaluates models, and so does `nivesh run --only 03_tfidf`"
        )
    return [replace(model, name=_unique_name(model, kept)) for model in kept], repeated


def _models_of(run: RunDirectory, train: pd.DataFrame) -> Iterator[PredictedModel]:
    for error in run.damaged().values():  # it might be a model's
        raise error
    name = run.record().run
    for step, result in run.results().items():
        if isinstance(result, ModelResult):
            table = run.out_of_fold(step, train)
            by_id = dict(zip(table["id"], predicted_labels(table), strict=True))
            predicted = train["id"].map(by_id).to_numpy(dtype=object)
            yield PredictedModel(result.model, result.model, name, step, predicted)


def _unique_name(model: PredictedModel, among: Sequence[PredictedModel]) -> str:
    alike = [other for other in among if other.model == model.model]
    if len(alike) == 1:
        return model.model
    alone = sum(other.run == model.run for other in alike) == 1
    return f"{model.model} ({model.run})" if alone else f"{model.model} ({model.run}, {model.step})"
