from __future__ import annotations

import numpy as np
import pytest
import torch

from nivesh_lib.errors import ModelError
from nivesh_lib.models.neural.backbones import find_backbone, load_encoder
from nivesh_lib.models.neural.lstm import input_embeddings
from tests.models.conftest import LABELS, TEXTS, small_model, tiny


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_the_input_vectors_are_those_of_the_encoder(architecture):
    folder = find_backbone(tiny(architecture))
    expected = load_encoder(folder).get_input_embeddings().weight
    assert torch.equal(input_embeddings(folder), expected)


def test_weights_without_token_embeddings_are_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="pretrained=False"):
        input_embeddings(tmp_path)


def test_it_trains_from_random_vectors_of_its_own_width(tmp_path):
    model = small_model("lstm").set_params(pretrained=False, width=12).fit(TEXTS, LABELS)
    assert model.predict(TEXTS).tolist() == LABELS


def test_it_watches_a_share_of_the_rows_and_stops():
    X, y = TEXTS * 10, LABELS * 10
    model = small_model("lstm").set_params(epochs=60, patience=1, validation_share=0.25).fit(X, y)
    losses = [epoch["validation_loss"] for epoch in model.history_]
    assert len(losses) < 60
    assert len(losses) == int(np.argmin(losses)) + 2
