from __future__ import annotations

import random
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from nivesh_lib.data.schema import normalise
from nivesh_lib.data.splits import (
    NEAR,
    choose_holdout,
    group_pairs,
    make_folds,
    mask_amounts,
    near_duplicate_groups,
    near_duplicate_pairs,
)
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import DataError


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("a ₹50L home loan", "a # home loan"),
        ("30 lakhs in fd", "# in fd"),
        ("2.5 cr or 15k", "# or #"),
        ("pay Rs 5000, then Rs.200", "pay #, then #"),
        ("1,20,000/- rent at 8.5%", "# rent at #"),
        ("inr 50 thousand", "#"),
        ("80C or 80D?", "80C or 80D?"),
        ("₹५०००", "#"),
    ],
)
def test_amounts_are_masked_and_sections_are_not(text, masked):
    assert mask_amounts(text) == masked


def test_near_duplicates_are_pairs_with_their_cosine():
    texts = ["how much tax do i owe this year", "How much tax do I owe this year?", "a new car"]
    [(i, j, cosine)] = near_duplicate_pairs(texts)
    assert (i, j) == (0, 1)
    assert 0.85 <= cosine <= 1


@pytest.mark.parametrize("texts", [[], ["one"], ["", ""], ["a", "b"], ["a", "a"], ["😀", "₹"]])
def test_tiny_texts_break_nothing(texts):
    assert len(near_duplicate_pairs(texts)) == (texts == ["a", "a"])


def test_pairs_across_blocks_are_found(make_rows):
    texts = make_rows(1200)["query"].tolist()
    texts[1199] = texts[3] + "!"
    assert [(i, j) for i, j, _ in near_duplicate_pairs(texts)] == [(3, 1199)]


def pairs_of_all_comparisons(texts, threshold):
    """The definition, without a short cut."""
    padded = [f" {normalise(text)} " for text in texts]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(3, 5), dtype=np.float32).fit_transform(
        padded
    )
    cosines = (vectors @ vectors.T).tocoo()
    near = (cosines.data >= threshold) & (cosines.row < cosines.col)
    scores = np.minimum(cosines.data[near], 1.0)
    columns = (cosines.row[near], cosines.col[near], scores)
    return set(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, NEAR, 0.95])
def test_the_short_cut_finds_every_pair_with_the_same_cosine(threshold):
    queries = load_dataset("intents@1.1.0").train["query"].tolist()
    texts = [*queries, *[f"{query}!" for query in queries[::3]], "", "tax", "Tax ", *queries[:9]]
    expected = pairs_of_all_comparisons(texts, threshold)
    found = near_duplicate_pairs(texts, threshold)
    assert len(expected) > 9
    assert len(found) == len(expected)
    assert set(found) == expected


@pytest.mark.parametrize(
    "ref",
    ["intents@1.0.0", "intents@1.1.0", "intents@1.2.0", "out_of_scope@1.0.0", "out_of_scope@1.1.0"],
)
def test_shipped_queries_have_the_pairs_of_all_comparisons(ref):
    texts = [mask_amounts(text) for text in load_dataset(ref).train["query"]]
    expected = pairs_of_all_comparisons(texts, 0.3)
    assert expected
    assert set(near_duplicate_pairs(texts, 0.3)) == expected
    assert set(near_duplicate_pairs(texts)) == {pair for pair in expected if pair[2] >= NEAR}


def test_thousands_of_copies_make_few_pairs_and_the_groups_of_all_of_them():
    texts = ["gold or silver", "a home loan?", *["my balance", "My  balance", "my balanc"] * 30] * 3
    pairs = near_duplicate_pairs(texts)
    every = sorted(pairs_of_all_comparisons(texts, NEAR))
    assert set(pairs) < set(every)
    size = np.bincount(group_pairs(len(texts), pairs))
    assert sorted(size) == sorted(np.bincount(group_pairs(len(texts), every)))
    assert len(near_duplicate_pairs(texts * 20)) < 22 * len(texts * 20)


def test_groups_ignore_amounts():
    groups = near_duplicate_groups(["can i buy a 50L flat", "can i buy a ₹80 lakh flat", "gold?"])
    assert groups[0] == groups[1] != groups[2]


