from __future__ import annotations

import re
from importlib.resources import files

import pytest

from nivesh_lib.models.text.hinglish import _WORD, extended, glossary, glossed


def test_hindi_words_are_read_in_english_and_the_rest_stays():
    assert glossed("Salary se ₹50L ka kitna bachana chahiye?").startswith("Salary from ₹50L")
    assert glossed("KITNA kharcha") == "how much spending"


@pytest.mark.parametrize(
    "text", ["", "Can I afford a home loan?", "the main plan to do the SIP in 80C", "₹50L 🙂 é"]
)
def test_english_is_left_alone(text):
    assert glossed(text) == extended(text) == text


def test_words_of_both_languages_are_hindi_only_beside_sure_ones():
    sure, every = glossary()
    assert "main" in set(every) - set(sure) and "kitna" in sure
    assert glossed("main kitna") == "main how much"
    assert glossed("main kitna bachana") == f"{every['main']} how much save"


def test_the_extended_text_keeps_the_words_as_they_were():
    assert extended("kitna tax") == "kitna tax how much tax"


def test_each_form_is_listed_once_in_small_letters_and_names_no_product():
    table = files("nivesh_lib.models.text").joinpath("hinglish.tsv").read_text(encoding="utf-8")
    _, every = glossary()
    assert len(every) == len(table.splitlines()) - 1
    assert all(form.isascii() and form.isalpha() and form.islower() for form in every)
    assert not {"sip", "emi", "ppf", "nps", "upi", "pan", "fd", "lakh", "gst"} & set(every)


def test_words_are_of_the_letters_that_any_case_of_a_to_z_has():
    every = list(map(chr, range(0x30000)))
    taken = [char for char in every if re.match("[a-z]", char, re.IGNORECASE)]
    assert [char for char in every if _WORD.match(char)] == taken
