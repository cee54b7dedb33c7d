"""How alike the rows are that intents 1.2.0 added: what templates or copies would raise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from nivesh_lib.data.schema import normalise
from nivesh_lib.data.splits import mask_amounts, near_duplicate_pairs
from nivesh_lib.data.versions import load_dataset


def near_duplicate_share(queries: pd.Series, new: np.ndarray) -> float:
    """Share of the new rows that are nearly another row, amounts masked."""
    pairs = near_duplicate_pairs(map(mask_amounts, queries))
    rows = np.unique([row for i, j, _ in pairs for row in (i, j)]).astype(int)
    return float(new[rows].sum() / new.sum())


def opening_share(queries: pd.Series, new: np.ndarray) -> float:
    """Share of the new rows that begin with the most frequent four words."""
    words = queries[new].str.casefold().str.split()
    openings = words[words.str.len() >= 4].str[:4].str.join(" ")
    return float(openings.value_counts().iloc[0] / new.sum())


def self_similarity(queries: pd.Series, new: np.ndarray) -> float:
    """Mean cosine of each new row to the nearest other row, n-grams as for near-duplicates."""
    grams = TfidfVectorizer(analyzer="char", ngram_range=(3, 5), dtype=np.float32)
    vectors = grams.fit_transform(f" {normalise(text)} " for text in queries)
    nearest = []
    for rows in np.array_split(np.flatnonzero(new), max(1, new.sum() // 500)):
        cosines = (vectors[rows] @ vectors.T).toarray()
        cosines[np.arange(len(rows)), rows] = 0
        nearest.append(cosines.max(axis=1))
    return float(np.concatenate(nearest).mean())


# The margin lets rows be a little nearer to each other, of which there are seven times as many.
MARGIN = 0.03
CHECKS = (near_duplicate_share, opening_share, self_similarity)


@pytest.fixture(scope="module")
def limits():
    before = load_dataset("intents@1.0.0").train["query"]
    known = self_similarity(before, np.ones(len(before), dtype=bool))
    return {near_duplicate_share: 0.01, opening_share: 0.01, self_similarity: known + MARGIN}


@pytest.fixture(scope="module")
def shipped():
    """The training queries of 1.2.0, and which of them 1.1.0 does not have."""
    train = load_dataset("intents@1.2.0").train
    new = ~train["id"].isin(load_dataset("intents@1.1.0").train["id"]).to_numpy()
    return train["query"], new


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_rows_that_1_2_0_added_are_various(shipped, limits, check):
    assert check(*shipped) <= limits[check]


def copied(rows: pd.Series) -> pd.Series:
    return rows.shift(fill_value=rows.iloc[-1]).where(np.arange(len(rows)) % 2 == 0, rows) + "!"


def opened(rows: pd.Series) -> pd.Series:
    return "how do i best " + rows


def templated(rows: pd.Series) -> pd.Series:
    return rows.str.split().str[:3].str.join(" ") + " ke liye har mahine kitna rakhna chahiye"


@pytest.mark.parametrize(
    ("check", "change", "share"),
    [(near_duplicate_share, copied, 0.015), (opening_share, opened, 0.02),
     (self_similarity, templated, 0.05)],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_rows_of_one_mould_are_found_by_the_check_for_them(shipped, limits, check, change, share):
    queries, new = shipped
    rows = np.random.default_rng(0).permutation(np.flatnonzero(new))[: int(share * new.sum())]
    moulded = queries.copy()
    moulded.iloc[rows] = change(queries.iloc[rows]).to_numpy()
    assert [one for one in CHECKS if one(moulded, new) > limits[one]] == [check]
