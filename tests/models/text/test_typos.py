from __future__ import annotations

import re

import numpy as np
import pytest

from nivesh_lib.models.text.typos import with_slips

TEXTS = ["Can I afford a ₹50L home loan, please?", "SIP kya hai", "80C limit 1.5 lakh", ""]


def slips(texts, share=1.0, seed=0):
    return with_slips(texts, share, np.random.default_rng(seed))


def test_no_share_leaves_the_texts_alone():
    assert slips(TEXTS, 0.0) == TEXTS


def test_amounts_and_short_words_stay():
    assert all("₹50L" in slips(TEXTS, seed=seed)[0] for seed in range(20))
    assert slips(["SIP kya hai", "80C"]) == ["SIP kya hai", "80C"]


@pytest.mark.parametrize("seed", range(5))
def test_a_slip_changes_a_word_s_length_by_one_at_most(seed):
    (bent,) = slips(["insurance"], seed=seed)
    assert abs(len(bent) - len("insurance")) <= 1


def test_about_the_share_of_the_words_is_bent():
    words = ["insurance"] * 2000
    (bent,) = slips([" ".join(words)], 0.2)
    changed = sum(word != "insurance" for word in bent.split(" "))
    assert 0.15 < changed / len(words) < 0.22  # a letter doubled into itself is none


def test_some_texts_lose_the_marks_at_the_ends_of_their_words():
    bent = slips(["ok?"] * 200, 0.5)
    assert 0.15 < np.mean([not re.search(r"\?", text) for text in bent]) < 0.45


def test_the_same_generator_writes_the_same_slips():
    assert slips(TEXTS, seed=3) == slips(TEXTS, seed=3)
