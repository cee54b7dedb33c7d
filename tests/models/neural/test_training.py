from __future__ import annotations

import numpy as np
import pytest
import torch

from nivesh_lib.errors import ModelError
from nivesh_lib.models.neural.distillation import DistillationTargets
from nivesh_lib.models.neural.training import (
    Encoded,
    TrainingConfig,
    autocast,
    logits_of,
    parameter_groups,
    seeded,
    train,
    typo_augmenter,
    validation_mask,
)


class Bag(torch.nn.Module):
    """The smallest network there is: the mean of trained vectors, one for each id."""

    def __init__(self, classes=2):
        super().__init__()
        self.table = torch.nn.Embedding(50, classes)

    def forward(self, ids, mask):
        weight = mask.unsqueeze(-1)
        return (self.table(ids) * weight).sum(1) / weight.sum(1)


def rows(n=60, noise=0.0, seed=0):
    """Rows of class 0 hold small ids, rows of class 1 large ones; ``noise`` flips some."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, n)
    ids = [rng.integers(1, 25, rng.integers(2, 9)) + 25 * t for t in targets]
    flipped = rng.random(n) < noise
    return Encoded(ids, np.where(flipped, 1 - targets, targets), 0)


def fit(config, data=None, validation=None):
    with seeded(0):
        network = Bag()
        groups = [{"params": list(network.parameters()), "lr": 0.1}]
        return network, train(network, groups, data or rows(), config, validation)


def test_the_loss_falls_and_the_classes_are_learned():
    network, history = fit(TrainingConfig(epochs=15, batch_size=8))
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 3
    assert (logits_of(network, rows()).argmax(axis=1) == rows().targets).all()


def test_the_history_counts_epochs_and_watches_only_what_it_was_given():
    _, history = fit(TrainingConfig(epochs=2, batch_size=8))
    assert [set(epoch) for epoch in history] == [{"epoch", "train_loss"}] * 2
    _, history = fit(TrainingConfig(epochs=2, batch_size=8), validation=rows(seed=1))
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    assert set(history[0]) >= {"validation_loss", "validation_accuracy"}


def test_training_stops_when_the_watched_loss_has_not_fallen_and_keeps_the_best():
    wrong = rows(seed=1)
    wrong = Encoded(wrong.ids, 1 - wrong.targets, 0)  # whatever is learned makes this worse
    network, history = fit(TrainingConfig(epochs=30, batch_size=8, patience=2), validation=wrong)
    losses = [epoch["validation_loss"] for epoch in history]
    assert len(history) == int(np.argmin(losses)) + 3
    logits = torch.from_numpy(logits_of(network, wrong))
    kept = torch.nn.functional.cross_entropy(logits, torch.from_numpy(wrong.targets)).item()
    assert kept == pytest.approx(min(losses), rel=1e-4)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(TrainingConfig(epochs=1, batch_size=8))
    assert torch.equal(torch.rand(3), expected)


def test_logits_come_back_in_the_order_asked():
    network, _ = fit(TrainingConfig(epochs=2, batch_size=8))
    data = rows(200, seed=3)
    alone = [logits_of(network, Encoded([one], np.zeros(1, int), 0))[0] for one in data.ids]
    np.testing.assert_allclose(logits_of(network, data), alone, rtol=1e-6)


def test_a_share_of_each_class_is_watched():
    targets = np.arange(100) % 2
    watched = validation_mask(targets, 0.2, seed=1)
    assert np.bincount(targets[watched]).tolist() == [10, 10]


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_nothing_is_watched_where_no_class_has_enough(share):
    assert not validation_mask(np.array([0, 0, 1, 1]), share, seed=1).any()


def test_rows_are_augmented_anew_for_each_epoch():
    asked = []

    def augment(rng):
        asked.append(rng.random())
        return rows().ids

    with seeded(0):
        network = Bag()
        groups = [{"params": list(network.parameters()), "lr": 0.1}]
        train(network, groups, rows(), TrainingConfig(epochs=3, batch_size=8), augment=augment)
    assert len(set(asked)) == 3


def test_typos_are_drawn_anew_and_a_rate_of_0_has_none():
    anew = typo_augmenter(lambda texts: texts, ["insurance for my parents"] * 50, 0.5)
    first, second = anew(np.random.default_rng(0)), anew(np.random.default_rng(1))
    assert first != second and len(set(first)) > 1
    assert typo_augmenter(lambda texts: texts, ["insurance"], 0.0) is None


def test_biases_and_frozen_parameters_do_not_decay():
    layer, frozen = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False)
    groups = parameter_groups([*layer.parameters(), *frozen.parameters()], 1e-3, 0.1)
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.1, 1), (0.0, 1)]


def test_an_unknown_precision_is_refused_with_those_there_are():
    with pytest.raises(ModelError, match="'fp8' is not one of auto, bf16, fp32"):
        autocast("fp8")


def test_bf16_learns_what_fp32_learns():
    _, exact = fit(TrainingConfig(epochs=5, batch_size=8, precision="fp32"))
    _, short = fit(TrainingConfig(epochs=5, batch_size=8, precision="bf16"))
    assert short[-1]["train_loss"] == pytest.approx(exact[-1]["train_loss"], rel=0.05)


def test_a_progress_bar_is_shown_only_when_asked(capsys):
    fit(TrainingConfig(epochs=1, batch_size=8))
    assert capsys.readouterr().err == ""
    fit(TrainingConfig(epochs=1, batch_size=8, verbose=True))
    assert "epoch 1 of 1" in capsys.readouterr().err


def test_a_teacher_is_learned_from_beside_the_labels():
    data = rows()
    wrong = np.where(data.targets[:, None] == [0, 1], -4.0, 4.0)  # the teacher says the contrary
    with seeded(0):
        networks = [Bag(), Bag()]
    for network, alpha in zip(networks, (1.0, 0.0), strict=True):
        groups = [{"params": list(network.parameters()), "lr": 0.1}]
        config = TrainingConfig(epochs=15, batch_size=8)
        targets = DistillationTargets([], data.targets, wrong, 2.0, alpha)
        train(network, groups, data, config, distillation=targets)
    taught, labelled = (
        (logits_of(n, data).argmax(axis=1) == data.targets).mean() for n in networks
    )
    assert taught == 0.0 and labelled == 1.0
