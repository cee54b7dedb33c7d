"""The compression study: accuracy, size and, after one race, the speed of techniques."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.compression.gate import Choice, decide
from nivesh_lib.evaluation.objectives import ALLOWED_LOSS
from nivesh_lib.evaluation.resampling.cross_validation import CrossValidation, out_of_fold
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.evaluation.summary import headline_scores


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
        self.candidates: dict[str, Choice] = {}

    @property
    def reference(self) -> Choice:
        """The first model."""
        return next(iter(self.candidates.values()))

    def add(
        self, name: str, model_of: Callable[[int], Any], *, size_bytes: int, saved: bool = True
    ) -> Choice:
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
    ) -> Choice:
        """Add a model whose out-of-fold answers are known; see `add`."""
        common: dict[str, Any] = {"n_boot": self.n_boot, "seed": self.seed}
        if not self.candidates:
            scores = headline_scores(self.frame, CrossValidation(oof, ()), **common)
            made = Choice(name, oof, scores, size_bytes)
        elif name == self.reference.name:
            raise ValueError(f"{name!r} is the reference; give this one another name")
        else:
            first = self.reference
            decision = decide(
                name,
                oof,
                first.oof,
                self.frame,
                reference=first.name,
                allowed_loss=self.allowed_loss,
                times_as_small=(first.size_bytes or 0) / size_bytes,
                **common,
            )
            made = Choice(name, oof, decision.scores, size_bytes, decision, saved)
        self.candidates[name] = made
        return made

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
            self.candidates[name] = replace(one, timed=speeds[name], decision=decision)

    def timed_rows(self, handed: pd.Series | None = None) -> pd.DataFrame:
        """Return the rows of the fold to time models on, with the column ``handed``.

        It is the one of which a cascade hands over most nearly what it does of all rows that
        count for scores.

        Parameters
        ----------
        handed
            Which rows of the frame a cascade hands over; none without one.
        """
        rows = self.frame.assign(handed=False if handed is None else handed.to_numpy())
        rows = rows[headline_mask(rows)]
        away = (rows.groupby("fold")["handed"].mean() - rows["handed"].mean()).abs()
        return rows[rows["fold"] == away.idxmin()]
