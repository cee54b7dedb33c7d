from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.compact.onnx_classifier import parity
from nivesh_lib.models.compact.onnx_tfidf import OnnxTfidf
from tests.models.conftest import LABELS, QUERIES, TEXTS

MANY = TEXTS + QUERIES + ["", "tax " * 300, "qqq", "₹₹₹"]
VARIANTS = [{}, {"word_ngram_max": 0}, {"char_ngram_max": 0}, {"glosses": False, "min_df": 2}]


@pytest.mark.parametrize("params", VARIANTS, ids=str)
def test_probabilities_are_those_of_the_model_that_was_exported(params, tmp_path):
    fitted = get_model("tfidf", **params).fit(TEXTS, LABELS)
    exported = OnnxTfidf.of(fitted)
    np.testing.assert_allclose(
        exported.predict_proba(MANY), fitted.predict_proba(MANY), rtol=0, atol=1e-5
    )
    loaded = load_model(exported.save(tmp_path / "model"))
    assert loaded.predict_proba(MANY).tolist() == exported.predict_proba(MANY).tolist()


def test_a_restored_model_is_exported_like_the_fitted_one(tmp_path):
    fitted = get_model("tfidf").fit(TEXTS, LABELS)
    restored = load_model(fitted.save(tmp_path / "model"))
    assert OnnxTfidf.of(restored)._graph.content == OnnxTfidf.of(fitted)._graph.content


def test_parity_reads_both():
    fitted = get_model("tfidf").fit(TEXTS, LABELS)
    found = parity(fitted, OnnxTfidf.of(fitted), MANY)
    assert found.largest < 1e-4 and found.agreement == 1.0
