from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from nivesh_lib.errors import ModelError
from nivesh_lib.evaluation.confidence.calibration import scaled
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.directory import read_card
from nivesh_lib.models.neural import embedding
from nivesh_lib.models.wrappers.cascade import Cascade
from nivesh_lib.models.wrappers.ood import OodScorer
from nivesh_lib.models.wrappers.selective import Abstaining, Calibrated
from tests.models.conftest import LABELS, QUERIES, TEXTS, small_model, tiny


@pytest.fixture(scope="module")
def plain():
    return get_model("tfidf").fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def abstaining(plain):
    model = Calibrated.of(plain, temperature=0.5)
    return Abstaining.of(model, TEXTS, threshold=0.4, backbone=tiny())


# --- calibrated ------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_a_temperature_changes_no_answer_but_its_confidence(plain, temperature):
    model = Calibrated.of(plain, temperature=temperature)
    assert model.predict(TEXTS + QUERIES).tolist() == plain.predict(TEXTS + QUERIES).tolist()
    expected = scaled(plain.predict_proba(QUERIES), temperature)
    np.testing.assert_allclose(model.predict_proba(QUERIES), expected)


def test_fit_and_of_make_the_same_model_and_leave_the_given_one_alone(plain):
    given = get_model("tfidf")
    model = Calibrated(given, temperature=0.5).fit(TEXTS, LABELS)
    other = Calibrated.of(plain, temperature=0.5)
    np.testing.assert_array_equal(model.predict_proba(QUERIES), other.predict_proba(QUERIES))
    assert not hasattr(given, "classes_")


def test_the_model_inside_takes_the_seed_where_one_is_given():
    seeds = [
        Calibrated(get_model("tfidf", random_state=3), random_state=seed).fit(TEXTS, LABELS)
        for seed in (None, 7)
    ]
    assert [model.model_.random_state for model in seeds] == [3, 7]


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan")])
def test_what_is_no_temperature_is_refused(plain, temperature):
    with pytest.raises(ValueError, match="not above 0 and finite"):
        Calibrated.of(plain, temperature=temperature)
    with pytest.raises(ValueError, match="not above 0 and finite"):
        Calibrated(get_model("tfidf"), temperature=temperature).fit(TEXTS, LABELS)


@pytest.mark.parametrize("kind", ["calibrated", "abstaining"])
def test_a_wrapper_around_nothing_is_refused(kind):
    with pytest.raises(ValueError, match="model is None"):
        get_model(kind).fit(TEXTS, LABELS)


def test_a_model_that_was_not_fitted_is_not_taken():
    with pytest.raises(NotFittedError):
        Calibrated.of(get_model("tfidf"), temperature=2.0)


# --- abstaining ------------------------------------------------------------------


def test_answers_are_those_of_the_model_inside_and_no_label_is_added(abstaining, plain):
    assert abstaining.classes_.tolist() == plain.classes_.tolist()
    assert abstaining.predict(QUERIES).tolist() == plain.predict(QUERIES).tolist()


def test_certainty_is_confidence_times_a_function_of_the_ood_score(abstaining):
    far = abstaining.midpoint - abstaining.ood_score(QUERIES)
    in_scope = 1 / (1 + np.exp(-abstaining.steepness * far))
    expected = abstaining.predict_proba(QUERIES).max(axis=1) * in_scope
    np.testing.assert_allclose(abstaining.certainty(QUERIES), expected, rtol=1e-5)


def test_accepted_is_what_is_as_certain_as_the_threshold(abstaining, plain):
    texts = TEXTS + QUERIES
    sure = abstaining.certainty(texts)
    assert abstaining.accepts(texts).tolist() == (sure >= 0.4).tolist()
    assert 0 < abstaining.accepts(texts).sum() < len(texts)
    all_of_them = Abstaining.of(plain, TEXTS, backbone=tiny())
    assert all_of_them.accepts(texts).all()


def test_the_ood_score_is_that_of_a_scorer_fitted_on_the_same_texts(abstaining):
    alone = OodScorer(tiny()).fit(TEXTS)
    np.testing.assert_array_equal(abstaining.ood_score(QUERIES), alone.score(QUERIES))


def test_a_scorer_that_was_fitted_already_is_taken_as_it_is(abstaining, plain):
    known = OodScorer(tiny()).fit(TEXTS)
    model = Abstaining.of(Calibrated.of(plain, temperature=0.5), known, threshold=0.4)
    assert model.ood_scorer_ is known and model.backbone == known.backbone
    np.testing.assert_array_equal(model.certainty(QUERIES), abstaining.certainty(QUERIES))


