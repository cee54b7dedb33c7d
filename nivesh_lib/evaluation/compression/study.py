"""The compression study: accuracy, size and, after one race, the speed of techniques."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed, saved_bytes
from nivesh_lib.evaluation.compression.gate import Choice, GateDecision, decide
from nivesh_lib.evaluation.objectives import ALLOWED_LOSS
from nivesh_lib.evaluation.resampling.cross_validation import CrossValidation, out_of_fold
from nivesh_lib.evaluation.summary import headline_scores
from nivesh_lib.records.estimate import Estimate


@dataclass(frozen=True)
class Candidate:
    """A model of the study, with out-of-fold answers of the same technique applied to each fold.

    ``decision`` is None for the reference, ``speed`` before the race. ``timed`` is what the race
    calls in place of ``model``.
    """

    name: str
    model: Any
    timed: Any
    oof: pd.DataFrame
    scores: dict[str, Estimate]
    size_bytes: int
    decision: GateDecision | None
    speed: Speed | None = None

    @property
    def verdict(self) -> str:
        """The verdict of the gate, ``reference``, or ``not saved`` for what cannot be served."""
        if self.decision is None:
            return "reference"
        unsaved = hasattr(self.model, "size_bytes") and self.decision.verdict == "kept"
        return "not saved" if unsaved else self.decision.verdict

    def as_choice(self) -> Choice:
        """Return it as a model that could be served.

        Raises
        ------
        ValueError
            It was not timed yet.
        """
        if self.speed is None:
            raise ValueError(f"{self.name!r} has not been timed; race the models first")
        verdict = "" if self.decision is None else self.verdict
        return Choice(self.name, self.oof, self.scores, self.speed, self.size_bytes, verdict)

    def as_row(self) -> dict[str, Any]:
        """Return one row of a table: scores, difference in points, size, verdict, and speed."""
        decision = self.decision
        row: dict[str, Any] = {
            "model": self.name,
            **{name: estimate.value for name, estimate in self.scores.items()},
            "difference": 100 * decision.difference.value if decision else 0.0,
            "agreement": decision.agreement.value if decision else 1.0,
            "megabytes": self.size_bytes / 1e6,
            "verdict": self.verdict,
        }
        if self.speed is None:
            return row
        fast = decision.times_as_fast if decision else 1.0
        return row | {"p50_ms": self.speed.p50_ms, "p95_ms": self.speed.p95_ms,
                      "times_as_fast": fast}  # fmt: skip


class CompressionStudy:
    """The candidates of a study; the first model that is added is the reference.

    Parameters
    ----------
    frame : DataFrame
        Training rows with their folds.
    labels : sequence of str
        Of the dataset.
    allowed_loss : float
        Accuracy that a model may lose to the reference, absolute.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        labels: Sequence[str],
        allowed_loss: float = ALLOWED_LOSS,
        n_boot: int = 2000,
        seed: int = 42,
    ) -> None:
        self.frame, self.labels = frame, list(labels)
        self.allowed_loss, self.n_boot, self.seed = allowed_loss, n_boot, seed
        self.candidates: dict[str, Candidate] = {}

    @property
    def reference(self) -> Candidate:
        """The first model.

        Raises
        ------
        ValueError
            The study has no candidate.
        """
        if not self.candidates:
            raise ValueError("the study is empty; add the reference model first")
        return next(iter(self.candidates.values()))

    def add(self, name: str, model: Any, model_of: Callable[[int], Any]) -> Candidate:
        """Evaluate a model.

        Parameters
        ----------
        model_of
            Returns the same technique applied to the model trained without the rows of a fold;
            called for one fold after the other, so that one is in memory at a time.

        Raises
        ------
        ValueError
            The name is taken.
        """
        self._check(name)
        oof = out_of_fold(model_of, self.frame, labels=self.labels)
        return self.add_answers(name, model, oof)

    def add_answers(
        self, name: str, model: Any, oof: pd.DataFrame, *, timed: Any = None
    ) -> Candidate:
        """Add a model whose out-of-fold answers are known.

        Parameters
        ----------
        timed
            What the race calls in its place: for a cascade one that has not learned from the
            queries of the race, since it is faster on those that it has.
        """
        self._check(name)
        size = saved_bytes(model)
        common: dict[str, Any] = {"n_boot": self.n_boot, "seed": self.seed}
        if not self.candidates:
            scores = headline_scores(self.frame, CrossValidation(oof, ()), **common)
            decision = None
        else:
            first = self.reference
            decision = decide(
                name,
                oof,
                first.oof,
                self.frame,
                reference=first.name,
                allowed_loss=self.allowed_loss,
                times_as_small=first.size_bytes / size,
                **common,
            )
            scores = decision.scores
        added = Candidate(
            name, model, model if timed is None else timed, oof, scores, size, decision
        )
        self.candidates[name] = added
        return added

    def _check(self, name: str) -> None:
        if name in self.candidates:
            raise ValueError(f"{name!r} is in the study already; give this one another name")

    def set_speeds(self, speeds: Mapping[str, Speed]) -> None:
        """Take the speed of each candidate from one race, and decide which are faster.

        Parameters
        ----------
        speeds
            Name -> speed of single queries, of every candidate.
        """
        first = speeds[self.reference.name].p50_ms
        for name, one in self.candidates.items():
            decision = one.decision and one.decision.timed(first / speeds[name].p50_ms)
            self.candidates[name] = replace(one, speed=speeds[name], decision=decision)

    @property
    def queries(self) -> list[str]:
        """The queries of the first fold, on which the models are timed."""
        texts: list[str] = self.frame["query"][self.frame["fold"] == self.first_fold].tolist()
        return texts

    @property
    def first_fold(self) -> int:
        """The fold whose queries are timed."""
        return int(min(self.frame["fold"]))

    def table(self) -> pd.DataFrame:
        """Return one row for each candidate, in the order in which they were added."""
        rows = [candidate.as_row() for candidate in self.candidates.values()]
        return pd.DataFrame(rows, columns=list(self.reference.as_row())).set_index("model")

    @property
    def decisions(self) -> list[GateDecision]:
        """The decisions of the gate on all candidates but the reference."""
        return [one.decision for one in self.candidates.values() if one.decision]
