from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.wrappers.ensemble import EnsembleClassifier, log_pool, pool_weights
from tests.models.conftest import LABELS, QUERIES, TEXTS, small_model

_KINDS = ("tfidf", "rules")


def test_it_answers_with_the_average_of_its_members():
    model = small_model("ensemble").fit(TEXTS, LABELS)
    alone = [member.predict_proba(QUERIES) for member in model.members_.values()]
    np.testing.assert_allclose(model.predict_proba(QUERIES), np.mean(alone, axis=0))
    assert not np.allclose(*alone)


def test_members_take_its_seed_unless_they_have_their_own():
    members = {"tfidf": {}, "rules": {"random_state": 3}}
    model = get_model("ensemble", members=members, random_state=7).fit(TEXTS, LABELS)
    assert [m.random_state for m in model.members_.values()] == [7, 3]


def test_an_ensemble_of_none_is_refused():
    with pytest.raises(ValueError, match="members is empty"):
        get_model("ensemble", members={}).fit(TEXTS, LABELS)


def test_fitted_models_are_joined_as_they_are():
    fitted = {kind: get_model(kind, random_state=42).fit(TEXTS, LABELS) for kind in _KINDS}
    joined = EnsembleClassifier.of(fitted)
    anew = get_model("ensemble", members=joined.members).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(joined.predict_proba(QUERIES), anew.predict_proba(QUERIES))


def test_two_of_a_kind_have_names_of_their_own(tmp_path):
    fitted = {"tfidf": get_model("tfidf").fit(TEXTS, LABELS)}
    fitted["letters"] = get_model("tfidf", word_ngram_max=0).fit(TEXTS, LABELS)
    joined = EnsembleClassifier.of(fitted)
    anew = get_model("ensemble", members=joined.members).fit(TEXTS, LABELS)
    back = load_model(joined.save(tmp_path / "model"))
    for other in (anew, back):
        assert [m.word_ngram_max for m in other.members_.values()] == [2, 0]
        np.testing.assert_allclose(other.predict_proba(QUERIES), joined.predict_proba(QUERIES))


def test_models_of_other_classes_are_not_joined():
    fitted = {
        "tfidf": get_model("tfidf").fit(TEXTS, LABELS),
        "rules": get_model("rules").fit(TEXTS[:8], LABELS[:8]),
    }
    with pytest.raises(ValueError, match="the classes of rules"):
        EnsembleClassifier.of(fitted)


def test_weights_are_those_of_a_logarithmic_pool_and_are_saved(tmp_path):
    fitted = {kind: get_model(kind, random_state=42).fit(TEXTS, LABELS) for kind in _KINDS}
    weights = {"tfidf": 1.5, "rules": 0.25}
    joined = EnsembleClassifier.of(fitted, weights)
    alone = [fitted[kind].predict_proba(QUERIES) for kind in _KINDS]
    raised = np.maximum(alone[0], 1e-6) ** 1.5 * np.maximum(alone[1], 1e-6) ** 0.25
    expected = raised / raised.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(joined.predict_proba(QUERIES), expected, rtol=1e-5)
    back = load_model(joined.save(tmp_path / "model"))
    np.testing.assert_allclose(back.predict_proba(QUERIES), expected, rtol=1e-5)
    assert back.weights == weights


def test_learned_weights_predict_best():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=400)
    good, bad = (rng.dirichlet(np.ones(3), 400) for _ in range(2))
    good[np.arange(400), truth] += 0.3
    good /= good.sum(axis=1, keepdims=True)

    def loss(weights):
        pool, away = log_pool([good, bad], weights), np.subtract(weights, 0.5)
        return -np.log(pool[np.arange(400), truth]).mean() + away @ away / 800

    found = pool_weights([good, bad], truth)
    assert found[1] < 0.1 < found[0]
    for step in ((0.05, 0.0), (-0.05, 0.0), (0.0, 0.05)):
        assert loss(np.add(found, step)) > loss(found)


def test_weights_of_members_that_are_always_right_stay_small():
    sure = np.eye(3)[[0, 1, 2] * 4] * 0.7 + 0.1
    assert max(pool_weights([sure, sure], np.array([0, 1, 2] * 4))) < 3


def test_a_member_that_is_made_of_another_model_is_saved_too(tmp_path):
    fitted = {"rules": get_model("rules").fit(TEXTS, LABELS), "cascade": small_model("cascade")}
    fitted["cascade"].fit(TEXTS, LABELS)
    joined = EnsembleClassifier.of(fitted, {"rules": 0.5, "cascade": 1.0})
    back = load_model(joined.save(tmp_path / "model"))
    np.testing.assert_allclose(back.predict_proba(QUERIES), joined.predict_proba(QUERIES))
