from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.evaluation.benchmark import directory_bytes, saved_bytes
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.directory import card_sha256
from nivesh_lib.models.neural import backbones, embedding
from nivesh_lib.models.neural.embedding import cached_features
from tests.models.conftest import LABELS, QUERIES, TEXTS, save_tiny, small_model, tiny


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


def test_features_of_any_size_are_learned_from(monkeypatch):
    plain = small_model("embedding").fit(TEXTS, LABELS).predict_proba(QUERIES)
    compute = embedding.FrozenEncoder._compute
    monkeypatch.setattr(embedding.FrozenEncoder, "_compute", lambda s, x: compute(s, x) / 100)
    small = small_model("embedding").fit(TEXTS, LABELS).predict_proba(QUERIES)
    np.testing.assert_allclose(small, plain, rtol=1e-3)


def test_an_encoder_is_loaded_once_within_the_cache(monkeypatch):
    model, loaded = small_model("embedding"), []
    load = embedding.load_encoder
    monkeypatch.setattr(embedding, "load_encoder", lambda folder: loaded.append(1) or load(folder))
    with cached_features():
        model.fit(TEXTS, LABELS)
        model.fit(TEXTS[2:], LABELS[2:])
    assert (len(loaded), embedding._ENCODERS) == (1, {})


def test_another_reach_is_another_feature(computed):
    with cached_features():
        small_model("embedding").fit(TEXTS, LABELS)
        small_model("embedding").set_params(max_length=4).fit(TEXTS, LABELS)
    assert computed == [len(TEXTS)] * 2


def test_the_memory_holds_no_text():
    with cached_features():
        small_model("embedding").fit(TEXTS, LABELS)
        assert all(type(key) is bytes and len(key) == 32 for key in embedding._CACHE)


@pytest.fixture
def named(monkeypatch, tmp_path):
    """The folder of a small encoder that is known by the name minilm."""
    folder = tmp_path / "minilm"
    shutil.copytree(tiny(), folder)
    monkeypatch.setattr(backbones, "_minilm", lambda: folder)
    return folder


@pytest.mark.parametrize("kind", ["embedding", "abstaining", "lstm"])
def test_a_frozen_encoder_with_a_name_is_not_stored_again(named, tmp_path, kind):
    given = {"epochs": 1} if kind == "lstm" else {}
    given |= {"model": get_model("tfidf"), "threshold": 0.5} if kind == "abstaining" else {}
    model = get_model(kind, **given).fit(TEXTS, LABELS)
    folder = model.save(tmp_path / "model")
    assert not list(folder.rglob("config.json"))
    table = backbones.input_embeddings(named).half()
    used = table.nbytes if kind == "lstm" else (named / "model.safetensors").stat().st_size
    assert saved_bytes(model) == directory_bytes(folder) + used
    loaded = load_model(folder)
    np.testing.assert_array_equal(loaded.predict_proba(QUERIES), model.predict_proba(QUERIES))
    again = loaded.save(tmp_path / "again")
    assert (again / "model.json").read_text() == (folder / "model.json").read_text()


def test_a_model_is_refused_with_another_encoder_than_it_was_fitted_on(named, tmp_path):
    folder = get_model("embedding").fit(TEXTS, LABELS).save(tmp_path / "model")
    (named / "model.safetensors").unlink()
    save_tiny("distilbert", named)
    with pytest.raises(ModelError, match=r"weights of minilm have sha256 .*fitted on .*Fit it"):
        load_model(folder)


def test_a_model_cannot_refer_to_an_encoder_by_path(named, tmp_path):
    folder = get_model("embedding").fit(TEXTS, LABELS).save(tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    card["state"]["encoder"]["name"] = str(named)
    card["sha256"] = card_sha256(card)
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="is refused"):
        load_model(folder)
