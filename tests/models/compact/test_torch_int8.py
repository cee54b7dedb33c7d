from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.compact.torch_int8 import QuantizedClassifier, pruned, sparsity
from nivesh_lib.models.compact.vocabulary import reachable
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


def test_the_file_holds_bytes_and_a_loaded_model_the_same_numbers(quantized, tmp_path):
    from safetensors.numpy import load_file

    folder = quantized.save(tmp_path / "model")
    held = load_file(folder / "network.safetensors")
    steps = {name for name in held if name.endswith(".steps")}
    assert {str(held[name].dtype) for name in steps} == {"int8"}
    assert sum(held[n].size for n in steps) > 0.9 * sum(tensor.size for tensor in held.values())
    loaded = load_model(folder)
    for name, module in loaded.model_.network.named_modules():
        if isinstance(module, torch.nn.Embedding):
            ours, theirs = module.weight, quantized.model_.network.get_submodule(name).weight
            kept = reachable(loaded.model_.pieces)[1] if "word" in name else slice(None)
            assert torch.equal(ours[kept], theirs[kept]), name


def test_pieces_that_no_text_has_are_not_in_the_file(tmp_path):
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

    known = list(AutoTokenizer.from_pretrained(tiny()).get_vocab())
    pieces = [*known, *(f"[unused{n}]" for n in range(40))]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=len(pieces), num_attention_heads=2, **shape)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    BertTokenizer(vocab={p: n for n, p in enumerate(pieces)}).save_pretrained(tmp_path / "encoder")
    few = {"backbone": str(tmp_path / "encoder"), "epochs": 1}
    model = QuantizedClassifier.of(get_model("transformer", **few).fit(TEXTS, LABELS))
    folder = model.save(tmp_path / "model")
    held = load_file(folder / "network.safetensors")
    kept = reachable(model.model_.pieces)[1]
    assert not any(pieces[n].startswith("[unused") for n in kept) and len(kept) > len(known) - 5
    assert held["bert.embeddings.word_embeddings.steps"].shape == (len(kept), 32)
    np.testing.assert_array_equal(
        load_model(folder).predict_proba(QUERIES), model.predict_proba(QUERIES)
    )


def test_the_shape_of_distilbert_is_quantised_too(tmp_path):
    few = {"backbone": tiny("distilbert"), "epochs": 1}
    model = QuantizedClassifier.of(get_model("transformer", **few).fit(TEXTS, LABELS))
    loaded = load_model(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict_proba(QUERIES), model.predict_proba(QUERIES))


def test_loading_draws_nothing_from_the_caller_s_random_state(quantized, tmp_path):
    folder = quantized.save(tmp_path / "model")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(folder)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("able", [True, False])
def test_activations_have_eight_bits_where_sums_cannot_overflow(plain, able, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_vnni": able})
    model = QuantizedClassifier.of(plain)
    versions = {getattr(module, "version", None) for module in model.model_.network.modules()}
    assert versions - {None} == {3 if able else 4}


def test_it_is_calibrated_like_any_model(quantized, tmp_path):
    model = Calibrated.of(quantized, temperature=0.5)
    loaded = load_model(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict_proba(QUERIES), model.predict_proba(QUERIES))


def test_no_other_warning_is_kept_away(plain):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        QuantizedClassifier.of(plain)
        warnings.warn("of the caller's own", DeprecationWarning, stacklevel=1)
    assert [str(one.message) for one in told] == ["of the caller's own"]


@pytest.mark.parametrize(
    "make", [QuantizedClassifier.of, pruned, sparsity], ids=lambda f: f.__name__
)
def test_only_a_fitted_transformer_is_taken(make):
    with pytest.raises(ValueError, match="a tfidf model is given"):
        make(get_model("tfidf").fit(TEXTS, LABELS))
    with pytest.raises(NotFittedError):
        make(small_model("transformer"))


def test_a_wrapper_around_nothing_is_refused():
    with pytest.raises(ValueError, match="model is None"):
        QuantizedClassifier().fit(TEXTS, LABELS)


# --- fewer weights ---------------------------------------------------------------


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


def test_masks_are_gone_and_the_model_is_saved_like_any_other(plain, tmp_path):
    less = pruned(plain, 0.5)
    assert not [n for n, _ in less.network.named_buffers() if n.endswith("_mask")]
    loaded = load_model(less.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict_proba(QUERIES), less.predict_proba(QUERIES))
    assert sparsity(loaded) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("amount", [-0.1, 1.0, float("nan")])
def test_what_is_no_share_is_refused(plain, amount):
    with pytest.raises(ValueError, match="not from 0 to below 1"):
        pruned(plain, amount)
