"""Several models on the same rows: their ranks, and paired tests of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from nivesh_lib.evaluation.scores import (
    METRICS,
    Column,
    confusion_counts,
    label_codes,
    paired_difference,
    score,
)
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.results import HEADLINE

ALPHA = 0.05
_DRAWS = 10_000
_DRAWS_A_PAIR = 500  # so that even a corrected p can be as small as 0.002
_BLOCK_CELLS = 2_000_000  # swaps of all draws that are held at once
_BLOCK_COUNTS = 500_000  # cells of confusion matrices that are held at once
_TOLERANCE = 1e-4  # differences of a sum over labels that count as equal


@dataclass(frozen=True)
class Difference:
    """The score of one model minus that of another on the same rows, with its tests.

    ``only_this`` and ``only_other`` are the rows that one of the two alone got right;
    ``p_mcnemar`` tests these, ``p`` the metric. The corrected p-values allow for all pairs of
    models that were compared. ``differs`` is whether ``p_corrected`` is below the level.
    """

    other: str
    value: Estimate
    only_this: int
    only_other: int
    p_mcnemar: float
    p_mcnemar_corrected: float
    p: float
    p_corrected: float
    differs: bool


@dataclass(frozen=True)
class Ranked:
    """One model: its rank, such as ``1=`` for a shared first, scores by metric and differences.

    ``to_champion`` is None for the champion, ``to_next`` (the next lower score) for the last.
    """

    rank: str
    model: str
    scores: dict[str, Estimate]
    to_champion: Difference | None
    to_next: Difference | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, the scores under the names of their metrics."""
        plain = asdict(self)
        scores = plain.pop("scores")
        return {"rank": plain.pop("rank"), "model": plain.pop("model"), **scores, **plain}


