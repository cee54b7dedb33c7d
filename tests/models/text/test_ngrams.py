from __future__ import annotations

import functools
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from nivesh_lib.data.versions import load_dataset
from nivesh_lib.models.text.ngrams import LinearNgrams
from nivesh_lib.models.text.tfidf import TfidfClassifier
from tests.models.conftest import LABELS, QUERIES, TEXTS

NASTY = [
    "",
    " ",
    "?",
    "₹50L ka ghar? ₹,₹ 100%",
    "💰🏠👨\u200d👩\u200d👧",
    unicodedata.normalize("NFC", "café कैसे"),
    unicodedata.normalize("NFD", "café कैसे"),
    "STRASSE ẞ ß İstanbul ı ΣΑΣ ſ",
    "a\x00b\x07c \x1c \x1f \x85 \u2028 \u00a0 \u3000 d",
    "tax \ud83d planning",
    "a b  c\t\nd",
    "loan, loan. loan? loan! loan?? 'loan' loan",
    "x" * 3_000,
    "home loan " * 500,
    "१२३ ①② ½ _under_score_ 80c-80d",
]
SHAPES = {
    "both": {},
    "longer": {"word_ngram_max": 3, "char_ngram_max": 7},
    "shorter": {"word_ngram_max": 1, "char_ngram_max": 2},
    "words": {"char_ngram_max": 0},
    "pieces": {"word_ngram_max": 0},
    "frequent": {"min_df": 2},
}
steady = settings(derandomize=True, deadline=None, max_examples=150)


def counted(ngrams: LinearNgrams, text: str) -> list[tuple[int, int]]:
    found = b"".join(indices(text.lower()) for indices in ngrams._indexers)
    numbers, counts = np.unique(np.frombuffer(found, np.int32), return_counts=True)
    return list(zip(numbers.tolist(), counts.tolist(), strict=True))


def counted_by_sklearn(vectorizers: list[TfidfVectorizer], text: str) -> list[tuple[int, int]]:
    found, start = [], 0
    for vectorizer in vectorizers:
        vocabulary = vectorizer.vocabulary_
        names = [name for name in vectorizer.build_analyzer()(text) if name in vocabulary]
        found += [(start + vocabulary[name], names.count(name)) for name in set(names)]
        start += len(vocabulary)
    return sorted(found)


def expected(vectorizers: list[TfidfVectorizer], coef: np.ndarray, texts: list[str]) -> np.ndarray:
    features = [vectorizer.transform(texts).toarray() for vectorizer in vectorizers]
    return np.hstack(features).astype(np.float64) @ coef.T.astype(np.float64)


@pytest.fixture(scope="module", params=SHAPES, ids=SHAPES)
def trained(request):
    """Vectorizers of each shape, fitted on texts that hold all kinds of characters."""
    vectorizers = list(TfidfClassifier(**SHAPES[request.param])._new_vectorizers().values())
    for vectorizer in vectorizers:
        vectorizer.fit(TEXTS * 2 + NASTY)
    terms = sum(len(vectorizer.vocabulary_) for vectorizer in vectorizers)
    coef = np.random.default_rng(0).normal(size=(3, terms)).astype(np.float32)
    return vectorizers, coef, LinearNgrams(vectorizers, coef)


@pytest.mark.parametrize("text", NASTY + QUERIES, ids=lambda text: ascii(text[:20]))
def test_n_grams_are_those_of_sklearns_analyzers(trained, text):
    vectorizers, _, ngrams = trained
    assert counted(ngrams, text) == counted_by_sklearn(vectorizers, text)
    assert counted(ngrams, text) == counted_by_sklearn(vectorizers, text)  # words are kept now


letters = st.one_of(st.characters(), st.sampled_from(" aelnotx?₹,.\n\u0301"))


@steady
@given(st.text(letters, max_size=60))
def test_n_grams_of_random_text_are_those_of_sklearns_analyzers(text):
    vectorizers, ngrams = trained_once()
    assert counted(ngrams, text) == counted_by_sklearn(vectorizers, text)


@functools.cache
def trained_once() -> tuple[list[TfidfVectorizer], LinearNgrams]:
    vectorizers = list(TfidfClassifier()._new_vectorizers().values())
    for vectorizer in vectorizers:
        vectorizer.fit(TEXTS + NASTY)
    terms = sum(len(vectorizer.vocabulary_) for vectorizer in vectorizers)
    return vectorizers, LinearNgrams(vectorizers, np.zeros((2, terms)))


def test_scores_are_those_of_sklearns_features(trained):
    vectorizers, coef, ngrams = trained
    texts = NASTY + QUERIES + TEXTS
    scores = np.stack([ngrams.scores(text) for text in texts])
    np.testing.assert_allclose(scores, expected(vectorizers, coef, texts), atol=1e-5)


def test_a_text_without_a_known_n_gram_scores_nothing(trained):
    assert trained[2].scores("\u4e00").tolist() == [0, 0, 0]


def test_split_white_space_is_all_that_the_analyzer_takes_for_it():
    blank = [char for char in map(chr, range(sys.maxunicode + 1)) if char.isspace()]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)).fit(["ab"])
    ngrams = LinearNgrams([vectorizer], np.zeros((2, len(vectorizer.vocabulary_))))
    for char in blank:
        assert counted(ngrams, f"ab{char}ab") == counted_by_sklearn([vectorizer], f"ab{char}ab")


def test_only_words_of_the_vocabulary_are_cached():
    model = TfidfClassifier().fit(TEXTS, LABELS)
    model.predict(["my loan? my, loan asha@x mehta. loanloan loan??"])
    assert set(model._ngrams._indexers[1].cache) == {"my", "my,", "loan", "loan?"}


def test_all_training_queries_answer_as_sklearn_does():
    train = load_dataset("intents@1.1.0").train
    model = TfidfClassifier(glosses=False, C=1.0).fit(train["query"][:300], train["intent"][:300])
    vectorizers = list(model.vectorizers_.values())
    texts = [text for text in train["query"] if not any(char.isdigit() for char in text)]
    scores = expected(vectorizers, model.coef_, texts) + model.intercept_
    proba = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(texts), proba, atol=1e-6)
