from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.compact.hashing import TextIndices, hashed_char_ngrams, hashed_token_ngrams

BUCKETS = 2**16


def grams(text):
    """Return the n-grams that there should be, by the plainest means."""
    words = [f" {word} " for word in text.lower().split()]
    return [w[i : i + n] for w in words for n in range(2, 6) for i in range(len(w) - n + 1)]


TEXTS = ["save tax", "a", "₹50L ka ghar?", "मैं टैक्स", "tax  tax\n", "🏠 loan"]


@pytest.mark.parametrize("text", TEXTS)
def test_there_is_a_bucket_for_each_character_n_gram_of_each_word(text):
    found = hashed_char_ngrams([text], BUCKETS)
    assert len(found.rows) == found.counts.sum() == len(grams(text))
    assert len(set(found.rows.tolist())) == len(set(grams(text)))


def test_each_text_has_the_buckets_that_it_would_have_alone():
    texts = [*TEXTS, "", "x"]
    together = hashed_char_ngrams(texts, BUCKETS)
    parts = np.split(together.rows, np.cumsum(together.counts)[:-1])
    for text, part in zip(texts, parts, strict=True):
        assert sorted(part.tolist()) == sorted(hashed_char_ngrams([text], BUCKETS).rows.tolist())


def test_the_same_n_gram_has_the_same_bucket_in_another_text():
    alone, beside = (hashed_char_ngrams([text], BUCKETS).rows for text in ("tax", "save TAX now"))
    assert set(alone.tolist()) < set(beside.tolist())


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\ud83d", "x"])
def test_texts_of_almost_nothing_have_a_bucket_to_look_up(text):
    assert hashed_char_ngrams([text], 64).counts[0] >= 1


def test_tokens_and_pairs_have_buckets_and_the_order_of_a_pair_counts():
    ids = [np.array([1, 5, 7, 2]), np.array([1, 7, 5, 2])]
    found = hashed_token_ngrams(ids, BUCKETS)
    assert found.counts.tolist() == [2 + 3, 2 + 3]
    one, other = (set(part.tolist()) for part in np.split(found.rows, 2))
    assert len(one & other) == 2  # the tokens 5 and 7
    assert len(one | other) == 2 + 3 + 3


def test_a_text_without_tokens_has_the_pair_of_its_ends():
    ids = [np.array([1, 2]), np.array([1, 5, 2]), np.array([1, 2])]
    found = hashed_token_ngrams(ids, BUCKETS)
    assert found.counts.tolist() == [1, 1 + 2, 1]
    assert found.rows[0] == found.rows[-1] not in found.rows[1:-1]


def test_buckets_stay_those_that_saved_models_have_learned():
    assert sorted(hashed_char_ngrams(["a b"], 32768).rows.tolist()) == [
        5543,
        6425,
        14042,
        18942,
        20757,
        28045,
    ]
    assert sorted(hashed_token_ngrams([np.array([101, 7, 9, 102])], 32768).rows.tolist()) == [
        6556,
        10690,
        18425,
        24935,
        26419,
    ]


@pytest.mark.parametrize("buckets", [2, 64, 32768])
def test_every_bucket_is_within_its_table_and_few_n_grams_share_one(buckets):
    text = " ".join(f"word{n}" for n in range(200))
    found = hashed_char_ngrams([text], buckets).rows
    assert set(found.tolist()) <= set(range(buckets))
    different = len(set(grams(text)))
    by_chance = buckets * (1 - (1 - 1 / buckets) ** different)
    assert len(np.unique(found)) > 0.9 * by_chance


def test_sums_are_those_of_each_text_and_texts_are_merged():
    table = np.arange(12.0).reshape(4, 3)
    indices = TextIndices.of([np.array([0, 1]), np.array([3]), np.array([2, 2, 0])])
    by_hand = [table[0] + table[1], table[3], 2 * table[2] + table[0]]
    np.testing.assert_array_equal(indices.sums(table), by_hand)
    merged = indices.merged([2, 1])
    assert merged.counts.tolist() == [3, 3]
    np.testing.assert_array_equal(merged.sums(table)[0], by_hand[0] + by_hand[1])