def test_a_long_chain_is_capped_at_twenty_rows():
    groups = group_pairs(60, [(i, i + 1, 0.9) for i in range(59)])
    assert np.bincount(groups).max() == 20


def test_thirteen_thousand_texts_take_less_than_a_minute(make_rows):
    texts = make_rows(13_000)["query"]
    start = time.perf_counter()
    near_duplicate_pairs(texts)
    assert time.perf_counter() - start < 60


@pytest.mark.slow  # half a minute: a guard against what takes minutes
def test_a_hundred_thousand_texts_take_less_than_a_minute_of_a_processor():
    words = sorted({w for q in load_dataset("intents@1.1.0").train["query"] for w in q.split()})
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=rng.randint(4, 10))) for _ in range(100_000)]
    start = time.process_time()
    near_duplicate_pairs(texts)
    assert time.process_time() - start < 60


def frame_of(labels, **columns):
    return pd.DataFrame({"intent": list(labels), **columns})


def test_a_fifth_is_held_out_and_stratified():
    frame = frame_of("a" * 500 + "b" * 300 + "c" * 200)
    held = choose_holdout(frame, np.arange(1000))
    assert frame[held]["intent"].value_counts().to_dict() == {"a": 100, "b": 60, "c": 40}


def test_another_seed_holds_out_other_rows():
    frame = frame_of("ab" * 50)
    first, again, other = (choose_holdout(frame, range(100), seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_hard_rows_and_tiny_classes_are_never_held_out():
    frame = frame_of("a" * 80 + "b" * 16 + "c" * 4, selection=["hard", "natural"] * 50)
    held = choose_holdout(frame, range(100), share=0.4)
    assert held.sum() == 20
    assert not held[(frame["selection"] == "hard") | (frame["intent"] == "c")].any()


def test_a_group_with_a_hard_row_stays_in_training():
    frame = frame_of("ab" * 10, selection=["hard"] + ["natural"] * 19)
    held = choose_holdout(frame, [0] * 10 + list(range(10, 20)), share=0.5)
    assert not held[:10].any()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("aaabbc"), st.integers(0, 30)), min_size=10, max_size=90
    ),
    seed=st.integers(0, 5),
)
def test_groups_stay_whole_and_every_class_keeps_a_training_row(rows, seed):
    labels, groups = zip(*rows, strict=True)
    frame = frame_of(labels)
    held = choose_holdout(frame, groups, seed=seed)
    assert held.sum() <= round(0.2 * len(frame))
    assert pd.Series(held).groupby(list(groups)).nunique().max() == 1
    assert set(frame["intent"][~held]) == set(labels)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("aaabbc"), st.integers(0, 30)), min_size=10, max_size=90
    )
)
def test_folds_keep_groups_whole_and_leave_every_class_with_two_groups_in_training(rows):
    labels, groups = (np.array(part) for part in zip(*rows, strict=True))
    if len(set(groups)) < 5:
        return
    folds = make_folds(frame_of(labels), groups)
    assert sorted(set(folds)) == [0, 1, 2, 3, 4]
    assert pd.Series(folds).groupby(groups).nunique().max() == 1
    for label in set(labels):
        if len(set(groups[labels == label])) > 1:
            assert len(set(folds[labels == label])) > 1


def test_folds_are_balanced_within_each_class():
    frame = frame_of("a" * 53 + "b" * 27 + "c" * 11)
    counts = pd.crosstab(frame["intent"], make_folds(frame, range(91)))
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1
    assert counts.sum().max() - counts.sum().min() <= 1


def test_rows_that_have_a_fold_keep_it_and_pull_their_group_along():
    fixed = [3, 3, -1, -1, 0, 1, 2, 4]
    folds = make_folds(frame_of("abababab"), [0, 1, 0, 2, 3, 4, 5, 6], fixed=fixed)
    assert folds[[0, 1, 4, 5, 6, 7]].tolist() == [3, 3, 0, 1, 2, 4]
    assert folds[2] == 3


def test_fewer_groups_than_folds_make_fewer_folds():
    assert set(make_folds(frame_of("abab"), [0, 1, 2, 2])) == {0, 1, 2}


def test_one_group_cannot_be_folded():
    with pytest.raises(DataError, match="at least two"):
        make_folds(frame_of("ab"), [0, 0])
