from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.evaluation.attribution import attribute

CLASSES = ["loan", "tax"]


def proba(texts):
    """Each "emi" and "80C" is worth a fixed score; everything else nothing."""
    score = np.array([2.0 * text.count("emi") - 2.0 * text.count("80C") for text in texts])
    loan = 1 / (1 + np.exp(-score))
    return np.column_stack([loan, 1 - loan])


def test_the_words_that_decide_have_the_weight_and_the_others_none():
    (found,) = attribute(proba, CLASSES, ["my emi this month"])
    assert found.label == "loan" and found.words == ("my", "emi", "this", "month")
    assert found.weights == pytest.approx((0, found.confidence - 0.5, 0, 0))


def test_a_word_for_another_label_has_a_weight_below_zero():
    (found,) = attribute(proba, CLASSES, ["emi emi 80C"])
    assert found.weights[2] < 0 < found.weights[0]


def test_an_empty_text_has_an_answer_and_no_words():
    (found,) = attribute(proba, CLASSES, [""])
    assert found.words == found.weights == ()


def test_of_a_long_text_the_first_words_are_tried():
    (found,) = attribute(proba, CLASSES, ["emi " * 100], longest=5)
    assert len(found.words) == len(found.weights) == 5
