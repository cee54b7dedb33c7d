from __future__ import annotations

import re

import numpy as np
import pytest

from nivesh_lib.models.text.typos import with_typos

TEXTS = ["Can I afford a ₹50L home loan, please?", "SIP kya hai", "80C limit 1.5 lakh", ""]


def noisy(texts, rate=1.0, seed=0):
    return with_typos(texts, rate, np.random.default_rng(seed))


def test_a_rate_of_0_leaves_the_texts_alone():
    assert noisy(TEXTS, 0.0) == TEXTS


def test_amounts_and_short_words_stay():
    assert all("₹50L" in noisy(TEXTS, seed=seed)[0] for seed in range(20))
    assert noisy(["SIP kya hai", "80C"]) == ["SIP kya hai", "80C"]


@pytest.mark.parametrize("seed", range(5))
def test_a_typo_changes_a_word_s_length_by_one_at_most(seed):
    (changed_text,) = noisy(["insurance"], seed=seed)
    assert abs(len(changed_text) - len("insurance")) <= 1


def test_about_the_share_of_the_words_is_bent():
    words = ["insurance"] * 2000
    (changed_text,) = noisy([" ".join(words)], 0.2)
    changed = sum(word != "insurance" for word in changed_text.split(" "))
    assert 0.15 < changed / len(words) < 0.22  # a letter doubled into itself is none


def test_some_texts_lose_the_marks_at_the_ends_of_their_words():
    changed_text = noisy(["ok?"] * 200, 0.5)
    assert 0.15 < np.mean([not re.search(r"\?", text) for text in changed_text]) < 0.45


def test_the_same_generator_writes_the_same_typos():
    assert noisy(TEXTS, seed=3) == noisy(TEXTS, seed=3)
