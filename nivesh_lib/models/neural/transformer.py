"""A pretrained encoder fine-tuned with a classification head."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nivesh_lib.models.base import as_training
from nivesh_lib.models.neural.backbones import (
    find_backbone,
    keep_layers,
    load_classifier,
    load_tokenizer,
    save_in_parts,
)
from nivesh_lib.models.neural.distillation import DistillationTargets
from nivesh_lib.models.neural.tokenizer import SubwordTokenizer
from nivesh_lib.models.neural.training import (
    Encoded,
    NeuralClassifier,
    TrainingConfig,
    parameter_groups,
    seeded,
    train,
    typo_augmenter,
)

# `seed` has the platform guide's settings: all parameters are trained at one learning rate.
# `shallow` is for tests of plumbing.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "seed": {
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 2e-5,
        "head_learning_rate": 2e-5,
        "layer_decay": 1.0,
        "weight_decay": 0.01,
        "warmup": 0.0,
        "label_smoothing": 0.0,
        "dropout": None,
        "identity_pooler": False,
        "freeze_embeddings": False,
        "typo_rate": 0.0,
        "glosses": False,
        "max_length": 128,
    },
    "shallow": {"layers": 1, "epochs": 1},
}


@dataclass(eq=False, repr=False)
class TransformerClassifier(NeuralClassifier):
    """Sequence classification with a pretrained encoder, all layers fine-tuned.

    Parameters
    ----------
    backbone : str
        ``minilm``, ``e5``, ``distilbert`` or a folder; see `backbones.find_backbone`.
    epochs, batch_size : int
        Passes over the training rows, and rows in a step.
    learning_rate, head_learning_rate : float
        Of the encoder's last layer, and of the new head.
    layer_decay : float
        Ratio of each layer's learning rate to that of the layer above (Howard and Ruder 2018).
    weight_decay, warmup, label_smoothing : float
        Settings of AdamW, its schedule (share of steps) and the cross-entropy.
    dropout : float, optional
        Of the encoder's layers; None keeps the backbone's own.
    identity_pooler : bool
        Initialise BERT's pooler with the identity matrix: it was pretrained for next-sentence
        prediction or not at all. The first token's state then reaches the head through a tanh only.
    freeze_embeddings : bool
        Do not train the token embeddings, half of the parameters.
    typo_rate : float
        Share of the words that get a typo, drawn anew in each epoch; see `typos.with_typos`.
    glosses : bool
        Replace Hindi words by English glosses; see `hinglish.glossed`.
    max_length : int
        Maximum number of tokens; longer texts are truncated. Batches are padded to their longest
        text.
    precision : str
        Of training, ``auto``, ``bf16`` or ``fp32``; see `training.autocast`. Inference is fp32.
    layers : int, optional
        Number of the backbone's layers to keep, evenly spaced; None keeps all. See
        `backbones.keep_layers`.
    random_state : int, optional
        Seed of the head, row order and dropout.
    verbose : bool
        Show a progress bar for each epoch.

    Attributes
    ----------
    history_ : list of dict
        See `training.train`; not saved.

    Notes
    -----
    The model directory is also a model in the hub's format that
    ``AutoModelForSequenceClassification.from_pretrained`` loads. Its inputs then need
    `base.prepare` and, with ``glosses``, `hinglish.glossed` first.
    """

    kind: ClassVar[str] = "transformer"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        **NeuralClassifier.ranges,
        "head_learning_rate": (0.0, 1e3),
        "layer_decay": (0.0, 1e3),
        "warmup": (0.0, 1.0),
    }

    backbone: str = "minilm"
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 3e-4
    head_learning_rate: float = 3e-3
    layer_decay: float = 0.9
    weight_decay: float = 0.01
    warmup: float = 0.1
    label_smoothing: float = 0.1
    dropout: float | None = 0.0
    identity_pooler: bool = True
    freeze_embeddings: bool = True
    typo_rate: float = 0.1
    glosses: bool = True
    max_length: int = 128
    precision: str = "auto"
    layers: int | None = None
    random_state: int | None = 42
    verbose: bool = False

    @classmethod
    def of_preset(cls, preset: str, *, epochs: int = 0, **settings: Any) -> Self:
        """Return an unfitted model with the settings of one of `PRESETS`.

        Parameters
        ----------
        epochs
            0 leaves it to the preset.
        settings
            Further arguments, in place of the preset's.
        """
        own = {"epochs": epochs} if epochs else {}
        return cls(**(PRESETS[preset] | settings | own))

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fine-tune on the labels."""
        return self._fit(X, y, self.typo_rate)

    def fit_distilled(self, targets: DistillationTargets) -> Self:
        """Fine-tune on a teacher's predictions and the labels, without typos."""
        return self._fit(targets.texts, targets.labels, 0.0, targets)

    def _fit(
        self,
        X: Iterable[str],
        y: Iterable[str],
        typo_rate: float,
        distillation: DistillationTargets | None = None,
    ) -> Self:
        self._check()
        texts, labels = as_training(X, y)
        folder = find_backbone(self.backbone)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        self._read_tokenizer(folder)
        rows = Encoded(self._encode(texts), targets, self._tokenizer.pad_id)
        with seeded(self.random_state):
            model = load_classifier(folder, self.classes_.tolist())
            if self.layers is not None:
                keep_layers(model, self.layers)
            self._prepare(model)
            self._network = logits_network(model)
            self.history_ = train(
                self._network,
                self._groups(model),
                rows,
                TrainingConfig.of(self),
                augment=typo_augmenter(self._encode, texts, typo_rate),
                distillation=distillation,
            )
        return self

    def _read_tokenizer(self, folder: Path) -> None:
        self._hub_tokenizer = load_tokenizer(folder)
        self._tokenizer = SubwordTokenizer(
            self._hub_tokenizer.backend_tokenizer, self._hub_tokenizer.pad_token_id
        )

    def _prepare(self, model: Any) -> None:
        import torch

        if self.dropout is not None:
            for module in model.base_model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = self.dropout
        pooler = getattr(model.base_model, "pooler", None)
        if self.identity_pooler and pooler is not None:
            torch.nn.init.eye_(pooler.dense.weight)
            torch.nn.init.zeros_(pooler.dense.bias)

    def _groups(self, model: Any) -> list[dict[str, Any]]:
        """Return AdamW groups with a learning rate for each layer and one for the head."""
        by_depth: dict[int, list[Any]] = {}
        for name, parameter in model.named_parameters():
            by_depth.setdefault(_depth(name, model.config.num_hidden_layers), []).append(parameter)
        top = model.config.num_hidden_layers
        if self.freeze_embeddings:
            for parameter in by_depth.pop(0):
                parameter.requires_grad_(False)
        groups = []
        for depth, parameters in by_depth.items():
            rate = self.learning_rate * self.layer_decay ** (top - depth)
            if depth > top:
                rate = self.head_learning_rate
            groups += parameter_groups(parameters, rate, self.weight_decay)
        return groups

    @property
    def network(self) -> Any:
        """The torch module: ``forward(ids, mask)`` returns logits; ``.model`` is the hub's model.

        Its last layer is computed for the first token only.
        """
        return self._network

    @property
    def tokenizer(self) -> SubwordTokenizer:
        """The subword tokenizer."""
        return self._tokenizer

    def with_network(self, network: Any) -> Self:
        """Return a shallow copy of this fitted model with another network."""
        other = copy.copy(self)
        other._network = network
        return other

    def _dump(self, directory: Path) -> dict[str, Any]:
        save_in_parts(self._network.model, directory)
        self._hub_tokenizer.save_pretrained(directory)
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self._read_tokenizer(directory)
        self._network = logits_network(load_classifier(directory, self.classes_.tolist())).eval()


def _depth(name: str, layers: int) -> int:
    """Return a parameter's depth: 0 embeddings, 1 to ``layers``, ``layers + 1`` the head."""
    found = re.search(r"\.layer\.(\d+)\.", name)
    if found:
        return 1 + int(found[1])
    if ".embeddings." in name:
        return 0
    return layers if ".pooler." in name else layers + 1


def logits_network(model: Any) -> Any:
    """Return the hub's model as a torch module from ids and mask to logits."""
    last = _after_last_attention(model)
    if last is not None:
        last.register_forward_pre_hook(_first_token)
    return logits_module(model)


def logits_module(model: Any) -> Any:
    """Return `logits_network`, but computing the last layer for all tokens."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).logits

    return Logits()


def _after_last_attention(model: Any) -> Any:
    """Return the module after the last attention, or None for an unknown architecture.

    From there on the head needs the first token only, which saves three quarters of the layer.
    """
    if model.config.model_type == "bert":
        return model.base_model.encoder.layer[-1].attention.output
    if model.config.model_type == "distilbert":
        return model.base_model.transformer.layer[-1].sa_layer_norm
    return None


def _first_token(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(states[:, :1] for states in inputs)
