"""A model that was evaluated in a notebook; each method adds a finding to the run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.data.versions import Dataset, load_dataset
from nivesh_lib.evaluation.benchmark import measure_latency, saved_bytes
from nivesh_lib.evaluation.findings import comparison, fairness, quality, training
from nivesh_lib.evaluation.objectives import objectives_for, values_for
from nivesh_lib.evaluation.resampling.cross_validation import (
    CrossValidation,
    aligned,
    cross_validate,
    predicted_labels,
    probabilities,
)
from nivesh_lib.evaluation.resampling.search import Trial
from nivesh_lib.evaluation.robustness.cases import (
    PERTURBATION,
    perturbation_cases,
    read_case_texts,
    standard_cases,
)
from nivesh_lib.evaluation.robustness.perturbations import Perturbation
from nivesh_lib.evaluation.scores import headline_mask, masks_by_column
from nivesh_lib.evaluation.summary import (
    answers_by_row,
    headline_scores,
    pooled,
    result_of,
    slice_scores,
    view_scores,
)
from nivesh_lib.models.base import TextClassifier
from nivesh_lib.models.wrappers.ensemble import EnsembleClassifier
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.results import ModelResult, StepResult
from nivesh_lib.reproducibility import money_for

SEGMENTS = ("income_segment", "language")  # columns of people, who should be answered alike
SHUFFLED = "shuffled words"  # the perturbation that `Evaluated.word_order` judges


class Session(Protocol):
    """What a model needs of the session that it is evaluated in (`session.Run`)."""

    step: str
    params: dict[str, Any]
    seed: int

    def path(self, kind: str, name: str) -> Path:
        """Return a place for files of the step."""

    def add(self, finding: Finding) -> Finding:
        """Keep a finding."""

    def upstream(self, name: str) -> StepResult | None:
        """Return the result of an earlier step."""

    def upstream_oof(self, name: str) -> pd.DataFrame | None:
        """Return the out-of-fold answers of an earlier step."""

    def log_trial(self, kind: str, trial: Trial) -> None:
        """Record a trial of a search."""


@dataclass(eq=False, repr=False)
class Evaluated:
    """A model fitted on all training rows, with its out-of-fold answers. Made by `of`."""

    run: Session
    name: str
    model: Any
    data: Dataset
    cv: CrossValidation
    scores: dict[str, Estimate]
    n_boot: int = 2000
    n_timed: int = 200
    part: bool = False
    cases: pd.DataFrame | None = None
    processor_seconds: float = 0.0

    @classmethod
    def of(
        cls,
        run: Session,
        model: Any,
        data: Dataset,
        *,
        name: str = "",
        part: bool = False,
        perturbations: Mapping[str, Perturbation] | None = None,
        keep_folds: bool = False,
    ) -> Self:
        """Cross-validate a classifier of texts on the folds of a dataset, and fit it where needed.

        Each fold's model also answers the test cases that notebook 06 reads.

        Parameters
        ----------
        model
            Any scikit-learn classifier with ``predict_proba`` that takes a list of texts.
        name
            Default: the kind of a model of ours, else the name of the class.
        part
            A further model of the notebook: the names of its findings begin with its own.
        perturbations
            Other ways to write the natural rows, name -> function, that are answered too.
        keep_folds
            Keep the model of each fold in the run directory, for notebook 07, if it can be saved.

        Raises
        ------
        TypeError
            The model has no ``predict_proba``.
        """
        if not hasattr(model, "predict_proba"):
            raise TypeError(f"{type(model).__name__} has no predict_proba; use one that has")
        cases = _cases(data, run.seed, perturbations or {})
        processor = time.process_time()
        kept = keep_folds and isinstance(model, TextClassifier)
        cv = cross_validate(
            model,
            data.train,
            labels=data.labels,
            cases=cases,
            models_to=run.path("folds", name or model.kind) if kept else None,
        )
        try:
            check_is_fitted(model)
        except NotFittedError:
            model.fit(data.train["query"].tolist(), data.train["intent"].tolist())
        made = cls.with_answers(run, model, data, cv, name=name, part=part, cases=cases)
        made.processor_seconds = time.process_time() - processor
        return made

    @classmethod
    def pool_of(cls, members: Sequence[Evaluated], *, name: str = "") -> Self:
        """Return the model that joins the members' answers with learned weights, as a part.

        See `evaluation.summary.pooled`.
        """
        first, kinds = members[0], [one.name for one in members]
        cv, weights = pooled([one.cv for one in members], first.data.train)
        model = EnsembleClassifier.of(
            {one.name: one.model for one in members}, dict(zip(kinds, weights[None], strict=True))
        )
        made = cls.with_answers(
            first.run, model, first.data, cv, name=name, part=True, cases=first.cases
        )
        made.processor_seconds = sum(one.processor_seconds for one in members)
        return made

    @classmethod
    def with_answers(
        cls,
        run: Session,
        model: Any,
        data: Dataset,
        cv: CrossValidation,
        *,
        name: str = "",
        part: bool = False,
        cases: pd.DataFrame | None = None,
    ) -> Self:
        """Return a model whose out-of-fold answers are known, such as an average of others."""
        n_boot, n_timed = (
            run.params.get(key, n) for key, n in (("N_BOOT", 2000), ("N_TIMED", 200))
        )
        scores = headline_scores(data.train, cv, n_boot=n_boot, seed=run.seed)
        own = getattr(model, "kind", "") or type(model).__name__.lower()
        return cls(run, name or own, model, data, cv, scores, n_boot, n_timed, part, cases)

    def __repr__(self) -> str:
        return f"Evaluated({self.name!r}, accuracy {self.scores['accuracy']})"

    # --- columns ---------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> np.ndarray:
        return headline_mask(self.data.train)

    @property
    def rows(self) -> pd.DataFrame:
        """The training rows that count for scores, with their out-of-fold answer ``predicted``."""
        rows = self.data.train.assign(predicted=self.cv.predicted, confidence=self.cv.confidence)
        return rows[self._rows].reset_index(drop=True)

    @cached_property
    def slices(self) -> pd.DataFrame:
        """Scores of slices of the training rows, as `evaluation.summary.slice_scores`."""
        return slice_scores(self.data.train, self.cv, n_boot=min(self.n_boot, 1000))

    @cached_property
    def latency(self) -> dict[str, float]:
        """The latency of single queries, as `evaluation.benchmark.measure_latency`."""
        texts = self.data.train["query"].tolist()
        return measure_latency(self.model.predict, texts, repeats=self.n_timed)

    @cached_property
    def size_bytes(self) -> int | None:
        """The size on disk; None for a model that has no model directory."""
        return saved_bytes(self.model) if isinstance(self.model, TextClassifier) else None

    # --- findings --------------------------------------------------------------------------------

    def _add(self, finding: Finding) -> Finding:
        named = f"{self.name}_{finding.name}" if self.part else finding.name
        return self.run.add(finding.changed(name=named))

    def answer(self) -> Finding:
        """The scores against their objectives."""
        objectives = objectives_for(self.run.step, dataset=self.data.ref)
        found = quality.scores(self.name, self.scores, objectives)
        shown_first, *_ = map(self._add, found)
        return shown_first

    def gain_over(self, *others: str | Evaluated) -> Finding:
        """Whether it is ahead of another model, such as that of an earlier step, or of several."""
        names = [one if isinstance(one, str) else one.name for one in others]
        name = "ahead_of_all" if names[1:] else f"gain_over_{names[0]}"
        made = comparison.gain(
            self.name,
            self.rows["intent"],
            self.rows["predicted"],
            dict(map(self._answers_of, others)),
            name=name,
            n_boot=self.n_boot,
            seed=self.run.seed,
        )
        return self._add(made)

    def changes_from(self, other: str | Evaluated) -> Finding:
        """Which queries it answers rightly where another model does not, and the reverse."""
        name, before = self._answers_of(other)
        made = comparison.changes(self.name, name, self.rows, before, self.data.labels)
        return self._add(made)

    def _answers_of(self, other: str | Evaluated) -> tuple[str, np.ndarray | None]:
        if isinstance(other, Evaluated):
            return other.name, other.cv.predicted[self._rows]
        result, oof = self.run.upstream(other), self.run.upstream_oof(other)
        if result is None or oof is None:
            return f"model of {other}", None
        return result.model, predicted_labels(aligned(oof, self.rows["id"]))

    def confusions(self) -> Finding:
        """Which labels are taken for each other, with queries."""
        rows = self.rows
        predicted = rows["predicted"].to_numpy(dtype=object)
        return self._add(quality.confusions(rows, predicted, self.data.labels))

    def by_label(self) -> Finding:
        """Precision, recall and F1 of each label."""
        rows = self.rows
        return self._add(quality.by_label(rows["intent"], rows["predicted"], self.data.labels))

    def by_slice(self) -> Finding:
        """Scores by language, segment and trait, where the data has such columns."""
        return self._add(quality.by_slice(self.slices))

    def learned(self) -> Finding:
        """The heaviest words of each label, of a model that shows them."""
        return self._add(quality.learned(_heaviest_terms(self.model, self.data.labels)))

    def learning_curves(self) -> Finding:
        """The loss by epoch of a network, and which epoch was best."""
        history = getattr(self.model, "history_", [])
        limit = getattr(self.model, "epochs", None)
        return self._add(training.learning_curves(history, limit=limit))

    def word_order(self) -> Finding:
        """Whether answers rest on word order, where ``shuffled words`` is a perturbation."""
        case = f"{PERTURBATION}{SHUFFLED}"
        rows = answers_by_row(self.data.train, self.cv, case)
        if self.cases is not None:
            asked = self.cases[self.cases["probe"] == case].set_index("id")["query"]
            rows = rows.assign(asked=rows["id"].map(asked))
        return self._add(training.word_order(self.name, rows))

    def spellings(self) -> Finding:
        """What it loses on the same queries in capitals, with typos, with other amounts."""
        views = view_scores(self.data.train, self.cv)
        return self._add(training.spellings(self.name, views[views["view"] != SHUFFLED]))

    def confidence(self) -> Finding:
        """How far the stated confidence is from the share that is right."""
        proba = probabilities(self.cv.oof)[self._rows]
        threshold = values_for(self.data.ref).get("min_confidence")
        return self._add(quality.confidence(proba, self.rows["intent"], threshold=threshold))

    def fairness(self) -> Finding:
        """Whether any segment is answered worse or better than the rest."""
        right = (self.rows["intent"] == self.rows["predicted"]).to_numpy()
        masks, caveats = masks_by_column(self.rows, SEGMENTS), sources_of(self.data)
        return self._add(fairness.fairness(right, masks, caveats=caveats))

    def handover_by_segment(self) -> Finding:
        """Whether any segment stays below the threshold of confidence more often than the rest."""
        least = values_for(self.data.ref).get("min_confidence")
        handed = None if least is None else (self.rows["confidence"] < least).to_numpy()
        masks, caveats = masks_by_column(self.rows, SEGMENTS), sources_of(self.data)
        return self._add(fairness.handover_by_segment(handed, masks, caveats=caveats))

    def cost(self) -> Finding:
        """Latency, size and training time; the latency is judged by its objective."""
        objectives = objectives_for(self.run.step, dataset=self.data.ref)
        fit_seconds = self.cv.fit_seconds
        seconds = sum(fit_seconds) / len(fit_seconds) if fit_seconds else None
        made = quality.cost(self.name, self.latency, objectives, self.size_bytes, seconds)
        return self._add(made)

    # --- the record ------------------------------------------------------------------------------

    def result(self) -> ModelResult:
        """Return the evaluation as the run directory keeps it."""
        made = result_of(
            self.name,
            self.run.step,
            self.data.train,
            self.cv,
            dataset=self.data.ref,
            labels=self.data.labels,
            scores=self.scores,
            latency=self.latency,
            size_bytes=self.size_bytes,
            slices=self.slices,
        )
        cost = money_for(self.processor_seconds)
        spent = {"processor_seconds": self.processor_seconds} | (
            {"train_cost": cost} if cost else {}
        )
        return made | {"metrics": {**made.metrics, **spent}}

    def files(self) -> dict[str, Any]:
        """Return what goes with the result: out-of-fold answers, and the model where it saves."""
        saved = self.model if isinstance(self.model, TextClassifier) else None
        return {"oof": self.cv.oof, "case_answers": self.cv.case_answers, "model": saved}

    def training(self) -> dict[str, Any]:
        """Return hyper-parameters, architecture, and what training on all folds took."""
        own = isinstance(self.model, TextClassifier)
        arguments = self.model.get_params(deep=False)
        plain = {k: v for k, v in arguments.items() if isinstance(v, str | int | float | None)}
        spent = {
            "train_time_seconds": sum(self.cv.fit_seconds),
            "train_processor_seconds": self.processor_seconds,
            "train_cost": money_for(self.processor_seconds),
        }
        return {
            "model": {"name": self.name, "class": type(self.model).__name__, **plain},
            "architecture": self.model.architecture() if own else {},
            "training": {name: value for name, value in spent.items() if value is not None},
        }


def sources_of(data: Dataset) -> list[str]:
    """Return what the manifest says of where the rows come from, as a caveat about people."""
    sources = data.manifest.get("sources", [])
    return [f"Sources of the rows: {'; '.join(sources)}."] if sources else []


def _heaviest_terms(model: Any, labels: Sequence[str], n: int = 8) -> dict[str, list[str]]:
    """Return the heaviest words of each label; none of a model that is no linear one of words."""
    if hasattr(model, "top_terms"):
        return {label: model.top_terms(label) for label in labels}
    if not (isinstance(model, Pipeline) and hasattr(model[-1], "coef_")):
        return {}
    terms = model[:-1].get_feature_names_out()
    weights = np.asarray(model[-1].coef_)
    rows = np.vstack([-weights, weights]) if len(weights) == 1 else weights
    found = zip(model.classes_, np.argsort(-rows, axis=1, kind="stable")[:, :n], strict=True)
    return {str(label): terms[order].tolist() for label, order in found}


def _cases(data: Dataset, seed: int, perturbations: Mapping[str, Perturbation]) -> pd.DataFrame:
    texts = read_case_texts(data.ref)
    out_of_scope = load_dataset(texts.out_of_scope).train if texts.out_of_scope else None
    standard = standard_cases(data.train, texts=texts, out_of_scope=out_of_scope, seed=seed)
    if not perturbations:
        return standard
    natural = data.train[headline_mask(data.train)]
    others = perturbation_cases(natural, perturbations, seed=seed)
    return pd.concat([standard, others], ignore_index=True)
