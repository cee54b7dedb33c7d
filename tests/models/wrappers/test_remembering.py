from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.wrappers.remembering import Remembering
from tests.models.conftest import LABELS, QUERIES, TEXTS


@pytest.fixture
def inner():
    return get_model("tfidf").fit(TEXTS, LABELS)


@pytest.fixture
def asked(inner, monkeypatch):
    """What the model inside was asked, one list for each call."""
    calls: list[list[str]] = []
    answer = inner._proba
    monkeypatch.setattr(inner, "_proba", lambda texts: (calls.append(texts), answer(texts))[1])
    return calls


def test_a_text_is_asked_once_however_often_it_comes(inner, asked):
    model = Remembering.of(inner)
    model.predict(["save tax", "pay rent", "save tax"])
    model.predict(["pay rent", "gold price"])
    assert asked == [["save tax", "pay rent"], ["gold price"]]


def test_answers_are_those_of_the_model_inside(inner):
    model, texts = Remembering.of(inner), [*QUERIES, *TEXTS, *QUERIES]
    for _ in range(2):
        np.testing.assert_array_equal(model.predict_proba(texts), inner.predict_proba(texts))


def test_texts_that_the_model_reads_alike_are_one(inner, asked):
    Remembering.of(inner).predict(["call 9876543210", "call 9876543211"])
    assert len(asked) == 1 and len(asked[0]) == 1


def test_what_was_asked_for_longest_ago_is_forgotten_first(inner, asked):
    model = Remembering.of(inner, size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        model.predict([text])
    assert asked == [["a"], ["b"], ["c"], ["b"]]
    assert model.remembered == 2


def test_one_call_may_hold_more_texts_than_are_kept(inner):
    model = Remembering.of(inner, size=1)
    np.testing.assert_array_equal(model.predict_proba(TEXTS), inner.predict_proba(TEXTS))
    assert model.remembered == 1


def test_an_answer_that_is_changed_outside_stays_as_it_was(inner):
    model = Remembering.of(inner)
    before = model.predict_proba(["save tax"])
    model.predict_proba(["save tax"])[:] = 0
    np.testing.assert_array_equal(model.predict_proba(["save tax"]), before)


def test_no_text_is_saved(inner, tmp_path):
    model = Remembering.of(inner)
    model.predict(["my secret wish"])
    saved = model.save(tmp_path / "model")
    kept = [file.read_bytes() for file in saved.rglob("*") if file.is_file()]
    assert not any(b"secret wish" in content for content in kept)
    assert load_model(saved).predict(TEXTS).tolist() == inner.predict(TEXTS).tolist()


def test_a_new_fit_forgets_the_old_answers(inner):
    model = Remembering(get_model("rules"), size=10).fit(TEXTS, LABELS)
    model.predict(["save tax"])
    assert model.fit(TEXTS, LABELS).remembered == 0


def test_many_may_ask_at_once(inner):
    model, expected = Remembering.of(inner, size=3), inner.predict(TEXTS).tolist()
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: model.predict(TEXTS).tolist(), range(40)))
    assert all(one == expected for one in told)


def test_a_copy_remembers_and_goes_its_own_way(inner):
    model = Remembering.of(inner)
    model.predict(QUERIES)
    other = copy.deepcopy(model)
    other.predict(["another text"])
    assert other.remembered == model.remembered + 1


def test_before_it_is_fitted_it_remembers_nothing():
    with pytest.raises(NotFittedError):
        _ = Remembering(get_model("rules")).remembered


@pytest.mark.parametrize("size", [0, -1, 1.5, float("nan"), True, "10"])
def test_room_for_no_answer_is_refused(inner, size):
    with pytest.raises(ValueError, match="whole number from 1 on"):
        Remembering.of(inner, size=size)
