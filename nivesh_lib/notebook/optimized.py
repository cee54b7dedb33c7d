"""Models that a notebook makes from a fine-tuned transformer; each method adds a finding."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import shutil
import sys
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd
from sklearn.base import clone

from nivesh_lib.data.versions import Dataset
from nivesh_lib.errors import NiveshError
from nivesh_lib.evaluation.benchmark import benchmark_served, model_bytes, race
from nivesh_lib.evaluation.comparison import Comparison, compare
from nivesh_lib.evaluation.compression.cascade import cascade_answers, choose_threshold, handed_over
from nivesh_lib.evaluation.compression.gate import Choice, Recommendation, recommended
from nivesh_lib.evaluation.compression.study import CompressionStudy
from nivesh_lib.evaluation.confidence.calibration import Calibration, cross_fitted
from nivesh_lib.evaluation.findings import calibration, compression
from nivesh_lib.evaluation.objectives import allowed_loss_for, values_for
from nivesh_lib.evaluation.resampling.cross_validation import (
    CrossValidation,
    aligned,
    cross_validate,
    fold_directory,
    predicted_labels,
)
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.evaluation.summary import pooled
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.wrappers.cascade import Cascade
from nivesh_lib.models.wrappers.ensemble import EnsembleClassifier
from nivesh_lib.models.wrappers.selective import Calibrated
from nivesh_lib.notebook.evaluated import Evaluated
from nivesh_lib.notebook.session import RecordedModel, Run
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.results import ModelResult

_STEP, _REFERENCE = "05_distilbert", "transformer"
_POOL, _CASCADE = "small combined model", "cascade"


def _release_memory() -> None:
    """Collect garbage and give what was freed back to the system, which glibc would keep."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
        if trim is not None:
            trim(0)


@dataclass(frozen=True)
class Part:
    """Training rows, all of them or those outside of a fold, and the transformer fitted on them."""

    fold: int | None
    texts: list[str]
    labels: list[str]
    directory: Path

    @property
    def transformer(self) -> Any:
        """The transformer, loaded anew each time, so that it is held no longer than needed."""
        return load_model(self.directory)


