from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from nivesh_lib.errors import ModelError
from nivesh_lib.evaluation.benchmark import directory_bytes, saved_bytes
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.compact.torch_int8 import QuantizedClassifier, pruned
from nivesh_lib.models.compact.vocabulary import prune_unreachable, write_tokenizer
from nivesh_lib.models.wrappers.selective import Calibrated
from tests.models.conftest import LABELS, QUERIES, TEXTS, small_model, tiny


@pytest.fixture(scope="module")
def plain():
    return small_model("transformer").fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def quantized(plain):
    return QuantizedClassifier.of(plain)


# --- eight bits ------------------------------------------------------------------


def test_eight_bits_answer_nearly_as_before_and_leave_the_model_alone(plain):
    before = plain.predict_proba(TEXTS)
    model = QuantizedClassifier.of(plain)
    np.testing.assert_allclose(model.predict_proba(TEXTS), before, atol=0.05)
    assert not np.array_equal(model.predict_proba(TEXTS), before)
    np.testing.assert_array_equal(plain.predict_proba(TEXTS), before)


def test_every_linear_layer_is_in_eight_bits(quantized):
    names = [
        type(m).__module__ for m in quantized.model_.network.modules() if "Linear" in str(type(m))
    ]
    assert names and all("quantized" in name for name in names)


def test_fit_and_of_make_the_same_model(plain, quantized):
    fitted = QuantizedClassifier(small_model("transformer")).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(fitted.predict_proba(QUERIES), quantized.predict_proba(QUERIES))


def test_it_is_not_saved_and_the_message_names_what_is(quantized, tmp_path):
    for model in (quantized, Calibrated.of(quantized, temperature=0.5)):
        with pytest.raises(ModelError, match=r"not saved. Save the transformer, or export"):
            model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_the_size_is_that_of_int8_weights_of_reachable_tokens_and_the_tokenizer(
    architecture, tmp_path
):
    few = {"backbone": tiny(architecture), "epochs": 1}
    fitted = get_model("transformer", **few).fit(TEXTS, LABELS)
    tokenizer, kept = prune_unreachable(fitted.tokenizer)
    write_tokenizer(tokenizer, tmp_path)
    size = directory_bytes(tmp_path)
    for module in fitted.network.modules():
        if isinstance(module, torch.nn.Linear):
            size += module.weight.numel() + 4 * (module.out_features + module.bias.numel())
        elif isinstance(module, torch.nn.Embedding):
            rows, width = module.weight.shape
            if module is fitted.network.model.get_input_embeddings():
                rows = len(kept)
            size += rows * (width + 2)
        elif isinstance(module, torch.nn.LayerNorm):
            size += 4 * 2 * module.weight.numel()
    assert QuantizedClassifier.of(fitted).size_bytes == saved_bytes(QuantizedClassifier.of(fitted))
    assert QuantizedClassifier.of(fitted).size_bytes == size


@pytest.mark.parametrize("able", [True, False])
def test_activations_have_eight_bits_where_sums_cannot_overflow(plain, able, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_vnni": able})
    model = QuantizedClassifier.of(plain)
    versions = {getattr(module, "version", None) for module in model.model_.network.modules()}
    assert versions - {None} == {3 if able else 4}


def test_no_other_warning_is_kept_away(plain):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        QuantizedClassifier.of(plain)
        warnings.warn("of the caller's own", DeprecationWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["of the caller's own"]


@pytest.mark.parametrize("make", [QuantizedClassifier.of, pruned], ids=lambda f: f.__name__)
def test_only_a_fitted_transformer_is_taken(make):
    with pytest.raises(ValueError, match="a tfidf model is given"):
        make(get_model("tfidf").fit(TEXTS, LABELS))
    with pytest.raises(NotFittedError):
        make(small_model("transformer"))


def test_a_wrapper_around_nothing_is_refused():
    with pytest.raises(ValueError, match="model is None"):
        QuantizedClassifier().fit(TEXTS, LABELS)


# --- fewer weights ---------------------------------------------------------------


def sparsity(model):
    """The share of zeros among the weights of the encoder's linear layers."""
    modules = model.network.model.base_model.modules()
    weights = [one.weight for one in modules if isinstance(one, torch.nn.Linear)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.9])
def test_a_share_of_the_weights_becomes_zero_and_the_model_stays(plain, amount):
    before = plain.predict_proba(QUERIES)
    assert sparsity(pruned(plain, amount)) == pytest.approx(amount, abs=0.002)
    assert sparsity(plain) == 0.0
    np.testing.assert_array_equal(plain.predict_proba(QUERIES), before)


def test_the_smallest_weights_of_each_layer_go_and_the_head_keeps_its_own(plain):
    less = pruned(plain, 0.3)
    pairs = zip(plain.network.named_modules(), less.network.named_modules(), strict=True)
    for (name, old), (_, new) in pairs:
        if isinstance(old, torch.nn.Linear):
            gone = new.weight == 0
            assert bool(gone.any()) == (name != "model.classifier")
            if gone.any():
                assert old.weight[gone].abs().max() <= old.weight[~gone].abs().min()


def test_masks_are_removed_and_the_model_is_saved_like_any_other(plain, tmp_path):
    less = pruned(plain, 0.5)
    assert not [n for n, _ in less.network.named_buffers() if n.endswith("_mask")]
    loaded = load_model(less.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict_proba(QUERIES), less.predict_proba(QUERIES))
    assert sparsity(loaded) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("amount", [-0.1, 1.0, float("nan")])
def test_what_is_no_share_is_refused(plain, amount):
    with pytest.raises(ValueError, match="not from 0 to below 1"):
        pruned(plain, amount)
