"""Several models on the same rows: which one leads, and which differences are more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from nivesh_lib.evaluation.scores import Column, paired_difference, score
from nivesh_lib.records.estimate import Estimate, as_columns

METRICS = ("accuracy", "macro_f1")
ALPHA = 0.05
_DRAWS = 10_000
_DRAWS_A_PAIR = 500  # so that even a corrected p can be as small as 0.002
_BLOCK_CELLS = 2_000_000  # swapped rows of all draws that are held at once


@dataclass(frozen=True)
class Difference:
    """What one model scores more than another on the same rows, and whether that may be chance.

    ``only_this`` and ``only_other`` are the rows that one of the two alone got right, and
    ``p_mcnemar`` tests these; ``p`` tests the metric. The corrected ones count all pairs of
    the models compared. ``differs`` says whether ``p_corrected`` is below the level.
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
    """One model: its rank, such as ``1=`` for a shared first one, scores and differences.

    ``to_champion`` is None for the champion, ``to_next`` (the next lower score) for the last.
    """

    rank: str
    model: str
    accuracy: Estimate
    macro_f1: Estimate
    to_champion: Difference | None
    to_next: Difference | None

    @property
    def scores(self) -> dict[str, Estimate]:
        """The scores by name."""
        return {name: getattr(self, name) for name in METRICS}


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
        models = [asdict(model) for model in self.models]
        return asdict(self) | {"models": models, "sentence": self.sentence}

    def table(self) -> pd.DataFrame:
        """Return one row for each model, best first.

        ``rank``, ``model``, both scores with ``_low`` and ``_high``, and against the champion:
        ``difference`` of the metric with its interval, ``only_this`` and ``only_champion`` (rows
        that one alone got right), ``p_mcnemar`` and ``p`` (of the metric), both corrected, and
        ``differs``; these are missing for the champion itself.
        """
        return pd.DataFrame([_flat(model) for model in self.models])

    @property
    def ties(self) -> tuple[str, ...]:
        """The models whose difference to the champion may be chance, best first."""
        compared = [(model.model, model.to_champion) for model in self.models]
        return tuple(name for name, apart in compared if apart and not apart.differs)

    @property
    def sentence(self) -> str:
        """What the table says of the champion, in one sentence."""
        if len(self.models) == 1:
            return f"{self.champion} is the only model here."
        if self.ties:
            names = ", ".join(self.ties)
            return f"On these {self.n:,} rows {self.champion} cannot be told from {names}."
        others = [model for model in self.models if model.to_champion]
        if all(model.to_champion.value.value < 0 for model in others if model.to_champion):
            return f"{self.champion} is better than each of the others, by more than chance."
        return f"{self.champion} differs from each of the others by more than chance."


