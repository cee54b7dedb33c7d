"""What every text model keeps; scikit-learn's own checks skip estimators of text."""

from __future__ import annotations

import re
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import get_model, load_model

from .conftest import LABELS, QUERIES, TEXTS, described, small_model

ODD = {
    "empty": "",
    "white space": " \t\n\u00a0\u3000",
    "a thousand words": "loan " * 1_000,
    "emoji": "💰🏠👨‍👩‍👧‍👦",
    "control characters": "\x00\x07 tax \x1b[31m",
    "lone surrogate": "tax \ud83d planning",
    "right-to-left marks": "\u202eloan\u202c \u200ftax",
    "devanagari": "मैं टैक्स कैसे बचाऊं?",
    "regex": r"(a+)+$ [ \ *",
}


# --- before training -------------------------------------------------------------


def test_init_stores_its_arguments_untouched_1pre(kind):
    given = {name: object() for name in small_model(kind).get_params(deep=False)}
    model = get_model(kind, **given)
    assert all(getattr(model, name) is value for name, value in given.items())


def test_a_clone_has_the_same_arguments_1pre(kind):
    model = small_model(kind).set_params(random_state=7)
    assert described(clone(model).get_params()) == described(model.get_params())


@pytest.mark.parametrize("ask", ["predict", "predict_proba"])
def test_an_unfitted_model_does_not_answer_1pre(kind, ask):
    with pytest.raises(NotFittedError):
        getattr(small_model(kind), ask)(["tax"])


def test_an_unfitted_model_is_not_saved_1pre(kind, tmp_path):
    with pytest.raises(NotFittedError):
        small_model(kind).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("X", "y"), [([], []), (["a", "b"], ["x"]), (["a"], ["x", "y"])])
def test_a_label_is_needed_for_each_text_1pre(kind, X, y):
    with pytest.raises(ValueError, match=f"{len(X)}, {len(y)}"):
        small_model(kind).fit(X, y)


# --- training --------------------------------------------------------------------


def test_fit_returns_self_leaves_its_arguments_and_repeats_itself_by_its_seed_1pre(kind, fitted):
    model = small_model(kind)
    before = model.get_params()
    texts, labels, queries = list(TEXTS), list(LABELS), list(QUERIES)
    assert model.fit(texts, labels) is model
    assert model.get_params() == before
    again = model.predict_proba(queries)
    np.testing.assert_array_equal(again, fitted.predict_proba(QUERIES))
    assert (texts, labels, queries) == (TEXTS, LABELS, QUERIES)


def test_ten_rows_can_be_learned_by_heart_1pre(kind):
    model = small_model(kind).fit(TEXTS[:10], LABELS[:10])
    assert model.predict(TEXTS[:10]).tolist() == LABELS[:10]


@pytest.mark.parametrize(("wrap", "other"), [(iter, np.array), (pd.Series, tuple)])
def test_any_iterable_of_texts_will_do_1pre(kind, fitted, wrap, other):
    model = small_model(kind).fit(wrap(TEXTS), other(LABELS))
    expected = fitted.predict_proba(QUERIES)
    for shape in (wrap, other):
        np.testing.assert_array_equal(model.predict_proba(shape(QUERIES)), expected)


# --- answers ---------------------------------------------------------------------


def test_classes_are_sorted_1pre(fitted):
    assert fitted.classes_.tolist() == sorted(set(LABELS))


def test_each_row_of_probabilities_sums_to_one_1pre(fitted):
    proba = fitted.predict_proba(QUERIES)
    assert proba.shape == (len(QUERIES), len(fitted.classes_))
    assert proba.min() >= 0
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_predict_is_the_most_probable_class_1pre(fitted):
    best = fitted.predict_proba(TEXTS).argmax(axis=1)
    assert fitted.predict(TEXTS).tolist() == fitted.classes_[best].tolist()


def test_no_texts_give_no_answers_1pre(fitted):
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, len(fitted.classes_))


def test_two_classes_have_two_columns_1pre(kind, tmp_path):
    model = small_model(kind).fit(TEXTS[4:], LABELS[4:])
    assert model.predict(TEXTS[4:]).tolist() == LABELS[4:]
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded.predict_proba(QUERIES).tolist() == model.predict_proba(QUERIES).tolist()


def test_one_string_in_place_of_a_list_is_refused_1pre(kind, fitted):
    with pytest.raises(TypeError, match="list of strings"):
        fitted.predict("how to save tax")
    with pytest.raises(TypeError, match="list of strings"):
        small_model(kind).fit("how to save tax", LABELS)


@pytest.mark.parametrize("value", [None, float("nan"), 80, b"tax", ["tax"]], ids=repr)
def test_what_is_no_text_is_refused_with_its_position_1pre(fitted, value):
    with pytest.raises(TypeError, match=r"X\[2\]"):
        fitted.predict(["tax", "loan", value])