def test_texts_unlike_the_training_rows_have_larger_ood_scores():
    loans = [f"{verb} a {kind} loan of {n} lakh" for verb in ("take", "repay") for kind in
             ("home", "car", "gold") for n in range(1, 9)]  # fmt: skip
    labels = [text.split()[0] for text in loans]
    model = Abstaining(get_model("tfidf")).fit(loans, labels)
    near = model.ood_score(["repay a car loan of 12 lakh", "take a gold loan of 20 lakh"])
    strange = ["will it rain in Thane tomorrow", "asdfghjkl", "पानी कब आएगा"]
    assert model.ood_score(strange).min() > near.max() + 1


def test_no_texts_have_no_certainty(abstaining):
    assert abstaining.certainty([]).shape == abstaining.accepts([]).shape == (0,)


def test_too_few_texts_for_a_distance_are_refused():
    with pytest.raises(ValueError, match="3 texts are too few"):
        Abstaining(get_model("rules"), backbone=tiny()).fit(TEXTS[2:5], LABELS[2:5])


def test_texts_that_are_all_the_same_leave_a_distance():
    model = Abstaining(get_model("rules"), backbone=tiny()).fit(["tax"] * 6, ["a", "b"] * 3)
    assert np.isfinite(model.certainty(QUERIES)).all()


def test_an_encoder_that_both_share_reads_a_text_once(monkeypatch):
    counts = []
    compute = embedding.FrozenEncoder._compute

    def counted(self, texts):
        counts.append(len(texts))
        return compute(self, texts)

    model = Abstaining(small_model("embedding"), backbone=tiny()).fit(TEXTS, LABELS)
    monkeypatch.setattr(embedding.FrozenEncoder, "_compute", counted)
    model.certainty(QUERIES)
    assert counts == [len(QUERIES)]


# --- saved and loaded ------------------------------------------------------------


def test_the_card_holds_temperature_and_threshold(abstaining, tmp_path):
    card = read_card(abstaining.save(tmp_path / "model"))
    assert (card["kind"], card["temperature"], card["threshold"]) == ("abstaining", 0.5, 0.4)
    inner = read_card(tmp_path / "model" / "model")
    assert (inner["kind"], inner["temperature"], inner["threshold"]) == ("calibrated", 0.5, None)


def test_a_plain_model_has_neither(plain, tmp_path):
    card = read_card(plain.save(tmp_path / "model"))
    assert (card["temperature"], card["threshold"]) == (None, None)


@pytest.mark.parametrize("field", ["temperature", "threshold"])
def test_a_changed_number_on_the_card_is_found(abstaining, tmp_path, field):
    path = abstaining.save(tmp_path / "model") / "model.json"
    card = json.loads(path.read_text("utf-8")) | {field: 0.1}
    path.write_text(json.dumps(card), "utf-8")
    with pytest.raises(ModelError, match="changed since it was saved"):
        load_model(path.parent)


def test_a_loaded_wrapper_is_as_certain_and_wraps_the_same(abstaining, tmp_path):
    loaded = load_model(abstaining.save(tmp_path / "model"))
    texts = TEXTS + QUERIES
    np.testing.assert_allclose(loaded.certainty(texts), abstaining.certainty(texts), rtol=1e-6)
    assert loaded.accepts(pd.Series(texts)).tolist() == abstaining.accepts(texts).tolist()
    assert loaded.model.temperature == 0.5
    refitted = loaded.fit(TEXTS, LABELS)
    assert refitted.predict(TEXTS).tolist() == LABELS


def test_known_probabilities_are_not_asked_for_again(monkeypatch):
    model = Abstaining(model=get_model("tfidf"), threshold=0.3, backbone=tiny()).fit(TEXTS, LABELS)
    proba, expected = model.predict_proba(QUERIES), model.accepts(QUERIES)
    monkeypatch.setattr(Abstaining, "_proba", lambda self, texts: pytest.fail("asked again"))
    assert (model.accepts(QUERIES, proba) == expected).all()


def test_a_model_that_abstains_is_not_wrapped_again():
    inner = get_model("tfidf").fit(TEXTS, LABELS)
    abstaining = Abstaining.of(inner, TEXTS, threshold=0.5, backbone=tiny())
    for wrap in (
        lambda: Calibrated.of(abstaining, temperature=2.0),
        lambda: Cascade.of(inner, abstaining, threshold=0.5),
    ):
        with pytest.raises(ValueError, match="goes outermost"):
            wrap()