@dataclass(frozen=True)
class Comparison:
    """Models in the order of their scores, and how they were compared."""

    metric: str
    champion: str
    n: int
    pairs: int
    alpha: float
    models: tuple[Ranked, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values and the sentence, ready for JSON."""
        models = [model.as_dict() for model in self.models]
        return asdict(self) | {"models": models, "sentence": self.sentence}

    @property
    def ties(self) -> tuple[str, ...]:
        """The models that do not differ significantly from the champion, best first."""
        compared = [(model.model, model.to_champion) for model in self.models]
        return tuple(name for name, apart in compared if apart and not apart.differs)

    @property
    def sentence(self) -> str:
        """The result for the champion, in one sentence."""
        if len(self.models) == 1:
            return f"{self.champion} is the only model here."
        if self.ties:
            names = ", ".join(self.ties)
            return f"On these {self.n:,} rows {self.champion} cannot be told from {names}."
        others = [model for model in self.models if model.to_champion]
        if all(model.to_champion.value.value < 0 for model in others if model.to_champion):
            return f"{self.champion} is better than each of the others, by more than chance."
        return f"{self.champion} differs from each of the others by more than chance."


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947).

    Under the null hypothesis, a row that one of two models alone gets right is equally likely to
    be either's: a binomial test of one half.
    """
    rows = only_first + only_second
    return float(binomtest(only_first, rows).pvalue) if rows else 1.0


def swap_test(
    y_true: Column,
    y_pred: Column,
    y_other: Column,
    *,
    metric: str = HEADLINE,
    n_draws: int = _DRAWS,
    seed: int = 42,
) -> float:
    """Return the two-sided p-value of a difference in ``metric`` by approximate randomisation.

    Under the null hypothesis the two answers to each row are exchangeable; p is the share of
    random exchanges with a difference at least as large (Noreen 1989, Yeh 2000). For accuracy
    the test has a closed form, which is McNemar's.
    """
    (true, first, second), labels = label_codes(y_true, y_pred, y_other)
    k, of, apart = len(labels), METRICS[metric].of, first != second  # other rows do not matter
    one, other = (confusion_counts(true, column, k) for column in (first, second))
    mine, theirs = ((true * k + column)[apart] for column in (first, second))
    shared = one - np.bincount(mine, minlength=k * k).reshape(1, k, k)

    def differences(swapped: np.ndarray) -> np.ndarray:
        """Return the difference after each draw of swaps (draws, rows apart), shape (draws,)."""
        cells = np.where(swapped, theirs, mine) + np.arange(len(swapped))[:, None] * k * k
        counts = np.bincount(cells.ravel(), minlength=len(swapped) * k * k)
        counts = counts.reshape(len(swapped), k, k) + shared
        return of(counts) - of(one + other - counts)

    n_apart = int(apart.sum())
    least = abs(of(one) - of(other))[0] - _TOLERANCE / len(np.unique(true))
    rng, as_large = np.random.default_rng(seed), 0
    block = max(1, _BLOCK_CELLS // max(n_apart, k))
    part = max(1, _BLOCK_COUNTS // max(n_apart, k * k))
    for start in range(0, n_draws, block):
        size = min(block, n_draws - start), n_apart
        swapped = rng.integers(0, 2, size=size, dtype=np.int8).astype(bool)
        for row in range(0, len(swapped), part):
            as_large += int((np.abs(differences(swapped[row : row + part])) >= least).sum())
    return (as_large + 1) / (n_draws + 1)


def ranks(names: Sequence[str], differs: Mapping[frozenset[str], bool]) -> list[str]:
    """Return a rank for each name, best first: ``1=``, ``1=``, ``3``.

    A model shares the rank of its group's first, the one with the best score, unless the two
    differ; then it begins a new group. Two models of one group are both tied with its first,
    not necessarily with each other, and the last of a group may be tied with the first of the
    next.

    Parameters
    ----------
    names
        From the best score to the worst.
    differs
        For each pair of names.
    """
    firsts: list[int] = []
    for place, name in enumerate(names):
        first = firsts[-1] if firsts else place
        starts = first == place or differs[frozenset((names[first], name))]
        firsts.append(place if starts else first)
    return [f"{first + 1}{'=' * (firsts.count(first) > 1)}" for first in firsts]


def compare(
    y_true: Column,
    predictions: Mapping[str, Column],
    *,
    metric: str = HEADLINE,
    champion: str | None = None,
    alpha: float = ALPHA,
    n_boot: int = 2000,
    seed: int = 42,
) -> Comparison:
    """Return models ranked by ``metric``, with paired intervals and tests of their differences.

    The tests of all pairs of models are corrected together (Holm 1979), because champion and
    neighbours are selected on these rows, so that any pair could have been reported. A tie means
    that these rows show no difference, not that there is none. Intervals are not corrected, so
    one can exclude 0 where the corrected test finds a tie.

    Parameters
    ----------
    predictions
        Name -> a label for each row of ``y_true``.
    champion
        The model to compare with; the best score unless named.

    Raises
    ------
    ValueError
        No model, an unknown metric or champion, or columns of another length than ``y_true``.
    """
    _check(y_true, predictions, metric, champion)
    columns = {name: np.asarray(list(column), dtype=object) for name, column in predictions.items()}
    true = np.asarray(list(y_true), dtype=object)
    scores = {n: score(true, column, n_boot=n_boot, seed=seed) for n, column in columns.items()}
    order = sorted(columns, key=lambda name: -scores[name][metric].value)
    best = champion or order[0]
    tests = _tests(true, {name: columns[name] for name in order}, metric, seed)

    def difference(this: str, other: str) -> Difference:
        test = tests[frozenset((this, other))]
        only_this, only_other = _alone(columns[this] == true, columns[other] == true)
        return Difference(
            other,
            paired_difference(
                true, columns[this], columns[other], metric=metric, n_boot=n_boot, seed=seed
            ),
            only_this,
            only_other,
            **test,
            differs=test["p_corrected"] < alpha,
        )

    places = ranks(order, {pair: test["p_corrected"] < alpha for pair, test in tests.items()})
    models = tuple(
        Ranked(
            rank,
            name,
            scores[name],
            to_champion=None if name == best else difference(name, best),
            to_next=difference(name, after) if after else None,
        )
        for rank, name, after in zip(places, order, [*order[1:], None], strict=True)
    )
    return Comparison(metric, best, len(true), len(tests), alpha, models)


def _alone(right: np.ndarray, other_right: np.ndarray) -> tuple[int, int]:
    """Return in how many rows one of two models alone is right, for each of the two."""
    return int((right & ~other_right).sum()), int((other_right & ~right).sum())


def _check(
    y_true: Column, predictions: Mapping[str, Column], metric: str, champion: str | None
) -> None:
    if not predictions:
        raise ValueError("no model to compare")
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if champion is not None and champion not in predictions:
        raise ValueError(f"champion {champion!r} is not one of {', '.join(predictions)}")
    for name, column in predictions.items():
        if len(column) != len(y_true):
            raise ValueError(f"{name} has {len(column)} predictions for {len(y_true)} rows")


def _tests(
    true: np.ndarray, columns: Mapping[str, np.ndarray], metric: str, seed: int
) -> dict[frozenset[str], dict[str, float]]:
    """Return both tests of each pair of models, alone and corrected for all of them."""
    pairs = list(combinations(columns, 2))
    if not pairs:
        return {}
    right = {name: column == true for name, column in columns.items()}
    p_mcnemar = [mcnemar(*_alone(right[a], right[b])) for a, b in pairs]
    p = p_mcnemar
    if metric != "accuracy":
        n_draws = max(_DRAWS, _DRAWS_A_PAIR * len(pairs))
        p = [
            swap_test(true, columns[a], columns[b], metric=metric, n_draws=n_draws, seed=seed)
            for a, b in pairs
        ]
    tests = {"p_mcnemar": p_mcnemar, "p": p}
    tests |= {f"{name}_corrected": multipletests(p, method="holm")[1] for name, p in tests.items()}
    return {
        frozenset(pair): {name: float(values[n]) for name, values in tests.items()}
        for n, pair in enumerate(pairs)
    }
