from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import load_model
from nivesh_lib.models.text.tfidf import TfidfClassifier
from tests.models.conftest import LABELS, QUERIES, TEXTS


@pytest.fixture(scope="module")
def model():
    return TfidfClassifier().fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("label", "term"),
    [("loan_inquiry", "loan"), ("tax_planning", "tax"), ("affordability_check", "afford")],
)
def test_top_terms_are_those_that_speak_for_a_label(model, label, term):
    assert term in model.top_terms(label, n=3)


def test_top_terms_are_as_many_as_asked_for_and_words_only(model):
    terms = model.top_terms("tax_planning", n=5)
    assert len(terms) == 5
    assert all(term == term.strip() for term in terms)


def test_the_most_telling_term_comes_first(model):
    assert model.top_terms("tax_planning", n=9)[:3] == model.top_terms("tax_planning", n=3)
    assert model.top_terms("loan_inquiry")[0] == "loan"


def test_a_two_class_model_has_top_terms_for_both():
    model = TfidfClassifier().fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    assert "tax" in model.top_terms("tax", n=3)
    assert "tax" not in model.top_terms("rent", n=3)


@pytest.mark.parametrize("left_out", ["word_ngram_max", "char_ngram_max"])
def test_a_family_can_be_left_out(left_out, tmp_path):
    model = TfidfClassifier(**{left_out: 0}).fit(TEXTS, LABELS)
    assert list(model.vectorizers_) == [{"word": "char", "char": "word"}[left_out[:4]]]
    loaded = load_model(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict_proba(QUERIES), model.predict_proba(QUERIES))


def test_rare_terms_are_left_out():
    everything = TfidfClassifier(min_df=1).fit(TEXTS, LABELS)
    frequent = TfidfClassifier(min_df=2).fit(TEXTS, LABELS)
    assert frequent.coef_.shape[1] < everything.coef_.shape[1]


def test_balancing_helps_the_rare_label():
    texts, labels = [*TEXTS[4:8], TEXTS[8]], [*LABELS[4:8], LABELS[8]]
    plain, balanced = (
        TfidfClassifier(C=1.0, balanced=weighted).fit(texts, labels).predict_proba(["hello"])[0, 1]
        for weighted in (False, True)
    )
    assert balanced > plain


@pytest.mark.parametrize("text", ["home laon", "lone for house", "laons?"])
def test_a_typo_does_not_hide_the_word(text):
    texts = ["loan for a house", "a home loan", "tax this year", "income tax"]
    model = TfidfClassifier().fit(texts, ["loan", "loan", "tax", "tax"])
    assert model.predict([text]).tolist() == ["loan"]


def test_only_the_beginning_of_a_long_query_is_read(model):
    start = "x " * 5_000
    np.testing.assert_array_equal(
        model.predict_proba([start]), model.predict_proba([start + "save tax " * 9_000])
    )


def test_a_copy_in_another_process_answers_exactly_the_same(model):
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(QUERIES), model.predict_proba(QUERIES))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("word_ngram_max", 10**9),
        ("word_ngram_max", -1),
        ("word_ngram_max", 2.0),
        ("word_ngram_max", True),
        ("word_ngram_max", None),
        ("char_ngram_max", "5"),
        ("char_ngram_max", 1),
        ("C", float("nan")),
        ("C", 0),
        ("min_df", 0),
        ("random_state", -1),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name_on_fitting_and_loading(
    model, tmp_path, argument, value
):
    with pytest.raises(ValueError, match=f"^{argument} "):
        TfidfClassifier(**{argument: value}).fit(TEXTS, LABELS)
    strange = copy.copy(model).set_params(**{argument: value})
    with pytest.raises(ModelError, match=f"{argument} "):
        load_model(strange.save(tmp_path / "model"))


def test_one_family_of_ngrams_is_needed():
    with pytest.raises(ValueError, match="are both 0"):
        TfidfClassifier(word_ngram_max=0, char_ngram_max=0).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"word": ["tax"], "char": ["ta"]}, "not float32"),
        ({"word": {"tax": 10**12}, "char": ["ta"]}, "no lists of terms"),
        ({"word": [10**12], "char": ["ta"]}, "no lists of terms"),
        ({"word": ["a"] * 10**6, "char": ["ta"]}, "1,000,001 terms"),
    ],
)
def test_a_vocabulary_that_does_not_fit_its_weights_is_refused(
    model, tmp_path, vocabulary, message
):
    class Strange(TfidfClassifier):
        def _dump(self, directory):
            state = super()._dump(directory)
            (directory / "vocabulary.json").write_text(json.dumps(vocabulary))
            return state

    strange = copy.copy(model)
    strange.__class__ = Strange
    with pytest.raises(ModelError, match=message):
        load_model(strange.save(tmp_path / "model"))


def test_words_in_devanagari_are_whole():
    texts = ["मुझे लोन चाहिए", "टैक्स बचाना है।"] * 3
    model = TfidfClassifier(char_ngram_max=0).fit(texts, ["loan", "tax"] * 3)
    assert {"मुझे", "चाहिए", "मुझे लोन"} <= set(model.top_terms("loan"))
    assert {"टैक्स", "बचाना", "है"} <= set(model.top_terms("tax"))
