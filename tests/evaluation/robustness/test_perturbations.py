from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nivesh_lib.data.versions import load_dataset
from nivesh_lib.evaluation.robustness.perturbations import (
    PERTURBATIONS,
    amount_spelling,
    no_punctuation,
    perturbed,
    shuffled_words,
    typos,
)

UNITS = {"cr": 10**7, "crore": 10**7, "l": 10**5, "lakh": 10**5, "k": 1000, "thousand": 1000}


def rng():
    return np.random.default_rng(0)


def rupees(text: str) -> float:
    """Read an amount without the code under test."""
    number, unit = re.search(r"([\d,.]*\d)\s*([A-Za-z]*)", text.replace("Rs", "")).groups()
    unit = {"lakhs": "lakh", "crores": "crore"}.get(unit.lower(), unit.lower())
    return float(number.replace(",", "")) * UNITS.get(unit, 1)


@pytest.mark.parametrize(
    "amount",
    ["₹50L", "50 lakh", "2.5 cr", "15k", "Rs 5000", "₹1,20,000", "30 lakhs", "Rs. 7,50,000", "₹99"],
)
def test_an_amount_keeps_its_value_and_changes_its_spelling(amount):
    for seed in range(20):
        found = amount_spelling(amount, np.random.default_rng(seed))
        assert rupees(found) == pytest.approx(rupees(amount))
        assert found != amount


@pytest.mark.parametrize(
    "text",
    [
        "section 80C",
        "a 640 credit score",
        "born in 1990",
        "at 8.5% interest",
        "top 10 sip",
    ],
)
def test_what_is_no_amount_stays(text):
    assert amount_spelling(text, rng()) == text


def test_typos_change_long_words_only_and_never_their_first_letter():
    changed = typos("please calculate my tax", rng())
    words, before = changed.split(), ["please", "calculate", "my", "tax"]
    assert changed != "please calculate my tax"
    assert [w[0] for w in words] == [w[0] for w in before] and words[2:] == before[2:]


def test_punctuation_goes_and_amounts_keep_theirs():
    text = "Is ₹1,20,000 (2.5% more) enough?! Tell me."
    assert no_punctuation(text, rng()) == "Is ₹1,20,000 (2.5% more enough Tell me"


def test_shuffling_keeps_the_words():
    text = "should I prepay my home loan"
    assert sorted(shuffled_words(text, rng()).split()) == sorted(text.split())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_view_is_the_same_for_the_same_seed_and_answers_any_text(name):
    texts = [
        "",
        " ",
        "?",
        "₹50L",
        "a",
        "मैं टैक्स कैसे बचाऊं?",
        "Rs",
        "1,2,3",
        *load_dataset("intents").train["query"][:50],
    ]
    assert perturbed(texts, PERTURBATIONS[name], seed=3) == perturbed(
        texts, PERTURBATIONS[name], seed=3
    )


@given(st.text(max_size=60))
def test_no_text_breaks_a_view(text):
    for perturbation in PERTURBATIONS.values():
        assert isinstance(perturbation(text, rng()), str)


def test_each_view_changes_a_fair_share_of_the_shipped_queries():
    texts = load_dataset("intents@1.1.0").train["query"].tolist()
    for name, perturbation in PERTURBATIONS.items():
        changed = sum(a != b for a, b in zip(texts, perturbed(texts, perturbation), strict=True))
        assert changed > len(texts) * 0.1, name
