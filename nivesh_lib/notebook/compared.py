"""All models that were recorded for a dataset; each method adds a finding to the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.data.leakage import find_leaks
from nivesh_lib.data.splits import mask_amounts, near_duplicate_groups, near_duplicate_pairs
from nivesh_lib.data.versions import Dataset, load_dataset
from nivesh_lib.evaluation.comparison import Comparison, compare
from nivesh_lib.evaluation.confidence.calibration import Calibration, cross_fitted
from nivesh_lib.evaluation.confidence.selective import (
    AbstentionPolicy,
    Costs,
    auroc,
    certainty_of,
    cross_fitted_policy,
    fold_ood_scores,
    recorded_scope_scores,
)
from nivesh_lib.evaluation.errors import likely_label_errors, overlapping_intents, shares_of_errors
from nivesh_lib.evaluation.findings import (
    calibration,
    comparison,
    errors,
    fairness,
    quality,
    stability,
)
from nivesh_lib.evaluation.intervals import FoldInterval
from nivesh_lib.evaluation.objectives import objectives_for, values_for
from nivesh_lib.evaluation.resampling.cross_validation import (
    aligned,
    confidence_of,
    predicted_labels,
    probabilities,
)
from nivesh_lib.evaluation.resampling.learning_curve import learning_curve
from nivesh_lib.evaluation.resampling.repeated import fold_table, repeated_cross_validate
from nivesh_lib.evaluation.resampling.search import SPACES, Search, search
from nivesh_lib.evaluation.resampling.temporal import periods, temporal_scores
from nivesh_lib.evaluation.robustness.behaviour import behaviour
from nivesh_lib.evaluation.robustness.cases import (
    OUT_OF_SCOPE,
    CaseTexts,
    answers_to,
    read_case_texts,
)
from nivesh_lib.evaluation.robustness.fairness import flip_rates, segment_scores
from nivesh_lib.evaluation.scores import headline_mask, masks_by_column, masks_by_rule, masks_by_tag
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.directory import read_card
from nivesh_lib.models.neural.embedding import cached_features
from nivesh_lib.models.wrappers.ood import OodScorer
from nivesh_lib.models.wrappers.selective import Abstaining, Calibrated
from nivesh_lib.notebook.evaluated import SEGMENTS, Session, sources_of
from nivesh_lib.paths import reports_dir
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.results import ModelResult, StepResult
from nivesh_lib.wording import shown

_RULES = {
    "an amount in it": lambda text: mask_amounts(text) != text,
    "six words or fewer": lambda text: len(text.split()) <= 6,
}


@dataclass(frozen=True, eq=False)
class RecordedModel:
    """A model that a step recorded: result, out-of-fold table, answers to test cases, directory."""

    step: str
    result: ModelResult
    oof: pd.DataFrame
    case_answers: pd.DataFrame | None
    directory: Path


@dataclass(frozen=True, eq=False)
class Abstention:
    """When the best model abstains: fitted scorer, off-topic queries, and results by score.

    ``policies`` and ``certainties`` have the keys ``confidence`` and ``certainty``; the latter
    hold the scores of in-scope (n,) and off-topic queries (m,).
    """

    scorer: OodScorer
    outside: pd.DataFrame
    policies: dict[str, AbstentionPolicy]
    certainties: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(eq=False, repr=False)
class Compared:
    """The recorded models of a dataset on the same queries. Made by `session.Run.compare`."""

    run: Session
    data: Dataset
    models: Mapping[str, RecordedModel]

    def __repr__(self) -> str:
        return f"Compared({', '.join(self.models)}; best: {self.best})"

    def _param(self, name: str, default: Any) -> Any:
        return self.run.params.get(name, default)

    @property
    def n_boot(self) -> int:
        """Bootstrap draws behind each interval."""
        return int(self._param("N_BOOT", 2000))

    # --- columns ---------------------------------------------------------------------------------

    @cached_property
    def natural(self) -> np.ndarray:
        """The training rows that count for scores, a mask."""
        return headline_mask(self.data.train)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The training rows that count for scores."""
        return self.data.train[self.natural].reset_index(drop=True)

    @cached_property
    def true(self) -> np.ndarray:
        """The labels of ``rows``, shape (n,)."""
        return self.rows["intent"].to_numpy(dtype=object)

    @cached_property
    def oof(self) -> dict[str, pd.DataFrame]:
        """Model -> out-of-fold probabilities of all training rows, in their order."""
        return {name: aligned(one.oof, self.data.train["id"]) for name, one in self.models.items()}

    @cached_property
    def predicted(self) -> dict[str, np.ndarray]:
        """Model -> its answers to ``rows``, shape (n,)."""
        return {name: predicted_labels(oof)[self.natural] for name, oof in self.oof.items()}

    @cached_property
    def board(self) -> Comparison:
        """The models ranked, as `evaluation.comparison.compare`."""
        return compare(self.true, self.predicted, n_boot=self.n_boot, seed=self.run.seed)

    @property
    def best(self) -> str:
        """The name of the model that leads."""
        return self.board.champion

    @property
    def right(self) -> np.ndarray:
        """Whether the best model answers each of ``rows`` rightly, shape (n,)."""
        return np.asarray(self.predicted[self.best] == self.true)

    @cached_property
    def _texts(self) -> CaseTexts:
        return read_case_texts(self.data.ref)

    def _add(self, finding: Finding, rows: np.ndarray | None, *, surest: bool = True) -> Finding:
        """Keep a finding, with the surest, or least sure, wrong and right answer in a mask."""
        if rows is None:
            return self.run.add(finding)
        order = np.argsort(-self._stated if surest else self._stated, kind="stable")
        groups = [order[(mask & rows)[order]][:1] for mask in (~self.right, self.right)]
        examples = quality.examples_of(self.rows, self.predicted[self.best], *groups)
        return self.run.add(finding.changed(examples=examples))

    @property
    def _stated(self) -> np.ndarray:
        """The confidence of the best model in its answers to ``rows``, shape (n,)."""
        return np.asarray(confidence_of(probabilities(self.oof[self.best]))[self.natural])

    # --- who leads -------------------------------------------------------------------------------

    def leaks(self) -> Finding:
        """Whether rows or words give answers away."""
        train = self.data.train
        pairs = near_duplicate_pairs([mask_amounts(text) for text in train["query"]])
        leaks = find_leaks(
            train,
            pairs=pairs,
            held_ids=self.data.manifest["holdout"],
            recorded=self.data.manifest["cross_split_duplicates"],
        )
        found = [{"severity": one.severity, "message": one.message} for one in leaks]
        return self.run.add(errors.leaks(found, len(train), len(pairs)))

    def answer(self) -> Finding:
        """The scores of the best model against the objectives."""
        first = next(one for one in self.board.models if one.model == self.best)
        found = quality.scores(self.best, first.scores, self._objectives)
        shown_first, *_ = map(self.run.add, found)
        return shown_first

    @property
    def _objectives(self) -> list[Any]:
        return objectives_for(self.run.step, dataset=self.data.ref)

    @cached_property
    def _leader(self) -> Finding:
        p95: Any = {name: one.result.metrics.get("p95_ms") for name, one in self.models.items()}
        return comparison.leader(self.board, self.true, p95)

    def leader(self) -> Finding:
        """Who leads, by how much, and whether by more than chance."""
        return self._add(self._leader, np.ones(len(self.rows), bool))

    def changes_from(self, before: str) -> Finding:
        """What users would notice if the best model replaced another one."""
        rows = self.rows.assign(predicted=self.predicted[self.best], confidence=self._stated)
        answers = self.predicted.get(before)
        made = comparison.changes(self.best, before, rows, answers, self.data.labels)
        return self.run.add(made)

    def cost(self) -> Finding:
        """What an answer of the best model costs, as its notebook measured it."""
        metrics = self.models[self.best].result.metrics
        latency = {**metrics, "n": metrics["p95_ms_n"]}
        size, seconds = metrics.get("size_bytes"), metrics.get("fit_seconds")
        made = quality.cost(self.best, latency, self._objectives, size, seconds)  # type: ignore[arg-type]
        return self.run.add(made)

    # --- other rows, seeds and dates -------------------------------------------------------------

    def folds(self) -> Finding:
        """What it would score if it were trained on other rows."""
        return self.run.add(stability.folds(fold_table(self.oof, self.data.train), self.best))

    def over_time(self) -> Finding:
        """Whether a period is harder than the others."""
        return self.run.add(stability.over_time(self.right, periods(self.rows), self.best))

    def retrained(self) -> list[Finding]:
        """Train models on other folds, fewer rows, earlier dates, otherwise: as parameters say."""
        train = self.data.train
        settings: dict[str, Any] = {"n_boot": self.n_boot, "seed": self.run.seed}
        scores = self._trained("REPEATS", self._repeated)
        curves = self._trained(
            "LEARNING_CURVES", lambda one: learning_curve(one, train, **settings)
        )
        tables = self._trained(
            "LEARNING_CURVES", lambda one: temporal_scores(one, train, **settings)
        )
        searches = self._searches(self._param("SEARCH_MINUTES", 0.0))
        found = [
            *([stability.tuning(searches)] if searches else []),
            *([stability.repeats(scores, self._param("REPEATS", 0))] if scores else []),
            *([stability.learning(curves)] if curves else []),
            *([stability.temporal(tables)] if tables else []),
        ]
        return [self.run.add(one) for one in found or [stability.not_trained()]]

    def _trained(self, parameter: str, scored: Callable[[Any], Any]) -> dict[str, Any]:
        """Return for each of ``MODELS`` what ``scored`` makes of it, where the parameter is set."""
        names = self._param("MODELS", "").split(",") if self._param(parameter, 0) else []
        with cached_features():
            return {
                name: scored(get_model(name, random_state=self.run.seed))
                for name in filter(None, map(str.strip, names))
            }

    def _searches(self, minutes: float) -> dict[str, Search]:
        """Return model -> a search around its settings, for so many minutes each."""
        kinds = [one for one in SPACES if one in self.models] if minutes else []
        train, data, found = self.data.train, self.data, {}
        for kind in kinds:
            params = read_card(self.models[kind].directory)["params"]
            with cached_features():
                found[kind] = search(
                    get_model(kind, **params),
                    train,
                    minutes=minutes,
                    store=reports_dir() / "search" / "trials.sqlite",
                    name=f"{kind} {data.ref} {data.version.sha256[:12]}",
                    seed=self.run.seed,
                    told=partial(self.run.log_trial, kind),
                )
        return found

    def _repeated(self, model: Any) -> FoldInterval:
        grouped = self.data.train.assign(group=near_duplicate_groups(self.data.train["query"]))
        labels, times, seed = self.data.labels, self._param("REPEATS", 0), self.run.seed
        again = repeated_cross_validate(
            model, grouped, labels=labels, repeats=times, seed=seed, group="group"
        )
        return again.intervals["macro_f1"]

    # --- confidence ------------------------------------------------------------------------------

    def calibration(self) -> Finding:
        """How far confidence is off, before and after its correction."""
        made = calibration.calibration(self.best, self.calibrations, self.oof, self.data.train)
        return self._add(made, np.ones(len(self.rows), bool), surest=False)

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        """Model -> its cross-fitted temperature."""
        return cross_fitted(self.oof, self.data.train, n_boot=self.n_boot, seed=self.run.seed)

    @property
    def _threshold(self) -> float | None:
        return values_for(self.data.ref).get("min_confidence")

    def min_confidence(self) -> Finding:
        """What the confidence that the objectives ask for does, before and after correction."""
        told = self.best, self.calibrations, self.oof, self.data.train
        return self.run.add(calibration.at_threshold(*told, self._threshold))

    @cached_property
    def corrected(self) -> pd.DataFrame:
        """The corrected out-of-fold probabilities of the best model for ``rows``."""
        table = self.calibrations[self.best].applied(self.oof[self.best])
        return table[self.natural].reset_index(drop=True)

    # --- abstaining ------------------------------------------------------------------------------

    @property
    def costs(self) -> Costs:
        """What a wrong answer and a query handed over cost."""
        return Costs(self._param("COST_WRONG", 1.0), self._param("COST_HAND_OVER", 0.3))

    @cached_property
    def abstaining(self) -> Abstention | None:
        """When the best model abstains; None where no off-topic queries were answered."""
        answers = self.models[self.best].case_answers
        if not self._texts.out_of_scope or answers is None:
            return None
        train, oof = self.data.train, self.oof[self.best]
        outside = load_dataset(self._texts.out_of_scope).train
        asked, fitted = answers_to(answers, OUT_OF_SCOPE), self.calibrations[self.best]
        scorer = OodScorer()
        with cached_features():
            ood_scores = fold_ood_scores(scorer, train, outside)
            scorer = scorer.fit(train["query"]).exposed(train["query"], outside["query"])
        policies, certainties = {}, {}
        for name, own, other in (
            ("confidence", oof, asked),
            ("certainty", fitted.applied(oof), fitted.applied(asked)),
        ):
            inner, outer = recorded_scope_scores(train, own, outside, other, ood_scores=ood_scores)
            policies[name] = line = cross_fitted_policy(
                inner[self.natural],
                outer,
                costs=self.costs,
                outside_share=self._param("OUTSIDE_SHARE", 0.1),
                use_ood_score=name == "certainty",
            )
            certainties[name] = (
                certainty_of(inner[self.natural], line.in_scope),
                certainty_of(outer, line.in_scope),
            )
        return Abstention(scorer, outside, policies, certainties)

    def out_of_scope(self) -> Finding:
        """How many off-topic queries get through, with and without the OOD score."""
        found = self.abstaining
        if found is None:
            return self.run.add(calibration.not_asked("out_of_scope"))
        right = np.append(self.right, np.zeros(len(found.outside)))
        curves = {name: (np.concatenate(both), right) for name, both in found.certainties.items()}
        aurocs = {name: auroc(*both) for name, both in found.certainties.items()}
        made = calibration.out_of_scope(found.policies, aurocs, curves)
        return self.run.add(made.changed(examples=self._off_topic().examples))

    def abstention(self) -> Finding:
        """What is handed to a person at the threshold of least cost."""
        return self.run.add(self._off_topic())

    def _off_topic(self) -> Finding:
        found = self.abstaining
        if found is None:
            return calibration.not_asked("abstention")
        return calibration.abstention(
            self.best,
            found.policies["certainty"],
            costs=self.costs,
            outside_share=self._param("OUTSIDE_SHARE", 0.1),
            outside=found.outside,
            certainty=found.certainties["certainty"][1],
        )

    @cached_property
    def deployed(self) -> Calibrated | Abstaining | None:
        """The saved best model with its temperature and threshold; None where it was not saved."""
        folder, fitted = self.models[self.best].directory, self.calibrations[self.best]
        if not folder.is_dir():
            return None
        calibrated = Calibrated.of(load_model(folder), temperature=fitted.temperature)
        found = self.abstaining
        if found is None:
            return calibrated
        line = found.policies["certainty"]
        in_scope = asdict(line.in_scope) if line.in_scope else {}
        return Abstaining.of(calibrated, found.scorer, threshold=line.threshold, **in_scope)

    @cached_property
    def handed(self) -> np.ndarray | None:
        """Which of ``rows`` are handed over, as held-out folds are; None where nothing decides."""
        if self.abstaining is not None:
            return ~self.abstaining.policies["certainty"].accepted
        if self._threshold is None:
            return None
        return confidence_of(probabilities(self.corrected)) < self._threshold

    # --- for whom --------------------------------------------------------------------------------

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """The segments of ``rows``: name -> mask."""
        return masks_by_column(self.rows, SEGMENTS)

    def fairness(self) -> Finding:
        """Whether any segment is answered worse or better than the rest."""
        made = fairness.fairness(self.right, self.masks, caveats=sources_of(self.data))
        worst = min(self.masks.values(), key=lambda rows: self.right[rows].mean(), default=None)
        return self._add(made, worst)

    def handover_by_segment(self) -> Finding:
        """Whether any segment is handed over more often than the rest."""
        bar = "certainty" if self.abstaining else "confidence"
        caveats = [f"Handed over is what has too little {bar}, as above.", *sources_of(self.data)]
        made = fairness.handover_by_segment(self.handed, self.masks, caveats=caveats)
        return self.run.add(made)

    def segments(self) -> Finding:
        """Scores, calibration and hand-over of each segment by itself, and where two meet."""
        scores = segment_scores(
            self.rows,
            self.corrected,
            self.masks | _meetings(self.rows) | masks_by_rule(self.rows, _RULES),
            abstained=self.handed,
            n_boot=self.n_boot,
            seed=self.run.seed,
        )
        return self.run.add(fairness.segments(scores))

    def counterfactuals(self) -> Finding:
        """Whether who asks, or how, changes answers."""
        answers = self.models[self.best].case_answers
        found = pd.DataFrame() if answers is None else flip_rates(self.oof[self.best], answers)
        return self.run.add(fairness.counterfactuals(found))

    # --- errors ----------------------------------------------------------------------------------

    def behaviour(self) -> Finding:
        """Which behavioural tests fail."""
        pairs = self._texts.paraphrases
        found = {
            name: behaviour(self.data.train, self.oof[name], one.case_answers, paraphrases=pairs)
            for name, one in self.models.items()
            if one.case_answers is not None
        }
        return self.run.add(errors.behaviour(found, self.best))

    def overlaps(self) -> Finding:
        """Which labels are taken for each other in both directions."""
        predicted = self.predicted[self.best]
        found = overlapping_intents(self.true, predicted, self.data.labels)
        return self.run.add(errors.overlaps(self.rows, predicted, found))

    def doubtful_labels(self) -> Finding:
        """Which labels are likely wrong."""
        target = values_for(self.data.ref).get("accuracy_target")
        made = errors.doubtful_labels(self._doubted, self.data.train, target=target)
        return self.run.add(made)

    @cached_property
    def _doubted(self) -> pd.DataFrame:
        return likely_label_errors(self.data.train, self.oof[self.best])

    def would_help(self) -> Finding:
        """Which group of queries costs most accuracy."""
        groups = self.masks | masks_by_rule(self.rows, _RULES) | masks_by_tag(self.rows)
        found = shares_of_errors(self.right, groups, n_boot=self.n_boot, seed=self.run.seed)
        first = groups[found["group"].iloc[0]] if len(found) else None
        return self._add(errors.would_help(found, len(self.rows)), first)

    # --- the record ------------------------------------------------------------------------------

    def result(self) -> StepResult:
        """Return the evaluation as the run directory keeps it; tables are those of the findings."""
        fitted = self.calibrations[self.best]
        metrics: dict[str, Any] = {
            "calibration_error_before": fitted.before,
            "calibration_error": fitted.after,
            "temperature": fitted.temperature,
            "labels_in_doubt": len(self._doubted),
        }
        if self.abstaining:
            line = self.abstaining.policies["certainty"]
            metrics["let_through"] = calibration.let_through(line)
            metrics |= {"accepted": line.acceptance.value, "cost": line.cost}
        contents = {
            "model": self.best,
            "headline": self._leader.title,
            "metrics": metrics,
            "comparison": self.board.as_dict(),
        }
        return StepResult.model_validate(contents)

    def files(self) -> dict[str, Any]:
        """Return what goes with the result: the model to deploy, where the best one was saved."""
        return {"model": self.deployed}


def _meetings(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return a mask for each combination of values of the two columns of segments."""
    first, second = (rows.get(column) for column in SEGMENTS)
    if first is None or second is None:
        return {}
    both = first.astype(str).str.cat(second.astype(str), sep=" and ")
    name = shown(" and ".join(SEGMENTS))
    known = first.notna() & second.notna()
    return masks_by_column(pd.DataFrame({name: both.where(known)}), [name])
