from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nivesh_lib.models.base import get_model
from nivesh_lib.models.hinglish import glossed
from nivesh_lib.models.transformer import PRESETS, TransformerClassifier

from .conftest import LABELS, QUERIES, TEXTS, small_model, tiny


def test_plain_transformers_loads_the_directory_and_answers_the_same_2post(tmp_path):
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
    assert (folder / "model.safetensors").is_file()
    config = json.loads((folder / "config.json").read_text())
    assert config["label2id"] == {label: n for n, label in enumerate(sorted(set(LABELS)))}


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_names_arguments_that_there_are_1pre(preset):
    assert set(PRESETS[preset]) <= set(TransformerClassifier().get_params())


def test_the_seed_preset_is_the_guide_s_recipe_1pre():
    params = get_model("transformer", **PRESETS["seed"]).get_params()
    told = {"learning_rate": 2e-5, "batch_size": 16, "epochs": 3, "weight_decay": 0.01}
    assert params | told | {"max_length": 128} == params


def test_frozen_embeddings_stay_and_the_layers_move_1pre():
    from nivesh_lib.models.backbones import find_backbone, load_encoder

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
