"""Splits: groups of near-duplicates, the choice of rows to hold out, and folds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from nivesh_lib.data.schema import normalise
from nivesh_lib.errors import DataError

Pair = tuple[int, int, float]

NEAR = 0.85  # cosine of character 3-5-grams from which two texts count as near-duplicates
TAIL = 0.85  # of the threshold; the norm of the n-grams that the first comparison leaves out
TILE = 4_000  # rows that are compared with as many others at once; their sums fit into the cache
CANDIDATES = 50_000  # pairs that are compared in full at once
WORKERS = 2  # threads; each holds a tile
ROUNDING = 1e-3  # above the error of a cosine in single precision
MAX_GROUP = 20  # rows; longer chains join texts that have little in common
MIN_CLASS = 5  # rows; a smaller class keeps all of them for training

_AMOUNT = re.compile(
    r"(?:(?:₹|\b(?:rs\.?|inr|rupees?))\s*|(?<![\w.]))"
    r"\d+(?:,\d+)*(?:\.\d+)?"
    r"(?:\s*(?:lakhs?|lacs?|crores?|cr|thousand|k|l)\b)?(?!\w)"
    r"(?:\s*(?:/-|%|rupees?\b|rs\b))?",
    re.IGNORECASE,
)


def mask_amounts(text: str) -> str:
    """Replace every amount and stand-alone number by ``#``; names such as 80C stay."""
    return _AMOUNT.sub("#", text)


def near_duplicate_pairs(texts: Iterable[str], threshold: float = NEAR) -> list[Pair]:
    """Return ``(i, j, cosine)`` with ``i < j``, in order, for texts that are nearly the same.

    The similarity is the cosine of TF-IDF vectors of character 3- to 5-grams. Rows are compared
    in tiles, so that the matrix of all similarities is never in memory at once; first by their
    rare n-grams, and in full only where those agree enough. No pair is missed: the frequent
    n-grams that are left out of a row have a norm of at most ``TAIL * threshold``, so they add no
    more than that to a cosine.

    Of texts that are the same, only the first ``MAX_GROUP`` are compared with all others; each
    later one is paired with the ``MAX_GROUP`` before it. The pairs of a thousand equal texts would
    outnumber those of all others, and `group_pairs` makes the same groups of them.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    padded = [f" {normalise(text)} " for text in texts]
    if len(padded) < 2 or max(map(len, padded)) < 3:
        return []
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(3, 5), dtype=np.float32)
    vectors = _in_row_order(vectorizer.fit_transform(padded).tocsr())
    compared, earlier, later = _copies(padded)
    tail = TAIL * threshold
    heads = _rare_parts(vectors, tail)[compared]
    enough = threshold - tail - ROUNDING
    starts = range(0, len(compared), TILE)

    def pairs_of(column: int) -> list[Pair]:
        right = heads[column : column + TILE].T.tocsr()
        found: list[Pair] = []
        for row in starts[: column // TILE + 1]:
            shared = heads[row : row + TILE] @ right
            likely = np.flatnonzero(shared.data >= enough)
            rows = row + np.searchsorted(shared.indptr, likely, side="right") - 1
            columns = column + shared.indices[likely]
            found += _near(vectors, compared[rows], compared[columns], threshold)
        return found

    # Threads, since scipy's products release the lock of the interpreter.
    with ThreadPoolExecutor(WORKERS) as pool:
        found = [pair for pairs in pool.map(pairs_of, reversed(starts)) for pair in pairs]
    return sorted(found + _near(vectors, earlier, later, threshold))


def _copies(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows to compare with all others, and the pairs of copies that are not among them.

    Rows in order, shape (n,); and the earlier and the later rows of the pairs, each shape (m,).
    """
    _, names = np.unique(np.array(texts, dtype=object), return_inverse=True)
    order = np.argsort(names, kind="stable")
    first = np.searchsorted(names[order], names[order])
    repeated = np.flatnonzero(np.arange(len(order)) - first >= MAX_GROUP)
    before = (repeated[:, None] - np.arange(1, MAX_GROUP + 1)).ravel()
    compared = np.sort(np.delete(order, repeated))
    return compared, order[before], np.repeat(order[repeated], MAX_GROUP)


