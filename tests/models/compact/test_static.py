from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.compact import static
from nivesh_lib.models.compact.static import _BLOCK, StaticClassifier
from tests.models.conftest import LABELS, QUERIES, TEXTS, small_model, tiny


@pytest.fixture(scope="module")
def fitted():
    return small_model("static").fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        (1000, "1000 is no power of two"),
        (2**40, "from 2 to 4,194,304"),
        (1, "from 2"),
        (-4, "from 2"),
        (4096.0, "no number"),
        (True, "no number"),
        ("4096", "no number"),
    ],
)
def test_a_number_of_buckets_that_is_no_power_of_two_in_range_is_refused(buckets, message):
    with pytest.raises(ValueError, match=f"buckets .*{message}"):
        small_model("static").set_params(buckets=buckets).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("letters.steps", np.zeros((8192, 3), np.int8)),  # of other buckets
        ("vectors.steps", np.zeros((9, 3), np.int8)),  # of fewer tokens
        ("words.scales", np.zeros(4096, np.float64)),
        ("bias", np.zeros(4, np.float32)),
        ("strange", np.zeros(4, np.float32)),
    ],
)
def test_tables_that_do_not_fit_are_refused_by_name(fitted, monkeypatch, tmp_path, name, tensor):
    monkeypatch.setattr(fitted, "_tensors", fitted._tensors | {name: tensor})
    folder = fitted.save(tmp_path / "model")
    with pytest.raises(ModelError, match=rf"do not fit its weights: {name} is .*, not "):
        load_model(folder)


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
    rows = {name: indices.rows for name, indices in fitted._indices(["car loan"]).items()}
    held = fitted._tensors
    table = {
        name: held[f"{name}.steps"] * held[f"{name}.scales"][:, None].astype(float) for name in rows
    }
    sums = {name: table[name][chosen].sum(axis=0) for name, chosen in rows.items()}
    logits = (
        held["bias"]
        + sums["vectors"] / len(rows["vectors"])
        + sums["letters"] / np.sqrt(len(rows["letters"]))
        + sums["words"] / np.sqrt(len(rows["words"]))
    )
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(fitted.predict_proba(["car loan"])[0], expected, rtol=1e-5)


def test_texts_are_answered_as_each_would_be_alone(fitted):
    texts = [*QUERIES, "", "tax kaise bachaye", "a"] * (_BLOCK // 4)  # more than one block
    alone = np.concatenate([fitted.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(fitted.predict_proba(texts), alone, rtol=1e-5)


ODD = [
    *("", " ", "a", "[PAN] x [EMAIL]", "don't stop-me (now)!", "ÉCOLE naïve Σίσυφος", "मुझे टैक्स"),
    *(
        "a\x1cb c",
        "a\u00a0b",
        "a\u200bb",
        "\ttab\n",
        "日本 loan",
        "x" * 300,
        "word " * 200,
        "é\u0301 ́",
    ),
    *("salary se kitna bachana chahiye", "tax tax tax", "\ud800 half"),
]


@pytest.mark.parametrize("glosses", [True, False])
def test_the_words_of_a_text_add_up_to_what_all_of_it_gets(fitted, glosses, monkeypatch):
    monkeypatch.setattr(fitted, "glosses", glosses)
    assert fitted._by_word
    for text in [*ODD, *TEXTS, *ODD]:  # the second time from the scores that are kept
        np.testing.assert_allclose(
            fitted._logits_of_one(text), fitted._logits([text]), rtol=1e-5, atol=1e-5, err_msg=text
        )


@settings(max_examples=200)
@given(st.text(st.characters() | st.sampled_from(" .-tax"), max_size=40))
def test_they_do_for_any_text(fitted, text):
    np.testing.assert_allclose(
        fitted._logits_of_one(text), fitted._logits([text]), rtol=1e-5, atol=1e-5
    )


def test_no_more_words_are_kept_than_have_room(fitted, monkeypatch):
    monkeypatch.setattr(static, "_MAX_WORDS", 5)
    monkeypatch.setattr(fitted, "_words", {})
    for number in range(20):
        fitted.predict_proba([f"tax {number}"])
        assert len(fitted._words) <= 5


def test_every_token_but_unused_ones_has_a_row_and_the_shipped_size_is_small(tmp_path):
    model = StaticClassifier().fit(TEXTS, LABELS)
    folder = model.save(tmp_path / "model")
    vocabulary = (folder / "vocabulary.txt").read_text("utf-8").split("\n")
    assert not any(token.startswith("[unused") for token in vocabulary)
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
    both, english = (fitted._indices([text]) for text in ("tax kaise bachaye", "tax how save"))
    for name in ("letters", "words"):
        assert set(english[name].rows.tolist()) < set(both[name].rows.tolist())
    assert both["vectors"].rows.tolist() == english["vectors"].rows.tolist()
    plain = get_model("static", **{**fitted.get_params(), "glosses": False}).fit(TEXTS, LABELS)
    one = plain._indices(["tax kaise bachaye"])
    assert len(one["letters"].rows) < len(both["letters"].rows)


def test_a_loaded_model_is_refitted_like_the_first(fitted, tmp_path):
    again = load_model(fitted.save(tmp_path / "model")).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(again.predict_proba(QUERIES), fitted.predict_proba(QUERIES))


@pytest.mark.parametrize("C", [0, -1.0, float("nan")])
def test_a_strength_that_is_not_above_zero_is_refused(C):
    with pytest.raises(ValueError, match=r"C .* is no number from"):
        get_model("static", C=C, backbone=tiny()).fit(TEXTS, LABELS)
