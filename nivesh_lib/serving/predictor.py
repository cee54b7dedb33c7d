"""The answer to a query in the shape that callers get."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from nivesh_lib.models.base import TextClassifier, as_texts, load_model
from nivesh_lib.records.release import N_ALTERNATIVES

WINDOW_BATCHES = 8  # batches that are read ahead


class Predictor:
    """A loaded model that answers ``{intent, confidence, alternatives}``.

    An abstaining model adds ``abstained``: true means that the query should go to a person.
    """

    def __init__(self, model: TextClassifier, *, n_alternatives: int = N_ALTERNATIVES) -> None:
        self.model = model
        self.n_alternatives = n_alternatives
        self._names = [str(name) for name in model.classes_]

    @classmethod
    def from_directory(cls, directory: Path | str) -> Predictor:
        """Load a model directory. Raises ModelError when it is not one."""
        return cls(load_model(directory))

    def predict(self, queries: Iterable[str]) -> list[dict[str, Any]]:
        """Return one answer for each query, in order."""
        texts, answers = as_texts(queries), []
        if not texts:
            return []
        proba = self.model.predict_proba(texts)
        names = self._names
        # Stable, so that the first of equals wins here as in the model's own `predict`.
        best = (-proba).argsort(axis=1, kind="stable")[:, : self.n_alternatives + 1]
        for row, order in zip(proba.tolist(), best.tolist(), strict=True):
            ranked = [{"intent": names[i], "confidence": round(row[i], 4)} for i in order]
            answers.append({**ranked[0], "alternatives": ranked[1:]})
        if accepts := getattr(self.model, "accepts", None):
            for answer, accepted in zip(answers, accepts(texts, proba), strict=True):
                answer["abstained"] = not accepted
        return answers

    def predict_batch(
        self,
        queries: Iterable[str],
        batch_size: int = 32,
        *,
        window: int | None = None,
        progress: bool = False,
        total: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield one answer for each query, in order, however many there are.

        Queries of like length are answered together, so that a model pads little.

        Parameters
        ----------
        queries : iterable of str
            Read as the answers are taken: a file's rows need never be in memory together.
        batch_size : int
            Queries that the model is given at once.
        window : int, optional
            Queries that are read ahead and ordered by length; by default eight batches.
        progress : bool
            Show a bar on standard error.
        total : int, optional
            How many queries there are, for the bar, where ``queries`` does not know.

        Raises
        ------
        TypeError
            At once where ``queries`` is one string; after the answers before it, where it holds
            something that is not a string.
        ValueError
            ``batch_size`` or ``window`` is below 1.
        """
        if isinstance(queries, str):
            raise TypeError("queries is one string; pass a list of strings, e.g. [query]")
        ahead = WINDOW_BATCHES * batch_size if window is None else window
        if min(batch_size, ahead) < 1:
            raise ValueError(f"batch_size {batch_size}, window {ahead}: neither may be below 1")
        answers = self._answers(_windows(_texts(queries), ahead), batch_size)
        if not progress:
            return answers
        known = len(queries) if isinstance(queries, Sized) else None
        return _with_bar(answers, known if total is None else total)

    def _answers(self, windows: Iterable[list[str]], size: int) -> Iterator[dict[str, Any]]:
        for texts in windows:
            answers: list[dict[str, Any]] = [{}] * len(texts)
            order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                found = self.predict([texts[row] for row in rows])
                for row, answer in zip(rows, found, strict=True):
                    answers[row] = answer
            yield from answers


def as_line(answer: Mapping[str, Any]) -> str:
    """Return an answer as one line of text."""
    others = ", ".join(f"{a['intent']} {a['confidence']:.2f}" for a in answer["alternatives"])
    line = f"{answer['intent']} {answer['confidence']:.2f}"
    if answer.get("abstained"):
        line = f"abstain   (rather than {line})"
    return line + (f"   (else {others})" if others else "")


def _texts(queries: Iterable[str]) -> Iterator[str]:
    for position, query in enumerate(queries):
        if not isinstance(query, str):
            raise TypeError(
                f"queries[{position}] is {type(query).__name__}, not str. Mend it or leave it out; "
                "those before it are answered"
            )
        yield query


def _windows(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield up to ``size`` at a time; what comes before an error is yielded first."""
    window: list[str] = []
    try:
        for text in texts:
            window.append(text)
            if len(window) == size:
                yield window
                window = []
    except Exception:
        if window:
            yield window
        raise
    if window:
        yield window


def _with_bar(answers: Iterator[dict[str, Any]], total: int | None) -> Iterator[dict[str, Any]]:
    from tqdm.auto import tqdm

    yield from tqdm(answers, total=total, unit=" queries", leave=False, file=sys.stderr)