def _flat(model: Ranked) -> dict[str, Any]:
    row: dict[str, Any] = {"rank": model.rank, "model": model.model}
    row |= as_columns({name: getattr(model, name) for name in METRICS})
    apart = model.to_champion
    if apart is not None:
        row |= apart.value.columns("difference")
        row |= {"only_this": apart.only_this, "only_champion": apart.only_other}
        row |= {"p_mcnemar": apart.p_mcnemar_corrected, "p": apart.p_corrected}
        row["differs"] = apart.differs
    return row


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test (1947).

    Under the null hypothesis, a row that one of two models alone gets right is as likely the
    one's as the other's: a binomial test of a half.
    """
    rows = only_first + only_second
    return float(binomtest(only_first, rows).pvalue) if rows else 1.0


def swap_test(
    y_true: Column, y_pred: Column, y_other: Column, *, n_draws: int = _DRAWS, seed: int = 42
) -> float:
    """Return the two-sided p of the difference in macro-F1, by swapping answers at random.

    Were the two models alike, each row's two answers could be swapped; p is the share of such
    swaps with a difference at least as large (approximate randomisation; Noreen 1989, Yeh
    2000). For accuracy the same test has a closed form, which is McNemar's.
    """
    labels, codes = np.unique(
        np.concatenate([np.asarray(list(c), dtype=object) for c in (y_true, y_pred, y_other)]),
        return_inverse=True,
    )
    true, first, second = np.split(codes, 3)
    k, eye = len(labels), np.eye(len(labels), dtype=np.float32)
    support = np.bincount(true, minlength=k)
    apart = first != second  # only these rows matter to a swap

    def f1_sums(swapped: np.ndarray) -> np.ndarray:
        """Return the difference in the sum of F1 for each row of swaps, shape (draws,)."""
        sums = []
        for mine, theirs, sign in ((first, second, 1), (second, first, -1)):
            hits = np.bincount(true[mine == true], minlength=k)
            claimed = np.bincount(mine, minlength=k)
            change = eye[theirs[apart]] - eye[mine[apart]]
            moved = change * eye[true[apart]]
            f1 = 2 * (hits + swapped @ moved) / np.maximum(support + claimed + swapped @ change, 1)
            sums.append(sign * f1[:, support > 0].sum(axis=1))
        return np.sum(sums, axis=0)

    found = abs(f1_sums(np.zeros((1, apart.sum()), dtype=np.float32))[0])
    rng = np.random.default_rng(seed)
    as_large, block = 0, max(1, _BLOCK_CELLS // max(int(apart.sum()), k))
    for start in range(0, n_draws, block):
        size = (min(block, n_draws - start), int(apart.sum()))
        swapped = rng.integers(0, 2, size=size, dtype=np.int8).astype(np.float32)
        # Rounding must not make a swap of everything smaller than what was found.
        as_large += int((np.abs(f1_sums(swapped)) >= found - 1e-4).sum())
    return (as_large + 1) / (n_draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(raised, 1.0)
    return [float(value) for value in corrected]


def ranks(names: Sequence[str], differs: Mapping[frozenset[str], bool]) -> list[str]:
    """Return a rank for each name, best first: ``1=``, ``1=``, ``3``.

    A model shares the rank of the group's first, the one with the best score, unless the two
    differ; then it begins a group of its own. Two models of one group are both tied with its
    first, which says nothing about the two; and the last of a group may be tied with the first
    of the next.

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
    metric: str = "macro_f1",
    champion: str | None = None,
    alpha: float = ALPHA,
    n_boot: int = 2000,
    seed: int = 42,
) -> Comparison:
    """Return models ranked by ``metric``, with paired intervals and tests of their differences.

    All pairs of models are tested and corrected together: champion and neighbours are chosen
    by looking at these very rows, and so could have been any of them. A tie means that these
    rows show no difference, not that there is none; the interval says how large it may be, and
    being for one pair alone it can leave out 0 where the corrected test sees a tie.

    Parameters
    ----------
    predictions
        Name -> a label for each of the rows of ``y_true``; which rows count, the caller says.
    champion
        Whom to compare with; the best score unless named.

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
        here, there = (columns[name] == true for name in (this, other))
        return Difference(
            other,
            paired_difference(
                true, columns[this], columns[other], metric=metric, n_boot=n_boot, seed=seed
            ),
            only_this=int((here & ~there).sum()),
            only_other=int((there & ~here).sum()),
            p_mcnemar=test["p_mcnemar"],
            p_mcnemar_corrected=test["p_mcnemar_corrected"],
            p=test["p"],
            p_corrected=test["p_corrected"],
            differs=test["p_corrected"] < alpha,
        )

    places = ranks(order, {pair: test["p_corrected"] < alpha for pair, test in tests.items()})
    models = tuple(
        Ranked(
            rank,
            name,
            **scores[name],
            to_champion=None if name == best else difference(name, best),
            to_next=difference(name, after) if after else None,
        )
        for rank, name, after in zip(places, order, [*order[1:], None], strict=True)
    )
    return Comparison(metric, best, len(true), len(tests), alpha, models)


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
    right = {name: column == true for name, column in columns.items()}
    discordant = [
        (int((right[a] & ~right[b]).sum()), int((right[b] & ~right[a]).sum())) for a, b in pairs
    ]
    by_rows = [mcnemar(*counts) for counts in discordant]
    n_draws = max(_DRAWS, _DRAWS_A_PAIR * len(pairs))
    by_metric = by_rows
    if metric != "accuracy":
        by_metric = [
            swap_test(true, columns[a], columns[b], n_draws=n_draws, seed=seed) for a, b in pairs
        ]
    names = ("p_mcnemar", "p_mcnemar_corrected", "p", "p_corrected")
    values = zip(by_rows, holm(by_rows), by_metric, holm(by_metric), strict=True)
    return {
        frozenset(pair): dict(zip(names, row, strict=True))
        for pair, row in zip(pairs, values, strict=True)
    }
