from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.base import get_model
from nivesh_lib.models.wrappers.ensemble import EnsembleClassifier
from tests.models.conftest import LABELS, QUERIES, TEXTS, small_model


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
    kinds = ("tfidf", "rules")
    fitted = {kind: get_model(kind, random_state=42).fit(TEXTS, LABELS) for kind in kinds}
    joined = EnsembleClassifier.of(fitted)
    anew = get_model("ensemble", members=joined.members).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(joined.predict_proba(QUERIES), anew.predict_proba(QUERIES))


def test_models_of_other_classes_are_not_joined():
    fitted = {
        "tfidf": get_model("tfidf").fit(TEXTS, LABELS),
        "rules": get_model("rules").fit(TEXTS[:8], LABELS[:8]),
    }
    with pytest.raises(ValueError, match="the classes of rules"):
        EnsembleClassifier.of(fitted)