def _in_row_order(vectors: csr_matrix) -> csr_matrix:
    """Number the n-grams as they come up, which is the order in which each row lists its own.

    A cosine is then the same sum, to the last bit, for two rows alone and in a matrix product.
    """
    first = np.zeros(vectors.shape[1], dtype=np.int64)
    first[vectors.indices[::-1]] = np.arange(vectors.nnz)[::-1]
    rank = np.empty(vectors.shape[1], dtype=vectors.indices.dtype)
    rank[np.argsort(first)] = np.arange(vectors.shape[1])
    return csr_matrix((vectors.data, rank[vectors.indices], vectors.indptr), shape=vectors.shape)


def _rare_parts(vectors: csr_matrix, tail: float) -> csr_matrix:
    """Return each row without its most frequent n-grams, up to a norm of ``tail``."""
    frequency = np.bincount(vectors.indices, minlength=vectors.shape[1])
    rank = np.empty(len(frequency), dtype=vectors.indices.dtype)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
    parts = csr_matrix(
        (vectors.data.copy(), rank[vectors.indices], vectors.indptr.copy()), shape=vectors.shape
    )
    parts.sort_indices()
    sums = np.concatenate([[0.0], np.cumsum(np.square(parts.data, dtype=float))])
    row_ends = np.repeat(sums[parts.indptr[1:]], np.diff(parts.indptr))
    parts.data[row_ends - sums[:-1] <= tail**2] = 0
    parts.eliminate_zeros()
    return parts


def _near(
    vectors: csr_matrix, rows: np.ndarray, columns: np.ndarray, threshold: float
) -> list[Pair]:
    """Return the pairs of these rows and columns whose cosine reaches the threshold."""
    ahead = rows < columns
    i, j = rows[ahead], columns[ahead]
    ones = np.ones(vectors.shape[1], dtype=vectors.dtype)
    parts = range(0, len(i), CANDIDATES)
    cosines = [
        vectors[i[n : n + CANDIDATES]].multiply(vectors[j[n : n + CANDIDATES]]) @ ones
        for n in parts
    ]
    scores = np.concatenate([*cosines, ones[:0]])
    near = scores >= threshold
    found = (i[near], j[near], np.minimum(scores[near], 1.0))
    return list(zip(*(column.tolist() for column in found), strict=True))


def near_duplicate_groups(texts: Iterable[str]) -> np.ndarray:
    """Return a group number for each text: near-duplicates once amounts are masked."""
    masked = [mask_amounts(text) for text in texts]
    return group_pairs(len(masked), near_duplicate_pairs(masked))


def group_pairs(n_rows: int, pairs: Iterable[Pair], max_size: int = MAX_GROUP) -> np.ndarray:
    """Join pairs into groups, the most similar first; no group outgrows ``max_size``."""
    root = list(range(n_rows))
    size = [1] * n_rows

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = row = root[root[row]]
        return row

    for i, j, _ in sorted(pairs, key=lambda pair: (-pair[2], pair[:2])):
        a, b = find(i), find(j)
        if a != b and size[a] + size[b] <= max_size:
            root[max(a, b)] = min(a, b)
            size[min(a, b)] = size[a] + size[b]
    return np.array([find(row) for row in range(n_rows)], dtype=int)


