"""A model that answers a text that it was asked before from memory."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier
from nivesh_lib.models.wrappers.selective import _Wrapper


class Remembering(_Wrapper):
    """Another model's answers; a text that comes again, letter for letter, costs no second one.

    Texts are compared as the model reads them, after `base.prepare`. They stay in memory only, the
    ones that were asked for longest ago go first, and nothing of them is saved with the model.
    Several threads may ask at once. Whoever times models leaves this one out: of texts that repeat
    it tells how often they do, not how fast the model is.

    Parameters
    ----------
    model : TextClassifier
        The model to wrap; ``fit`` fits a copy of it and leaves it alone.
    size : int
        Answers that are kept, 8 bytes for each label and the text.
    random_state : int, optional
        Seed of the model inside; None leaves it its own.

    Examples
    --------
    >>> from nivesh_lib.models.base import get_model
    >>> model = Remembering(get_model("tfidf"), size=100)
    >>> model = model.fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax", "income tax"]).tolist(), model.remembered
    (['tax', 'tax'], 1)
    """

    kind: ClassVar[str] = "remembering"

    def __init__(
        self,
        model: TextClassifier | None = None,
        size: int = 10_000,
        random_state: int | None = None,
    ) -> None:
        self.model = model
        self.size = size
        self.random_state = random_state

    @classmethod
    def of(cls, fitted: TextClassifier, *, size: int = 10_000) -> Self:
        """Wrap a model that was fitted already."""
        wrapped = cls(model=clone(fitted), size=size)
        wrapped._check()
        wrapped._take(fitted)
        return wrapped

    @property
    def remembered(self) -> int:
        """How many answers are kept now."""
        check_is_fitted(self)
        return len(self._answers)

    def _check(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise ValueError(f"size {self.size!r} is not a whole number from 1 on")

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes along: no lock, which belongs to this process."""
        return {name: value for name, value in super().__getstate__().items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` returned."""
        super().__setstate__(state)
        self._lock = Lock()

    def _take(self, fitted: TextClassifier) -> None:
        super()._take(fitted)
        self._answers: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def _proba(self, texts: list[str]) -> np.ndarray:
        known = self._recall(texts)
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            # Copies: a row of a large table would keep the whole table in memory.
            rows = (row.copy() for row in self.model_._proba(new))
            answers = dict(zip(new, rows, strict=True))
            self._remember(answers)
            known |= answers
        return np.array([known[text] for text in texts])

    def _recall(self, texts: list[str]) -> dict[str, np.ndarray]:
        with self._lock:
            known = {text: self._answers[text] for text in texts if text in self._answers}
            for text in known:
                self._answers.move_to_end(text)
        return known

    def _remember(self, answers: dict[str, np.ndarray]) -> None:
        with self._lock:
            self._answers |= answers
            while len(self._answers) > self.size:
                self._answers.popitem(last=False)

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        super()._restore(directory, state)
        self._check()
