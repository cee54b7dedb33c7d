from __future__ import annotations

import numpy as np

from tests.models.conftest import LABELS, TEXTS, small_model


def test_it_trains_from_random_vectors_of_its_own_width(tmp_path):
    model = small_model("lstm").set_params(pretrained=False, width=12).fit(TEXTS, LABELS)
    assert model.predict(TEXTS).tolist() == LABELS


def test_it_stops_by_the_loss_on_a_share_of_the_rows():
    X, y = TEXTS * 10, LABELS * 10
    model = small_model("lstm").set_params(epochs=60, patience=1, validation_share=0.25).fit(X, y)
    losses = [epoch["validation_loss"] for epoch in model.history_]
    assert len(losses) < 60
    assert len(losses) == int(np.argmin(losses)) + 2
