"""The compression study: accuracy, speed and size of techniques applied to one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed, benchmark_interleaved, saved_bytes, speed_of
from nivesh_lib.evaluation.compression.gate import GateDecision, decide
from nivesh_lib.evaluation.objectives import ALLOWED_LOSS
from nivesh_lib.evaluation.resampling.cross_validation import CrossValidation, out_of_fold
from nivesh_lib.evaluation.summary import headline_scores
from nivesh_lib.records.estimate import Estimate

ONE, MANY = 1, 32  # queries of a call


@dataclass(frozen=True)
class Candidate:
    """A model of the study, with out-of-fold scores of the same technique applied to each fold.

    ``decision`` is None for the reference; ``speeds`` are of single queries and of batches.
    ``timed`` is the model of the first fold, timed on that fold's rows, since a cascade is faster
    on rows that it was trained on.
    """

    name: str
    model: Any
    timed: Any
    oof: pd.DataFrame
    scores: dict[str, Estimate]
    speeds: tuple[Speed, Speed]
    size_bytes: int
    decision: GateDecision | None

    @property
    def verdict(self) -> str:
        """The verdict of the gate, or ``reference``."""
        return self.decision.verdict if self.decision else "reference"

    def as_row(self) -> dict[str, Any]:
        """Return one row of a table: scores, speed, size, verdict."""
        (one, many), decision = self.speeds, self.decision
        return {
            "model": self.name,
            **{name: estimate.value for name, estimate in self.scores.items()},
            "lost": -100 * decision.difference.value if decision else 0.0,
            "agreement": decision.agreement.value if decision else 1.0,
            "p50_ms": one.p50_ms,
            "p95_ms": one.p95_ms,
            "times_as_fast": decision.times_as_fast if decision else 1.0,
            "per_second": many.per_second,
            "megabytes": self.size_bytes / 1e6,
            "verdict": self.verdict,
        }


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
    calls, rounds : int
        Single queries timed, and rounds of the interleaved benchmark against the reference.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        labels: Sequence[str],
        allowed_loss: float = ALLOWED_LOSS,
        calls: int = 200,
        rounds: int = 3,
        n_boot: int = 2000,
        seed: int = 42,
    ) -> None:
        if min(calls, rounds) < 1:
            raise ValueError(f"calls {calls}, rounds {rounds}: neither may be below 1")
        self.frame, self.labels = frame, list(labels)
        self.allowed_loss = allowed_loss
        self.calls, self.rounds, self.n_boot, self.seed = calls, rounds, n_boot, seed
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

    def add(self, name: str, model: Any, folds: Mapping[int, Any]) -> Candidate:
        """Evaluate and time a model.

        Parameters
        ----------
        folds
            Fold -> the same technique applied to the model trained without that fold's rows.

        Raises
        ------
        ValueError
            The name is taken, or a fold has no model.
        """
        if name in self.candidates:
            raise ValueError(f"{name!r} is in the study already; give this one another name")
        oof = out_of_fold(folds, self.frame, labels=self.labels)
        size, timed = saved_bytes(model), folds[self._first]
        sizes = ONE, min(MANY, len(set(self.queries)))
        one, many = speed_of(
            timed.predict,
            self.queries,
            batch_sizes=sizes,
            warmup=3,  # it has just predicted all rows
            repeats=self.calls,
            seconds=0.7,
        )
        decision = self._decision(name, timed, oof, size) if self.candidates else None
        scores = headline_scores(
            self.frame, CrossValidation(oof, ()), n_boot=self.n_boot, seed=self.seed
        )
        added = Candidate(name, model, timed, oof, scores, (one, many), size, decision)
        self.candidates[name] = added
        return added

    @property
    def _first(self) -> Any:
        return min(self.frame["fold"])

    @property
    def queries(self) -> list[str]:
        """The queries of the first fold, on which the models are timed."""
        texts: list[str] = self.frame["query"][self.frame["fold"] == self._first].tolist()
        return texts

    def _decision(self, name: str, timed: Any, oof: pd.DataFrame, size: int) -> GateDecision:
        first, calls = self.reference, max(5, self.calls // 10)
        models = {first.name: first.timed.predict, name: timed.predict}
        _, speed = benchmark_interleaved(models, self.queries, rounds=self.rounds, calls=calls)
        return decide(
            name,
            oof,
            first.oof,
            self.frame,
            reference=first.name,
            allowed_loss=self.allowed_loss,
            times_as_fast=speed.times_as_fast,
            times_as_small=first.size_bytes / size,
            n_boot=self.n_boot,
            seed=self.seed,
        )

    def table(self) -> pd.DataFrame:
        """Return one row for each candidate, in the order in which they were added."""
        if not self.candidates:
            raise ValueError("the study is empty; a table needs one model")
        rows = [candidate.as_row() for candidate in self.candidates.values()]
        return pd.DataFrame(rows).set_index("model")

    def points(self) -> list[dict[str, Any]]:
        """Return one point for each candidate, as `reporting.figures.cost_scatter` draws them."""
        return [
            {
                "name": one.name,
                "accuracy": one.scores["accuracy"].as_dict(),
                "ms": one.speeds[0].p50_ms,
                "bytes": one.size_bytes,
            }
            for one in self.candidates.values()
        ]

    @property
    def decisions(self) -> list[GateDecision]:
        """The decisions of the gate on all candidates but the reference."""
        return [one.decision for one in self.candidates.values() if one.decision]

    @property
    def finding(self) -> str:
        """The result of the latest candidate, as the title of a figure."""
        if not self.decisions:
            raise ValueError("the study has no decision yet; add a second model")
        latest = self.decisions[-1]
        fast, small = latest.times_as_fast or 1.0, latest.times_as_small or 1.0
        return (
            f"{latest.name}: {fast:.1f} times as fast, {100 / small:.0f} % of the size, "
            f"{latest.verdict}"
        )

    @property
    def alt_text(self) -> str:
        """The figure of all candidates in words."""
        return "Accuracy against latency: " + "; ".join(
            f"{one['name']} {one['accuracy']['value']:.3f} at {one['ms']:.2f} ms, "
            f"{one['bytes'] / 1e6:.1f} MB"
            for one in self.points()
        )
