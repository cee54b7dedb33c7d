"""The last answers of a server, tested against those to the held-out rows of its release."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple, Self

import numpy as np

from nivesh_lib.evaluation.drift import Batch, Drift, drift_between, language_of, n_words
from nivesh_lib.evaluation.intervals import share_of
from nivesh_lib.records.release import AnsweredRow
from nivesh_lib.releases.package import Package
from nivesh_lib.serving.classifier import IntentClassifier
from nivesh_lib.serving.released import Source

WINDOW = 500  # answers that are tested, the last ones
LEAST = 100  # from so many on
ENOUGH = 20  # held-out rows, as for `nivesh drift`


class _Seen(NamedTuple):
    """What is kept of a query: the most likely intents, and two traits; no text."""

    probabilities: dict[str, float]
    words: int
    language: str


def least_accuracy(source: Source) -> float:
    """Return the low end of a release's accuracy on its held-out rows; 1 where it is unknown."""
    rows = Package(source.folder.parent).answers() if source.release else []
    return share_of(np.array([row.predicted == row.label for row in rows])).low if rows else 1.0


class DriftWatch:
    """Keeps numbers of the last answers of one worker.

    Parameters
    ----------
    reference : sequence of AnsweredRow
        Answers of the same model to rows that it was not trained on.
    classes : sequence of str
        All intents of the model.
    every : float
        Seconds between two tests; one takes 10 ms, in a thread.
    """

    def __init__(
        self, reference: Sequence[AnsweredRow], classes: Sequence[str], every: float = 60.0
    ) -> None:
        self.classes, self.every = list(classes), every
        self._before = self._batch([_row(row) for row in reference])
        self._last: deque[_Seen] = deque(maxlen=WINDOW)
        self._fresh = False
        self._tested = monotonic()

    @classmethod
    def of(cls, classifier: IntentClassifier, every: float = 60.0) -> Self | None:
        """Return a watch where a release is served whose package has enough to compare with."""
        source = classifier.source
        rows = Package(source.folder.parent).answers() if source.release else []
        known = [row for row in rows if row.language]  # releases of before kept no language
        enough = len(known) >= ENOUGH
        return cls(known, list(classifier.label_to_id), every) if enough else None

    def see(self, queries: Sequence[str], answers: Sequence[dict[str, Any]]) -> None:
        """Keep what is compared of queries and their answers."""
        for query, answer in zip(queries[-WINDOW:], answers[-WINDOW:], strict=True):
            ranked = [answer, *answer["alternatives"]]
            probabilities = {one["intent"]: one["confidence"] for one in ranked}
            self._last.append(_Seen(probabilities, n_words(query), language_of(query)))
        self._fresh = True

    @property
    def due(self) -> bool:
        """Whether there are enough answers, new ones among them, and it is time to test."""
        enough = self._fresh and len(self._last) >= LEAST
        return enough and monotonic() - self._tested >= self.every

    async def test(self) -> Drift:
        """Return the verdict of `nivesh drift` on the last answers, without holding up others."""
        self._fresh, self._tested = False, monotonic()
        now = self._batch(list(self._last))
        return await asyncio.to_thread(drift_between, self._before, now, self.classes)

    def _batch(self, rows: Sequence[_Seen]) -> Batch:
        proba = np.array([[row.probabilities.get(c, 0.0) for c in self.classes] for row in rows])
        languages = [row.language for row in rows]
        return Batch((), proba, languages=languages, words=[row.words for row in rows])


def _row(row: AnsweredRow) -> _Seen:
    ranked = {row.predicted: row.confidence} | row.alternatives
    # As precise as answers are, so that rounding alone is no difference.
    rounded = {intent: round(value, 4) for intent, value in ranked.items()}
    return _Seen(rounded, row.words, row.language)