class Optimization:
    """A compression study of the transformer of notebook 05, or of one that is trained here.

    A technique is a function of a `Part`. It is applied to all rows, which gives the model that
    would be served, and to the rows outside of each fold, one fold after the other, which gives
    the answers that it is judged by.

    Parameters
    ----------
    run
        Its parameters BACKBONE and EPOCHS are those of a transformer that is trained here,
        CASCADE_LOSS, N_BOOT and N_TIMED those of the analyses.
    """

    def __init__(self, run: Run, data: Dataset) -> None:
        gc.collect()
        gc.freeze()  # modules above all: each `_release_memory` would look through them
        self.run, self.data = run, data
        self.recorded: dict[str, RecordedModel] = {}
        with contextlib.suppress(NiveshError):  # no model was recorded
            self.recorded = run.recorded_models()
        self.n_boot = int(run.params.get("N_BOOT", 2000))
        self.study = CompressionStudy(
            data.train,
            labels=data.labels,
            allowed_loss=allowed_loss_for(data.ref),
            n_boot=self.n_boot,
            seed=run.seed,
        )
        # On disk, so that few models are in memory; removed at the end, or by the next run.
        self._folder = Path(mkdtemp(dir=run.directory.partial("models").parent))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._unsaved: dict[str, Any] = {}
        self._handed: pd.Series | None = None  # which rows the cascade hands over
        self._choices: list[Choice] = []
        self._whole, self._folds, oof = self._found() or self._trained()
        self.study.add_answers(_REFERENCE, oof, size_bytes=model_bytes(self._whole))

    def _found(self) -> tuple[Path, Path, pd.DataFrame] | None:
        """Return model, folder of the folds' models and answers that notebook 05 left."""
        folds = self.run.upstream_path("folds", _STEP, _REFERENCE)
        whole, oof = self.run.upstream_path("models", _STEP, ""), self.run.upstream_oof(_STEP)
        if folds is None or whole is None or oof is None:
            return None
        return whole, folds, aligned(oof, self.data.train["id"])

    def _trained(self) -> tuple[Path, Path, pd.DataFrame]:
        params, train = self.run.params, self.data.train
        fresh = get_model(
            _REFERENCE,
            backbone=params["BACKBONE"],
            epochs=params["EPOCHS"],
            random_state=self.run.seed,
        )
        folds = self._place(_REFERENCE, None).parent
        cv = cross_validate(fresh, train, labels=self.data.labels, models_to=folds)
        fresh.fit(train["query"].tolist(), train["intent"].tolist())
        return fresh.save(self._place(_REFERENCE, None)), folds, cv.oof

    def _part(self, fold: int | None) -> Part:
        train = self.data.train
        rows = train if fold is None else train[train["fold"] != fold]
        directory = self._whole if fold is None else fold_directory(self._folds, fold)
        return Part(fold, rows["query"].tolist(), rows["intent"].tolist(), directory)

    def _place(self, name: str, fold: int | None) -> Path:
        folder = self._folder / name
        return folder / "whole" if fold is None else fold_directory(folder, fold)

    # --- techniques ------------------------------------------------------------------------------

    def model(self, name: str, fold: int | None = None) -> Any:
        """Load the model of a technique: of all rows, or of a fold where these were kept."""
        if name in self._unsaved:
            return self._unsaved[name]
        own = self._part(fold).directory if name == _REFERENCE else self._place(name, fold)
        return load_model(own)

    def reference(self) -> Finding:
        """What the model reaches that everything is made from."""
        return self.run.add(compression.technique(self.study.reference))

    def add(self, name: str, technique: Callable[[Part], Any], *, keep: bool = False) -> Finding:
        """Apply a technique to all rows and to those outside of each fold, and judge it.

        Parameters
        ----------
        keep
            Keep the models of the folds while the notebook runs, for `of_each` and `cascade`.
        """

        def model_of(fold: int) -> Any:
            _release_memory()  # of the fold before
            made = technique(self._part(fold))
            if keep:
                made.save(self._place(name, fold))
            return made

        made = technique(self._part(None))
        saved = not hasattr(made, "size_bytes")
        if saved:
            size = model_bytes(made.save(self._place(name, None)))
        else:
            self._unsaved[name], size = made, int(made.size_bytes)
        del made
        one = self.study.add(name, model_of, size_bytes=size, saved=saved)
        _release_memory()
        return self.run.add(compression.technique(one))

    def left(self, model: Any) -> Callable[[Part], Any]:
        """Return a technique: the models that notebook 05 or 03 left, or copies fitted here."""
        places = (self.run.upstream_path("folds", step, model.kind) for step in (_STEP, "03_tfidf"))
        folds = next(filter(None, places), None)
        whole = self.run.upstream_path("models", f"{_STEP}.ensemble", model.kind)

        def technique(part: Part) -> Any:
            if folds is None or whole is None:
                return clone(model).fit(part.texts, part.labels)
            return load_model(whole if part.fold is None else fold_directory(folds, part.fold))

        return technique

    def of_each(self, name: str, function: Callable[[Any, Part], Any]) -> dict[int | None, Any]:
        """Return fold (None: all rows) -> a function of the model of a kept technique.

        Parameters
        ----------
        function
            Takes a model and the `Part` that it was made from.
        """
        folds = (None, *sorted(map(int, self.data.train["fold"].unique())))
        return {k: function(self.model(name, k), self._part(k)) for k in folds}

    def pool(self, *names: str) -> Finding:
        """What kept models reach together, joined with weights learned from their answers.

        Together they are judged against the transformer too, as a technique.
        """
        several = [CrossValidation(self.study.candidates[name].oof, ()) for name in names]
        cv, weights = pooled(several, self.data.train)
        for fold, learned in weights.items():
            models = {one.kind: one for one in (self.model(name, fold) for name in names)}
            joined = EnsembleClassifier.of(models, dict(zip(models, learned, strict=True)))
            joined.save(self._place(_POOL, fold))
        size = model_bytes(self._place(_POOL, None))
        return self.run.add(
            compression.technique(self.study.add_answers(_POOL, cv.oof, size_bytes=size))
        )

    def cascade(self, student: str, teacher: str) -> Finding:
        """How much a kept model in front of another may answer, and what that loses.

        The cascade is judged against the transformer too, as a technique.
        """
        first, second = (self.study.candidates[name].oof for name in (student, teacher))
        loss = self.run.params["CASCADE_LOSS"]
        chosen = choose_threshold(first, second, self.data.train, allowed_loss=loss)
        for fold, bar in ((None, chosen.threshold), *chosen.by_fold.items()):
            pair = self.model(student, fold), self.model(teacher, fold)
            Cascade.of(*pair, threshold=bar).save(self._place(_CASCADE, fold))
        self._handed = handed_over(first, chosen.by_fold)
        size = model_bytes(self._place(_CASCADE, None))
        oof = cascade_answers(first, second, chosen.by_fold)
        self.run.add(compression.technique(self.study.add_answers(_CASCADE, oof, size_bytes=size)))
        return self.run.add(compression.cascade(chosen, student, teacher))

    # --- all of them -----------------------------------------------------------------------------

    def race(self) -> Finding:
        """Time every model in turns, those of the notebooks before too; say which to serve."""
        study, rows = self.study, self.study.timed_rows(self._handed)
        others = {
            name: one
            for name, one in self.recorded.items()
            if one.step != _STEP and name not in study.candidates
        }
        asked: dict[str, Callable[[list[str]], Any]] = {
            name: self._timed(name, rows).predict for name in study.candidates
        }
        asked |= {name: load_model(one.directory).predict for name, one in others.items()}
        speeds = race(asked, rows["query"].tolist(), calls=self.run.params.get("N_TIMED", 200))
        del asked
        _release_memory()
        self.__dict__.pop("calibrations", None)  # of an earlier race
        study.set_speeds(speeds)
        self._choices = list(study.candidates.values())
        for name, one in others.items():
            size, scores = one.result.metrics.get("size_bytes"), one.result.scores
            bytes_ = float(size) if isinstance(size, int | float) else None
            self._choices.append(Choice(name, one.oof, scores, bytes_, timed=speeds[name]))
        told = (self._choices, self.advice, self.data.train)
        more: dict[str, Any] = {"target_ms": self._target, "n_boot": self.n_boot}
        handed = {_CASCADE: rows["handed"].mean()} if _CASCADE in study.candidates else {}
        return self.run.add(compression.recommendation(*told, handed=handed, **more))

    def _timed(self, name: str, rows: pd.DataFrame) -> Any:
        """Return a model to be timed on rows of one fold, which its cascade has not learned from.

        A model in front is surer of what it has learned from, and would hand over too little.
        """
        return self.model(name, int(rows["fold"].iloc[0]) if name == _CASCADE else None)

    @property
    def advice(self) -> Recommendation:
        """The model to serve, and the best of the optimised ones, as `gate.recommended` has it."""
        return recommended(self._choices, self._target)

    @property
    def _target(self) -> float | None:
        return values_for(self.data.ref).get("latency_target_ms")

    @property
    def _best(self) -> str:
        """The best optimised model; the transformer itself where nothing was kept."""
        return self.advice.optimised or _REFERENCE

    def answer(self) -> Finding:
        """Whether the transformer became smaller or faster without losing more than allowed."""
        candidates = list(self.study.candidates.values())
        return self.run.add(compression.answer(candidates, self.advice.optimised))

    # --- the best of the optimised ones ----------------------------------------------------------

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        """Temperature scaling of the reference and of each technique that is kept."""
        found = self.study.candidates.values()
        kept = {one.name: one.oof for one in found if one.verdict in ("", "kept")}
        return cross_fitted(kept, self.data.train, n_boot=self.n_boot, seed=self.run.seed)

    def calibration(self) -> Finding:
        """How far the best one's confidence is off, before and after its correction."""
        oof = {name: one.oof for name, one in self.study.candidates.items()}
        made = calibration.calibration(self._best, self.calibrations, oof, self.data.train)
        return self.run.add(made)

    def best(self) -> Optimized:
        """Return the best optimised model, calibrated: the result of the notebook."""
        name = self._best
        one, fitted = self.study.candidates[name], self.calibrations[name]
        model = Calibrated.of(self.model(name), temperature=fitted.temperature)
        cv = CrossValidation(fitted.applied(one.oof), ())
        made = Optimized.with_answers(self.run, model, self.data, cv, name=name)
        made.__dict__["latency"] = one.speed.latency()  # of the race, the only one that it has
        return made

    def serving(self) -> Finding:
        """Memory and throughput of processes that serve the models between which to choose.

        They answer the queries of the race.
        """
        found, rows = [], self.study.timed_rows(self._handed)
        for name in dict.fromkeys([self.advice.model, self._best, _REFERENCE]):
            if name in self.study.candidates:
                model = self._timed(name, rows)
            else:
                model = load_model(self.recorded[name].directory)
            speed, peak = benchmark_served(model, rows["query"].tolist(), seconds=0.5)
            handed = {"handed": rows["handed"].mean()} if name == _CASCADE else {}
            found.append({"model": name, "peak_bytes": peak, **speed.as_dict(), **handed})
        return self.run.add(compression.serving(found))

    def compared(self) -> Comparison:
        """Compare the models of the notebooks before and the best optimised one, in pairs."""
        rows = self.data.train[headline_mask(self.data.train)]
        oof = {name: one.oof for name, one in self.recorded.items()}
        oof |= {f"optimised ({self._best})": self.study.candidates[self._best].oof}
        predicted = {
            name: predicted_labels(aligned(table, rows["id"])) for name, table in oof.items()
        }
        return compare(rows["intent"], predicted, n_boot=self.n_boot, seed=self.run.seed)

    def records(self) -> dict[str, Any]:
        """Return what the record of the run keeps beside the findings and the best model."""
        steps = {name: one.step for name, one in self.recorded.items()}
        steps = {_REFERENCE: _STEP} | steps | {self.advice.optimised: self.run.step}
        claim = self.run.findings["recommendation"].claim
        return {
            "headline": claim,
            "recommendation": {**asdict(self.advice), "sentence": claim},
            "comparison": self.compared().as_dict(),
            "race": [{"model": one.name, "step": steps.get(one.name, ""), **one.speed.as_dict()}
                     for one in self._choices],
        }  # fmt: skip


class Optimized(Evaluated):
    """The best optimised model."""

    def training(self) -> dict[str, Any]:
        """Return hyper-parameters and architecture; what the parts took to train is theirs."""
        return super().training() | {"training": {}}

    def result(self) -> ModelResult:
        """Return the evaluation under the name ``optimised (<technique>)``."""
        return super().result() | {"model": f"optimised ({self.name})"}
