from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.static import StaticClassifier, hashed_letters, hashed_words

from .conftest import LABELS, QUERIES, TEXTS, small_model, tiny

BUCKETS = 2**20  # so many that n-grams hardly meet


@pytest.fixture(scope="module")
def fitted():
    return small_model("static").fit(TEXTS, LABELS)


def grams(text):
    """Return the n-grams that there should be, by the plainest means."""
    words = [f" {word} " for word in text.lower().split()]
    return [w[i : i + n] for w in words for n in range(2, 6) for i in range(len(w) - n + 1)]


@pytest.mark.parametrize("text", ["save tax", "a", "₹50L ka ghar?", "मैं टैक्स", "tax  tax\n"])
def test_there_is_a_bucket_for_each_character_n_gram_of_each_word(text):
    found = hashed_letters(text, BUCKETS)
    assert len(found) == len(grams(text))
    assert len(set(found.tolist())) == len(set(grams(text)))


def test_the_same_n_gram_has_the_same_bucket_in_another_text():
    alone = set(hashed_letters("tax", BUCKETS).tolist())
    assert alone < set(hashed_letters("save TAX now", BUCKETS).tolist())


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\ud83d", "x"])
def test_texts_of_almost_nothing_have_a_bucket_to_look_up(text):
    assert len(hashed_letters(text, 64)) >= 1


def test_pieces_and_pairs_have_buckets_and_the_order_of_a_pair_counts():
    one, other = (hashed_words(np.array(ids), BUCKETS) for ids in ([1, 5, 7, 2], [1, 7, 5, 2]))
    assert len(one) == 2 + 3
    assert set(one.tolist()) != set(other.tolist())
    assert set(one[:2].tolist()) == set(other[:2].tolist())


@pytest.mark.parametrize("buckets", [2, 64, 32768])
def test_every_bucket_is_within_its_table(buckets):
    found = hashed_letters("how do i save tax under 80c " * 9, buckets)
    assert set(found.tolist()) <= set(range(buckets))
    assert len(np.unique(found)) > 0.6 * min(
        buckets, len(set(grams("how do i save tax under 80c")))
    )


@pytest.mark.parametrize("buckets", [0, 1, 1000, -4])
def test_a_number_of_buckets_that_is_no_power_of_two_is_refused(buckets):
    with pytest.raises(ValueError, match="no power of two"):
        small_model("static").set_params(buckets=buckets).fit(TEXTS, LABELS)


def test_it_loads_and_answers_without_torch_or_transformers(fitted, tmp_path):
    folder = fitted.save(tmp_path / "model")
    code = (
        "import sys, json; from nivesh_lib.models.base import load_model\n"
        f"proba = load_model({str(folder)!r}).predict_proba({QUERIES!r})\n"
        "print(json.dumps([proba.tolist(), sorted({'torch', 'transformers'} & set(sys.modules))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    proba, heavy = json.loads(done.stdout)
    assert heavy == []
    np.testing.assert_array_equal(proba, fitted.predict_proba(QUERIES))


def test_the_answer_is_what_the_tables_add_up_to(fitted):
    (read,) = fitted._read(["car loan"])
    held = fitted._tensors
    table = {f: held[f"{f}.steps"] * held[f"{f}.scales"][:, None].astype(float) for f in
             ("vectors", "letters", "words")}  # fmt: skip
    logits = (
        held["bias"]
        + table["vectors"][read.pieces].mean(axis=0)
        + table["letters"][read.letters].sum(axis=0) / np.sqrt(len(read.letters))
        + table["words"][read.words].sum(axis=0) / np.sqrt(len(read.words))
    )
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(fitted.predict_proba(["car loan"])[0], expected, rtol=1e-5)


def test_every_word_piece_but_unused_places_has_a_row_and_the_shipped_size_is_small(tmp_path):
    model = StaticClassifier().fit(TEXTS, LABELS)
    folder = model.save(tmp_path / "model")
    vocabulary = (folder / "vocabulary.txt").read_text("utf-8").split("\n")
    assert not any(piece.startswith("[unused") for piece in vocabulary)
    assert len(model._tensors["vectors.steps"]) == len(vocabulary) > 29_000
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 91_600_000 / 40  # of a saved transformer; here with 3 classes


def test_word_vectors_carry_over_to_words_that_no_row_holds():
    rows = ["buy a house", "buy a flat", "cancel my card", "cancel my policy"] * 3
    model = StaticClassifier().fit(rows, ["buy", "buy", "cancel", "cancel"] * 3)
    column = model.classes_.tolist().index("buy")
    near, far = model.predict_proba(["purchase apartments", "terminate"])[:, column]
    assert near > far


def test_both_readings_of_a_hindi_text_are_looked_up(fitted):
    (both,) = fitted._read(["tax kaise bachaye"])
    (english,) = fitted._read(["tax how save"])
    assert set(english.letters.tolist()) < set(both.letters.tolist())
    plain = get_model("static", **{**fitted.get_params(), "glosses": False}).fit(TEXTS, LABELS)
    (one,) = plain._read(["tax kaise bachaye"])
    assert len(one.letters) < len(both.letters)


def test_a_loaded_model_is_refitted_like_the_first(fitted, tmp_path):
    again = load_model(fitted.save(tmp_path / "model")).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(again.predict_proba(QUERIES), fitted.predict_proba(QUERIES))


@pytest.mark.parametrize("C", [0, -1.0, float("nan")])
def test_a_strength_that_is_not_above_zero_is_refused(C):
    with pytest.raises(ValueError, match="not above 0"):
        get_model("static", C=C, backbone=tiny()).fit(TEXTS, LABELS)
