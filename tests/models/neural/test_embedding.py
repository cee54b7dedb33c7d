from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.neural import embedding
from nivesh_lib.models.neural.embedding import cached_features
from tests.models.conftest import LABELS, QUERIES, TEXTS, small_model


@pytest.fixture
def computed(monkeypatch):
    """The number of texts that went through an encoder, in batches."""
    counts = []
    compute = embedding.FrozenEncoder._compute

    def counted(self, texts):
        counts.append(len(texts))
        return compute(self, texts)

    monkeypatch.setattr(embedding.FrozenEncoder, "_compute", counted)
    return counts


def test_features_are_computed_once_within_the_cache(computed):
    with cached_features():
        small_model("embedding").fit(TEXTS, LABELS).predict(TEXTS)
        small_model("embedding").set_params(C=3.0).fit(TEXTS[2:], LABELS[2:])
    assert computed == [len(TEXTS)]


def test_nothing_is_cached_outside(computed):
    model = small_model("embedding").fit(TEXTS, LABELS)
    model.predict(TEXTS)
    assert computed == [len(TEXTS)] * 2
    assert embedding._CACHE is None


def test_the_cache_changes_no_answer():
    plain = small_model("embedding").fit(TEXTS, LABELS).predict_proba(QUERIES)
    with cached_features():
        model = small_model("embedding").fit(TEXTS, LABELS)
        model.predict_proba(QUERIES)
        np.testing.assert_allclose(model.predict_proba(QUERIES), plain, rtol=1e-4)


def test_another_reach_is_another_feature(computed):
    with cached_features():
        small_model("embedding").fit(TEXTS, LABELS)
        small_model("embedding").set_params(max_length=4).fit(TEXTS, LABELS)
    assert computed == [len(TEXTS)] * 2


def test_the_memory_holds_no_text():
    with cached_features():
        small_model("embedding").fit(TEXTS, LABELS)
        assert all(type(key) is bytes and len(key) == 32 for key in embedding._CACHE)
