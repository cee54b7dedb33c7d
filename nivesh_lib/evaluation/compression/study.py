"""Techniques tried one after the other on one model: what each costs, what each gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed, race, saved_bytes, speed_of
from nivesh_lib.evaluation.compression.gate import Judgement, judge
from nivesh_lib.evaluation.objectives import ALLOWED_LOSS
from nivesh_lib.evaluation.resampling.cross_validation import answers_of
from nivesh_lib.evaluation.scores import headline_mask, score
from nivesh_lib.records.estimate import Estimate

ONE, MANY = 1, 32  # queries of a call


@dataclass(frozen=True)
class Trial:
    """A model as it would be served, and what its like, each without one fold's rows, tell of it.

    ``judgement`` is None for the reference; ``speeds`` are of single queries and of batches.
    ``timed`` answers the first fold, which it never saw: a cascade is faster on rows it knows.
    """

    name: str
    model: Any
    timed: Any
    oof: pd.DataFrame
    accuracy: Estimate
    macro_f1: Estimate
    speeds: tuple[Speed, Speed]
    size_bytes: int
    judgement: Judgement | None

    @property
    def verdict(self) -> str:
        """What the gate said, ``reference`` for what the others are held to."""
        return self.judgement.verdict if self.judgement else "reference"

    def as_row(self) -> dict[str, Any]:
        """Return one row of a table: scores, speed, room, verdict."""
        one, many = self.speeds
        judged = self.judgement
        return {
            "model": self.name,
            "accuracy": self.accuracy.value,
            "macro_f1": self.macro_f1.value,
            "lost": -100 * judged.difference.value if judged else 0.0,
            "agreement": judged.agreement.value if judged else 1.0,
            "p50_ms": one.p50_ms,
            "p95_ms": one.p95_ms,
            "times_as_fast": judged.times_as_fast if judged else 1.0,
            "per_second": many.per_second,
            "megabytes": self.size_bytes / 1e6,
            "verdict": self.verdict,
        }


class Trials:
    """What was tried so far; the first model that is added is the reference.

    Parameters
    ----------
    frame : DataFrame
        Training rows with their folds.
    labels : sequence of str
        Of the dataset.
    allowed_loss : float
        Accuracy that a model may lose to the reference, absolute.
    calls, rounds : int
        Single queries timed, and rounds of the race against the reference, in which both models
        take turns, so that a busy machine slows both.
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
        self.tried: dict[str, Trial] = {}

    @property
    def reference(self) -> Trial:
        """The first model.

        Raises
        ------
        ValueError
            Nothing was tried yet.
        """
        if not self.tried:
            raise ValueError("nothing was tried yet; add the model that others are held to")
        return next(iter(self.tried.values()))

    def add(self, name: str, model: Any, folds: Mapping[int, Any]) -> Trial:
        """Judge, time and weigh a model; ``folds`` are its like, each without one fold's rows.

        Raises
        ------
        ValueError
            The name is taken, or a fold has no model.
        """
        if name in self.tried:
            raise ValueError(f"{name!r} was tried already; give this one another name")
        oof = answers_of(folds, self.frame, labels=self.labels)
        size, timed = saved_bytes(model), folds[self._first]
        sizes = ONE, min(MANY, len(set(self.queries)))
        one, many = speed_of(
            timed.predict,
            self.queries,
            batch_sizes=sizes,
            warmup=3,  # it has answered all rows just now
            repeats=self.calls,
            seconds=0.7,
        )
        judgement = self._judged(name, timed, oof, size) if self.tried else None
        trial = Trial(name, model, timed, oof, *self._scores(oof), (one, many), size, judgement)
        self.tried[name] = trial
        return trial

    @property
    def _first(self) -> Any:
        return min(self.frame["fold"])

    @property
    def queries(self) -> list[str]:
        """What the models are timed on: the queries of the first fold."""
        texts: list[str] = self.frame["query"][self.frame["fold"] == self._first].tolist()
        return texts

    def _scores(self, oof: pd.DataFrame) -> tuple[Estimate, Estimate]:
        rows = headline_mask(self.frame)
        predicted = oof[self.labels].idxmax(axis=1)[rows]
        told = score(self.frame["intent"][rows], predicted, n_boot=self.n_boot, seed=self.seed)
        return told["accuracy"], told["macro_f1"]

    def _judged(self, name: str, timed: Any, oof: pd.DataFrame, size: int) -> Judgement:
        first = self.reference
        racers = {first.name: first.timed.predict, name: timed.predict}
        raced = race(racers, self.queries, rounds=self.rounds, calls=max(5, self.calls // 10))
        return judge(
            name,
            oof,
            first.oof,
            self.frame,
            reference=first.name,
            allowed_loss=self.allowed_loss,
            times_as_fast=raced[1].times_as_fast,
            times_as_small=first.size_bytes / size,
            n_boot=self.n_boot,
            seed=self.seed,
        )

    def table(self) -> pd.DataFrame:
        """Return one row for each model, in the order in which they were tried."""
        if not self.tried:
            raise ValueError("nothing was tried yet; a table needs one model")
        return pd.DataFrame([trial.as_row() for trial in self.tried.values()]).set_index("model")

    def points(self) -> list[dict[str, Any]]:
        """Return one point for each model, as `reporting.figures.cost_scatter` draws them."""
        return [
            {
                "name": trial.name,
                "accuracy": trial.accuracy.as_dict(),
                "ms": trial.speeds[0].p50_ms,
                "bytes": trial.size_bytes,
            }
            for trial in self.tried.values()
        ]

    @property
    def judgements(self) -> list[Judgement]:
        """What the gate said of each model but the reference."""
        return [trial.judgement for trial in self.tried.values() if trial.judgement]

    @property
    def finding(self) -> str:
        """What the latest model brought, as the title of a figure."""
        if not self.judgements:
            raise ValueError("nothing was judged yet; add a second model")
        judged = self.judgements[-1]
        fast, small = judged.times_as_fast or 1.0, judged.times_as_small or 1.0
        return (
            f"{judged.name}: {fast:.1f} times as fast, {100 / small:.0f} % of the size, "
            f"{judged.verdict}"
        )

    @property
    def told(self) -> str:
        """What the figure of all models shows, in words."""
        return "Accuracy against latency: " + "; ".join(
            f"{t.name} {t.accuracy.value:.3f} at {t.speeds[0].p50_ms:.2f} ms, "
            f"{t.size_bytes / 1e6:.1f} MB"
            for t in self.tried.values()
        )
