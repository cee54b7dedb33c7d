"""A test of whether queries of now differ from those of before, with a known false-alarm rate.

Every aspect of a query is a row of numbers whose means are compared: the model's probability of
each label and whether its confidence passes a threshold (the univariate tests on a classifier's
outputs of Rabanser et al. 2019, "Failing Loudly"), the predicted label, the true one, the
language, and whether the query is longer than a threshold. One permutation of the pooled rows
recomputes all of them, so that the correction for their number (Westfall and Young 1993, min-p)
uses how they depend on each other and is exact for any sizes (Phipson and Smyth 2010).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nivesh_lib.models.text.hinglish import is_hinglish
from nivesh_lib.wording import quoted

# What is said of a batch that was selected because a model failed on it, as `Samples` has it.
HARD = ("queries chosen for being hard", "are not what production sends")
ALPHA = 0.05  # batches without drift that raise an alarm, at most
_POWER_Z = 0.8416  # standard normal quantile of a power of 0.8
_CUTS = (0.2, 0.4, 0.6, 0.8)  # quantiles of lengths and confidences that are thresholds
_BLOCK_CELLS = 200_000  # rows times draws of one block of permutations, which fits a cache


@dataclass(frozen=True, eq=False)
class Batch:
    """Queries of one side, n of them, and what is known of each.

    ``proba`` (n, n_classes) is of a model that was not trained on them. What one side lacks, or
    has of some rows only, is not compared; languages are then told by `is_hinglish` for both.
    Where texts are not kept, ``words`` and ``languages`` of both sides take their place
    (`n_words`, `language_of`).
    """

    texts: Sequence[str]
    proba: np.ndarray | None = None
    labels: Sequence[str | None] | None = None
    languages: Sequence[str | None] | None = None
    words: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.texts if self.words is None else self.words)

    @property
    def lengths(self) -> Sequence[int]:
        """How many words each query has."""
        return [n_words(text) for text in self.texts] if self.words is None else self.words


@dataclass(frozen=True)
class Change:
    """Of one aspect, what changed most: a share of the rows, or a mean probability.

    Parameters
    ----------
    errors
        The change in standard errors under no drift, without sign.
    limit
        The ``errors`` from which on the aspect has moved, at the corrected level.
    p
        Corrected for all that was tested.
    least
        The smallest change of a share that is found four times out of five; NaN where none is.
    """

    aspect: str
    what: str
    before: float
    now: float
    errors: float
    limit: float
    p: float
    least: float


@dataclass(frozen=True)
class Drift:
    """The changes, the surest first, and the numbers of rows that they rest on.

    There is none where no query differs from any other in what is compared.
    """

    changes: tuple[Change, ...]
    n_before: int
    n_now: int
    alpha: float

    @property
    def p(self) -> float:
        """The p-value of the surest change, corrected; 1 where nothing differs."""
        return self.changes[0].p if self.changes else 1.0

    @property
    def found(self) -> bool:
        """Whether drift is shown."""
        return self.p <= self.alpha


@dataclass(frozen=True, eq=False)
class _Aspect:
    """Columns (n, n_columns) whose means are compared, and what each is the mean of."""

    name: str
    columns: list[str]
    values: np.ndarray


def n_words(text: str) -> int:
    """Return how many words a query has."""
    return len(text.split())


def language_of(text: str) -> str:
    """Return ``hinglish`` or ``other``, as far as Hindi words in Latin letters tell."""
    return "hinglish" if is_hinglish(text) else "other"


def drift_between(
    before: Batch,
    now: Batch,
    classes: Sequence[str] = (),
    *,
    same_model: bool = True,
    alpha: float = ALPHA,
    n_draws: int = 999,
    seed: int = 42,
) -> Drift:
    """Test whether two batches of queries come from one source.

    Parameters
    ----------
    classes
        The labels of the columns of ``proba``.
    same_model
        False where ``proba`` is of models with different numbers of training rows: the one with
        more is surer, so how sure they are is not compared.
    alpha
        The share of batches without drift that may be called drift, whatever their sizes.

    Raises
    ------
    ValueError
        A side has fewer than two queries.
    """
    n, m = len(before), len(now)
    if min(n, m) < 2:
        raise ValueError(f"{n} and {m} queries: each side needs two or more")
    aspects = [
        one
        for one in _aspects(before, now, classes, same_model)
        if (one.values != one.values[0]).any()
    ]
    if not aspects:
        return Drift((), n, m, alpha)
    values = np.concatenate([one.values for one in aspects], axis=1, dtype=np.float32)
    errors = _standard_errors(values, m)
    changes = np.abs(_drawn_means(values, m, n_draws, seed) - values.mean(axis=0)) / errors
    ends = np.cumsum([one.values.shape[1] for one in aspects])[:-1]
    parts = np.split(changes, ends, axis=1)
    # Rounded, so that equal draws stay equal however their sums were added up.
    largest = np.round(np.stack([part.max(axis=1) for part in parts], axis=1), 3)
    corrected, limits = _corrected(largest, alpha)
    found = [
        _change(*one, n, m)
        for one in zip(aspects, (part[0] for part in parts), corrected, limits, strict=True)
    ]
    return Drift(tuple(sorted(found, key=lambda one: (one.p, -one.errors))), n, m, alpha)


def _change(aspect: _Aspect, errors: np.ndarray, p: float, limit: float, n: int, m: int) -> Change:
    most = int(errors.argmax())
    now, before = (side.mean() for side in np.split(aspect.values[:, most], [m]))
    least = float(_least(aspect.values.mean(axis=0), limit, n, m).max())
    return Change(
        aspect.name,
        aspect.columns[most],
        before=float(before),
        now=float(now),
        errors=float(errors[most]),
        limit=float(limit),
        p=float(p),
        least=least if least < 1 else np.nan,
    )


def _least(shares: np.ndarray, limit: float, n: int, m: int) -> np.ndarray:
    """Return the change towards a half that is found four times out of five, for each share."""
    rarer = np.minimum(shares, 1 - shares)
    change = np.zeros_like(rarer)
    for _ in range(20):  # of a fixed point: a larger share varies more
        both, moved = (np.minimum(rarer + change * part, 0.5) for part in (m / (n + m), 1))
        null = both * (1 - both) * (1 / n + 1 / m)
        change = limit * np.sqrt(null) + _POWER_Z * np.sqrt(
            rarer * (1 - rarer) / n + moved * (1 - moved) / m
        )
    return change


def natural_first(selection: np.ndarray, least: int = 20) -> tuple[np.ndarray, bool]:
    """Return which rows to compare, and whether these were chosen for being hard.

    Natural rows come first; hard ones where next to nothing else is there, ``least`` rows.

    Parameters
    ----------
    selection
        ``hard`` for a row that was chosen because a model failed on it, (n,).
    """
    hard = np.asarray(selection, dtype=object) == "hard"
    only_hard = bool((~hard).sum() < min(least, hard.sum()))
    return (hard if only_hard else ~hard), only_hard


def _aspects(
    before: Batch, now: Batch, classes: Sequence[str], same_model: bool
) -> Iterator[_Aspect]:
    """Yield what can be compared, the rows of now first."""
    if now.proba is not None and before.proba is not None:
        proba = np.concatenate([now.proba, before.proba])
        means = [f"the mean probability of {quoted(name)}" for name in classes]
        columns = proba
        if same_model:
            sure = _above("probabilities", proba.max(axis=1), "answers surer than {:.2f}")
            means, columns = means + sure.columns, np.hstack([proba, sure.values])
        yield _Aspect("probabilities", means, columns)
        predicted = [classes[best] for best in proba.argmax(axis=1)]
        yield _shares("predicted", predicted, "queries taken for {}")
    if labels := _known(now.labels, before.labels):
        yield _shares("label", labels, "queries on {}")
    languages = _known(now.languages, before.languages) or [
        language_of(text) for text in [*now.texts, *before.texts]
    ]
    yield _shares("language", languages, "queries in {}")
    words = np.array([*now.lengths, *before.lengths])
    yield _above("length", words, "queries of more than {:g} words")


def _known(*sides: Sequence[str | None] | None) -> list[str]:
    """Return the values of both sides; none where one is missing."""
    values = [value for side in sides for value in (side if side is not None else [None])]
    strings = [value for value in values if isinstance(value, str)]
    return strings if len(strings) == len(values) else []


def _shares(name: str, values: Sequence[str], what: str) -> _Aspect:
    found = sorted(Counter(values).items(), key=lambda one: (one[1], one[0]))
    names = [value for value, _ in (found[:1] if len(found) == 2 else found)]  # of two, the rarer
    columns = [what.format(quoted(value)) for value in names]
    return _Aspect(name, columns, np.asarray(values)[:, None] == np.asarray(names))


def _above(name: str, values: np.ndarray, what: str) -> _Aspect:
    cuts = np.unique(np.quantile(values, _CUTS, method="lower"))
    return _Aspect(name, [what.format(cut) for cut in cuts], values[:, None] > cuts)


def _standard_errors(values: np.ndarray, m: int) -> np.ndarray:
    """Return the standard error of the mean of ``m`` rows that are drawn from all, (n_columns,).

    That of a share is at least that of one row in ``m``: a value that hardly any row has would
    be far out in every batch that has one of them.
    """
    n = len(values)
    share = ((values == 0) | (values == 1)).all(axis=0)
    variance = np.maximum(values.var(axis=0) * n / (n - 1), share * (m - 1) / m**2)
    return np.sqrt(np.maximum(variance, 1e-12) * (1 / m - 1 / n))


def _drawn_means(values: np.ndarray, m: int, n_draws: int, seed: int) -> np.ndarray:
    """Return the means of the first ``m`` rows, and of as many random ones in each draw."""
    rng, n = np.random.default_rng(seed), len(values)
    means, size = [values[:m].mean(axis=0, keepdims=True)], max(1, _BLOCK_CELLS // n)
    for start in range(0, n_draws, size):
        keys = rng.random((min(size, n_draws - start), n))
        drawn = keys <= np.partition(keys, m - 1, axis=1)[:, m - 1 : m]
        means.append(drawn.astype(np.float32) @ values / m)
    return np.concatenate(means)


def _corrected(largest: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the corrected p-value of each aspect's first draw, and its value at ``alpha``.

    Parameters
    ----------
    largest
        The largest change of each aspect in each draw, (n_draws, n_aspects); the first is real.
    """
    ordered = np.sort(largest, axis=0)
    below = [np.searchsorted(*one) for one in zip(ordered.T, largest.T, strict=True)]
    p = 1 - np.stack(below, axis=1) / len(largest)
    smallest = np.sort(p.min(axis=1))
    share = np.searchsorted(smallest, p, side="right") / len(p)
    reached = np.where(share <= alpha, largest, np.inf)
    return share[0], reached.min(axis=0)