def choose_holdout(
    frame: pd.DataFrame,
    groups: Sequence[int] | np.ndarray,
    share: float = 0.2,
    seed: int = 42,
    *,
    already_training: Mapping[str, int] | None = None,
) -> np.ndarray:
    """Return a mask of the rows to hold out: stratified by intent, groups kept whole.

    Rows with ``selection == "hard"`` are never chosen: a model picked them. A class of fewer
    than five rows gives none, and every class keeps at least one row for training.

    Parameters
    ----------
    share
        Of the rows that are not hard.
    already_training
        Rows of each intent that are in training whatever is chosen here.
    """
    labels = frame["intent"].to_numpy()
    hard = hard_rows(frame)
    sizes = Counter(labels.tolist()) + Counter(already_training or {})
    kept_whole = hard | np.array([sizes[label] < MIN_CLASS for label in labels], dtype=bool)
    members = _members(groups)
    open_groups = [rows for rows in members.values() if not kept_whole[rows].any()]
    np.random.default_rng(seed).shuffle(open_groups)

    target = round(share * int((~hard).sum()))
    room = Counter({label: count - 1 for label, count in sizes.items()})
    quota = _quotas(Counter(labels[~kept_whole].tolist()), target) & room
    held = np.zeros(len(frame), dtype=bool)
    taken: Counter[str] = Counter()
    # First the quota of each class; then, where whole groups left a gap, any class with room.
    for limit in (quota, room):
        for rows in open_groups:
            wanted = Counter(labels[rows].tolist())
            fits = all(taken[label] + n <= limit[label] for label, n in wanted.items())
            if fits and not held[rows].any() and len(rows) <= target - held.sum():
                held[rows] = True
                taken += wanted
    return held


def make_folds(
    frame: pd.DataFrame,
    groups: Sequence[int] | np.ndarray,
    n_folds: int = 5,
    seed: int = 42,
    *,
    fixed: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Return a fold number for each row: stratified by intent, groups kept whole.

    Groups are assigned, the largest first, to the fold that has the fewest rows of their intents:
    the rule of scikit-learn's ``StratifiedGroupKFold``, which can neither start from existing
    folds nor guarantee that an intent with two groups is in every training part.

    Parameters
    ----------
    n_folds
        Fewer are made where there are fewer groups.
    fixed
        The fold of each row that has one already, else -1.
    """
    folds = np.full(len(frame), -1) if fixed is None else np.array(fixed, dtype=int)
    members = list(_members(groups).values())
    np.random.default_rng(seed).shuffle(members)
    members.sort(key=len, reverse=True)
    n_folds = max(min(n_folds, len(members)), int(folds.max(initial=-1)) + 1)
    if n_folds < 2:
        raise DataError(
            "Folds need at least two training rows that are not near-duplicates of each other; "
            "add rows."
        )
    names, labels = np.unique(frame["intent"].to_numpy().astype(str), return_inverse=True)
    totals = np.bincount(labels, minlength=len(names))
    counts = np.zeros((n_folds, len(names)))
    np.add.at(counts, (folds[folds >= 0], labels[folds >= 0]), 1)
    for rows in members:
        free = rows[folds[rows] < 0]
        if len(free):
            known = folds[rows][folds[rows] >= 0]
            fold = _most_frequent(known) if len(known) else _best_fold(counts, totals, labels[free])
            folds[free] = fold
            np.add.at(counts, (fold, labels[free]), 1)
    return folds


def _most_frequent(folds: np.ndarray) -> int:
    return int(np.bincount(folds).argmax())


def _best_fold(counts: np.ndarray, totals: np.ndarray, labels: np.ndarray) -> int:
    """Return the fold whose balance the rows with these labels disturb least."""
    here = counts[:, labels]
    only_fold = ((here > 0) & (here == here.sum(axis=0))).sum(axis=1)
    crowded = (here / totals[labels]).sum(axis=1)
    return int(np.lexsort((counts.sum(axis=1), crowded, only_fold))[0])


def hard_rows(frame: pd.DataFrame) -> np.ndarray:
    """Mask the rows that a model picked."""
    if "selection" not in frame:
        return np.zeros(len(frame), dtype=bool)
    return (frame["selection"] == "hard").to_numpy(dtype=bool)


def _members(groups: Sequence[int] | np.ndarray) -> dict[int, np.ndarray]:
    numbers = np.asarray(groups, dtype=int)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return {int(numbers[rows[0]]): rows for rows in np.split(order, starts[1:]) if len(rows)}


def _quotas(sizes: Mapping[str, int], target: int) -> Counter[str]:
    """Share ``target`` rows among the classes by largest remainder."""
    total = sum(sizes.values())
    exact = {label: target * size / total for label, size in sorted(sizes.items())}
    quota = Counter({label: int(value) for label, value in exact.items()})
    by_remainder = sorted(exact, key=lambda label: quota[label] - exact[label])
    quota.update(by_remainder[: min(target, total) - quota.total()])
    return quota
