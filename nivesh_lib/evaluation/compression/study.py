"""The compression study: accuracy, size and, after one race, the speed of techniques."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.compression.gate import Choice, GateDecision, decide
from nivesh_lib.evaluation.objectives import ALLOWED_LOSS
from nivesh_lib.evaluation.resampling.cross_validation import CrossValidation, out_of_fold
from nivesh_lib.evaluation.summary import headline_scores
from nivesh_lib.records.estimate import Estimate


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model of the study, with out-of-fold answers of the same technique applied to each fold.

    ``decision`` is None for the reference, ``speed`` before the race. What cannot be ``saved``
    cannot be served.
    """

    name: str
    oof: pd.DataFrame
    scores: dict[str, Estimate]
    size_bytes: int
    decision: GateDecision | None
    saved: bool = True
    speed: Speed | None = None

    @property
    def verdict(self) -> str:
        """The verdict of the gate, ``reference``, or ``not saved`` for what it would have kept."""
        if self.decision is None:
            return "reference"
        kept = self.decision.verdict == "kept"
        return self.decision.verdict if self.saved or not kept else "not saved"

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

    def add(
        self, name: str, model_of: Callable[[int], Any], *, size_bytes: int, saved: bool = True
    ) -> Candidate:
        """Evaluate a model, in place of an earlier one of its name.

        Parameters
        ----------
        model_of
            Returns the technique applied to the model trained without the rows of a fold; called
            for one fold after the other, so that one is in memory at a time.
        size_bytes
            Of the technique applied to the model trained on all rows, as `saved_bytes` returns it.

        Raises
        ------
        ValueError
            The name is that of the reference.
        """
        oof = out_of_fold(model_of, self.frame, labels=self.labels)
        return self.add_answers(name, oof, size_bytes=size_bytes, saved=saved)

    def add_answers(
        self, name: str, oof: pd.DataFrame, *, size_bytes: int, saved: bool = True
    ) -> Candidate:
        """Add a model whose out-of-fold answers are known; see `add`."""
        if self.candidates and name == self.reference.name:
            raise ValueError(f"{name!r} is the reference; give this one another name")
        common: dict[str, Any] = {"n_boot": self.n_boot, "seed": self.seed}
        decision = None
        if self.candidates:
            first = self.reference
            decision = decide(
                name,
                oof,
                first.oof,
                self.frame,
                reference=first.name,
                allowed_loss=self.allowed_loss,
                times_as_small=first.size_bytes / size_bytes,
                **common,
            )
        cv = CrossValidation(oof, ())
        scores = decision.scores if decision else headline_scores(self.frame, cv, **common)
        added = self.candidates[name] = Candidate(name, oof, scores, size_bytes, decision, saved)
        return added

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

    @property
    def decisions(self) -> list[GateDecision]:
        """The decisions of the gate on all candidates but the reference."""
        return [one.decision for one in self.candidates.values() if one.decision]
