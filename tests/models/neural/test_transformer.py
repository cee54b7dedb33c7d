from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.neural.transformer import PRESETS, TransformerClassifier
from nivesh_lib.models.text.hinglish import glossed
from tests.models.conftest import LABELS, QUERIES, TEXTS, small_model, tiny


def test_plain_transformers_loads_the_directory_and_answers_the_same(tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = small_model("transformer").fit(TEXTS, LABELS)
    folder = model.save(tmp_path / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    read = [glossed(query) for query in QUERIES]  # what is outside the network, as its page says
    tokens = AutoTokenizer.from_pretrained(folder)(read, padding=True, return_tensors="pt")
    with torch.inference_mode():
        proba = theirs(**tokens).logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(proba, model.predict_proba(QUERIES), rtol=1e-4)
    assert list(theirs.config.id2label.values()) == model.classes_.tolist()


def test_the_saved_weights_are_safetensors_and_the_config_names_the_labels_1pre(tmp_path):
    folder = small_model("transformer").fit(TEXTS, LABELS).save(tmp_path / "model")
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["label2id"] == {label: n for n, label in enumerate(sorted(set(LABELS)))}


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_names_arguments_that_there_are_1pre(preset):
    assert set(PRESETS[preset]) <= set(TransformerClassifier().get_params())


def test_the_seed_preset_is_the_guide_s_settings_1pre():
    params = get_model("transformer", **PRESETS["seed"]).get_params()
    guide = {"learning_rate": 2e-5, "batch_size": 16, "epochs": 3, "weight_decay": 0.01}
    assert params | guide | {"max_length": 128} == params


@pytest.mark.parametrize(("epochs", "expected"), [(0, 3), (5, 5)])
def test_epochs_of_0_leave_them_to_the_preset_1pre(epochs, expected):
    model = TransformerClassifier.of_preset("seed", epochs=epochs, dropout=0.2)
    assert (model.epochs, model.dropout, model.batch_size) == (expected, 0.2, 16)


def test_frozen_embeddings_stay_and_the_layers_move_1pre():
    from nivesh_lib.models.neural.backbones import find_backbone, load_encoder

    before = load_encoder(find_backbone(tiny())).state_dict()
    after = small_model("transformer").fit(TEXTS, LABELS)._network.model.bert.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("encoder.layer.0.") for name in changed)
    assert not any(name.startswith("embeddings.") for name in changed)


def test_lower_layers_learn_at_a_lower_rate_1pre():
    model = small_model("transformer").set_params(layer_decay=0.5).fit(TEXTS, LABELS)
    rates = {group["lr"] for group in model._groups(model._network.model)}
    base = model.learning_rate
    assert rates == {base, base / 2, model.head_learning_rate}


def test_there_is_a_history_entry_for_each_epoch_1pre():
    model = small_model("transformer").set_params(epochs=3).fit(TEXTS, LABELS)
    assert [epoch["epoch"] for epoch in model.history_] == [1, 2, 3]


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_a_student_keeps_some_of_the_backbone_s_layers_1pre(architecture, tmp_path):
    few = {"backbone": tiny(architecture), "epochs": 1}
    model = get_model("transformer", layers=1, **few).fit(TEXTS, LABELS)
    assert model.network.model.config.num_hidden_layers == 1
    loaded = load_model(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict_proba(QUERIES), model.predict_proba(QUERIES))


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_layers_that_the_backbone_does_not_have_are_refused_1pre(layers):
    with pytest.raises(ValueError, match="not between 1 and the backbone's 2"):
        small_model("transformer").set_params(layers=layers).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("of", "count", "kept"),
    [(12, 6, [0, 2, 4, 7, 9, 11]), (6, 3, [0, 2, 5]), (6, 2, [0, 5]), (6, 1, [0])],
)
def test_layers_are_kept_as_distilbert_kept_them_1pre(of, count, kept):
    from transformers import BertConfig, BertModel

    from nivesh_lib.models.neural.backbones import keep_layers

    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "vocab_size": 9}
    model = BertModel(BertConfig(num_hidden_layers=of, **small))
    layers = list(model.encoder.layer)
    keep_layers(model, count)
    assert [layers.index(layer) for layer in model.encoder.layer] == kept


def test_models_with_frozen_embeddings_have_that_file_in_common_and_serve_as_backbones(tmp_path):
    model = small_model("transformer").set_params(epochs=1)
    first = model.fit(TEXTS, LABELS).save(tmp_path / "first")
    second = model.set_params(random_state=7).fit(TEXTS, LABELS).save(tmp_path / "second")
    embeddings, layers = sorted(path.name for path in first.glob("*.safetensors"))
    assert (first / embeddings).read_bytes() == (second / embeddings).read_bytes()
    assert (first / layers).read_bytes() != (second / layers).read_bytes()
    again = load_model(first).save(tmp_path / "again")
    assert all((again / n).read_bytes() == (first / n).read_bytes() for n in (embeddings, layers))
    model = get_model("embedding", backbone=str(first)).fit(TEXTS, LABELS)
    saved = model.save(tmp_path / "third")
    np.testing.assert_allclose(
        load_model(saved).predict_proba(QUERIES), model.predict_proba(QUERIES), rtol=1e-5
    )