def test_a_personal_number_answers_like_its_tag(fitted):
    proba = fitted.predict_proba(["call 9876543210 on tax", "call [PHONE] on tax"])
    # The rows of a batch are equal texts; a kernel may still sum some in another order (1e-8).
    np.testing.assert_allclose(*proba, rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_are_answered(fitted, text):
    (row,) = fitted.predict_proba([text])
    assert row.sum() == pytest.approx(1)


def test_odd_texts_can_be_trained_on_and_saved(kind, tmp_path):
    texts = TEXTS + list(ODD.values())
    model = small_model(kind).fit(texts, LABELS + ["general_question"] * len(ODD))
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded.predict_proba(texts).tolist() == model.predict_proba(texts).tolist()


@pytest.mark.parametrize(
    "text", ["a", " ", "home loan ", "loan" + " " * 99, "₹", "tax\n"], ids=repr
)
def test_ten_megabytes_are_answered_quickly(fitted, text):
    huge = text * (10_000_000 // len(text))
    started = time.perf_counter()
    fitted.predict_proba([huge])
    assert time.perf_counter() - started < 2


def test_neighbours_do_not_change_an_answer(kind, fitted):
    alone = np.vstack([fitted.predict_proba([query]) for query in QUERIES])
    # Eight bits have one scale for all activations of a batch.
    near = {"atol": 0.03} if kind == "quantized" else {"rtol": 1e-5}
    np.testing.assert_allclose(fitted.predict_proba(QUERIES), alone, **near)


@pytest.mark.parametrize("change", [str.upper, str.title, "  {}  ".format], ids=["A", "Aa", "_"])
def test_case_and_outer_space_do_not_change_an_answer(fitted, change):
    changed = fitted.predict_proba([change(query) for query in QUERIES])
    np.testing.assert_allclose(changed, fitted.predict_proba(QUERIES), rtol=1e-5)


def test_a_telling_word_speaks_for_its_label(fitted):
    column = fitted.classes_.tolist().index("loan_inquiry")
    without, with_it = fitted.predict_proba(["tell me more", "tell me more about a loan"])
    assert with_it[column] > without[column]


# --- saved and loaded ------------------------------------------------------------


def test_a_loaded_model_answers_exactly_the_same_1pre(fitted, saved):
    queries = TEXTS + QUERIES + list(ODD.values())
    np.testing.assert_array_equal(
        load_model(saved).predict_proba(queries), fitted.predict_proba(queries)
    )


def test_a_loaded_model_keeps_arguments_and_classes_1pre(fitted, saved):
    loaded = load_model(saved)
    assert described(loaded.get_params()) == described(fitted.get_params())
    assert loaded.classes_.tolist() == fitted.classes_.tolist()


def test_a_loaded_model_can_be_saved_again_1pre(fitted, saved, tmp_path):
    again = load_model(load_model(saved).save(tmp_path / "again"))
    np.testing.assert_array_equal(again.predict_proba(QUERIES), fitted.predict_proba(QUERIES))


def test_whoever_may_read_the_description_may_read_the_model(saved):
    allowed = {path.stat().st_mode for path in saved.rglob("*") if path.is_file()}
    assert allowed == {(saved / "model.json").stat().st_mode}


def test_each_missing_file_is_named_1pre(saved):
    for path in [p for p in saved.rglob("*") if p.is_file() and p != saved / "model.json"]:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ModelError, match=rf"{path.name} is missing"):
            load_model(saved)
        path.write_bytes(content)
    load_model(saved)


def test_each_altered_file_is_named_1pre(saved):
    for path in [p for p in saved.rglob("*") if p.is_file() and p != saved / "model.json"]:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelError, match=rf"{path.name}: changed"):
            load_model(saved)
        path.write_bytes(content)
    load_model(saved)


PRIVATE = [  # oddly spelt: the same digits and letters over and over
    *("71836\n50294", "71836/50294", "71836_50294", "7183650294", "7l8365O294", "+91 7183\n650294"),
    *("&#55;&#49;&#56;&#51;&#54;50294", "&#x37;183650294", "71836&nbsp;50294"),
    *("zqxvp@zqexample.com", "zqxvp [at] zqexample [dot] com", "zqxvp&commat;zqexample&period;com"),
    *("zqxvp(at)zqexample(dot)com", "email id zqxvp at zqexample dot com"),
    *(
        "XQZPV7183K",
        "ХQZРV7183К",
        "XQZPV_7183_K",
        "044-7183 6502",
        "0718 365 0294",
        "+91 71 8365 0294",
    ),
]


def test_personal_data_of_the_training_rows_is_not_kept_in_the_model(kind, tmp_path):
    X = [*(f"call {spelt} on rent" for spelt in PRIVATE), "gold sip", "gold fund"]
    y = ["rent"] * len(PRIVATE) + ["gold"] * 2
    folder = small_model(kind).fit(X, y).save(tmp_path / "model")
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).lower()
    kept = re.sub(rb"[0-9a-f]{64}", b"", kept)  # digests hold any digits
    number = "7183650294"
    runs = {number[start : start + 4] for start in range(7)}
    assert not [run for run in (*runs, "7l83", "5o29", "zqx", "xqzp") if run.encode() in kept]
