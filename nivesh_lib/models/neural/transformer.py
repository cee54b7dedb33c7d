"""A pretrained encoder, fine-tuned as a whole with a classification head."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nivesh_lib.models.base import TextClassifier, as_training
from nivesh_lib.models.neural.backbones import (
    find_backbone,
    keep_layers,
    load_classifier,
    load_tokenizer,
    save_pretrained,
)
from nivesh_lib.models.neural.distillation import Teaching
from nivesh_lib.models.neural.tokenizer import WordPieces
from nivesh_lib.models.neural.training import (
    Encoded,
    Recipe,
    logits_of,
    rewriter,
    seeded,
    train,
    unlabelled,
    without_decay,
)
from nivesh_lib.models.text.hinglish import glossed
from nivesh_lib.models.text.linear import softmax

# `seed` is the recipe of the platform's guide; with it every parameter is trained, at one rate.
# `shallow` only shows that everything goes through.
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
        "direct": False,
        "freeze_embeddings": False,
        "slips": 0.0,
        "glosses": False,
        "max_length": 128,
    },
    "shallow": {"layers": 1, "epochs": 1},
}


class TransformerClassifier(TextClassifier):
    """Sequence classification on a pretrained encoder, every layer trained.

    Parameters
    ----------
    backbone : str
        ``minilm``, ``distilbert`` or a folder; see `backbones.find_backbone`.
    epochs, batch_size : int
        Passes over the rows, and rows of a step.
    learning_rate, head_learning_rate : float
        Of the encoder's last layer, and of the new head.
    layer_decay : float
        Factor from each layer's rate to that of the layer below (Howard and Ruder 2018).
    weight_decay, warmup, label_smoothing : float
        Of AdamW, its schedule (share of steps) and the cross-entropy.
    dropout : float, optional
        Of the encoder's layers; None keeps the backbone's own.
    direct : bool
        Let the first token's state reach the head unchanged but for a tanh: BERT's layer in
        between was trained to tell whether sentences follow each other, or not at all.
    freeze_embeddings : bool
        Leave the table of word pieces as it is: half of the parameters, and little of the gain.
    slips : float
        Share of the words that get a slip of the thumb, another in each epoch; see
        `augmentation.with_slips`.
    glosses : bool
        Read the Hindi words of a text in English; see `hinglish.glossed`.
    max_length : int
        Word pieces of a text that are read. Batches are padded to their own longest text only.
    precision : str
        ``auto``, ``bf16`` or ``fp32`` in training; see `training.autocast`. Answers are fp32.
    layers : int, optional
        Keep that many of the backbone's layers, evenly spread; None keeps all. See
        `backbones.keep_layers`.
    random_state : int, optional
        Seed of head, order and dropout.
    verbose : bool
        Show a progress bar for each epoch.

    Attributes
    ----------
    history_ : list of dict
        See `training.train`; not kept in a saved model.

    Notes
    -----
    The saved directory is also a model of the hub's format: ``transformers`` loads it with
    ``AutoModelForSequenceClassification.from_pretrained``. Texts that go there past this class
    need `base.prepare` and, with ``glosses``, `hinglish.glossed` first.
    """

    kind: ClassVar[str] = "transformer"

    def __init__(
        self,
        backbone: str = "minilm",
        epochs: int = 8,
        batch_size: int = 64,
        learning_rate: float = 3e-4,
        head_learning_rate: float = 3e-3,
        layer_decay: float = 0.9,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        label_smoothing: float = 0.1,
        dropout: float | None = 0.0,
        direct: bool = True,
        freeze_embeddings: bool = True,
        slips: float = 0.1,
        glosses: bool = True,
        max_length: int = 128,
        precision: str = "auto",
        layers: int | None = None,
        random_state: int | None = 42,
        verbose: bool = False,
    ) -> None:
        self.backbone = backbone
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.direct = direct
        self.freeze_embeddings = freeze_embeddings
        self.slips = slips
        self.glosses = glosses
        self.max_length = max_length
        self.precision = precision
        self.layers = layers
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fine-tune the backbone on the rows."""
        return self._learn(X, y, self.slips)

    def fit_taught(self, X: Iterable[str], y: Iterable[str], teaching: Teaching) -> Self:
        """Fine-tune on the rows as they are and on what another model said of each."""
        return self._learn(X, y, 0.0, teaching)

    def _learn(
        self, X: Iterable[str], y: Iterable[str], slips: float, teaching: Teaching | None = None
    ) -> Self:
        texts, labels = as_training(X, y)
        folder = find_backbone(self.backbone)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        self._read_tokenizer(folder)
        rows = Encoded(self._encode(texts), targets, self._pieces.pad_id)
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            warmup=self.warmup,
            label_smoothing=self.label_smoothing,
            precision=self.precision,
            seed=self.random_state,
            verbose=self.verbose,
        )
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
                recipe,
                rewritten=rewriter(self._encode, texts, slips),
                teaching=teaching,
            )
        return self

    def _read_tokenizer(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._pieces = WordPieces(self._tokenizer.backend_tokenizer, self._tokenizer.pad_token_id)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        read = [glossed(text) for text in texts] if self.glosses else texts
        return self._pieces.encode(read, self.max_length)

    def _prepare(self, model: Any) -> None:
        import torch

        if self.dropout is not None:
            for module in model.base_model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = self.dropout
        pooler = getattr(model.base_model, "pooler", None)
        if self.direct and pooler is not None:
            torch.nn.init.eye_(pooler.dense.weight)
            torch.nn.init.zeros_(pooler.dense.bias)

    def _groups(self, model: Any) -> list[dict[str, Any]]:
        """Return AdamW's groups: each layer at its own rate, the head at another."""
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
            groups += without_decay(parameters, rate, self.weight_decay)
        return groups

    @property
    def network(self) -> Any:
        """The torch module: ``forward(ids, mask)`` returns logits.

        ``.model`` is the hub's, of whose last layer only the first token is computed.
        """
        return self._network

    @property
    def pieces(self) -> WordPieces:
        """What cuts texts into word pieces."""
        return self._pieces

    def with_network(self, network: Any) -> Self:
        """Return a copy of this fitted model that asks another network."""
        other = copy.copy(self)
        other._network = network
        return other

    def restored(self, network: Any, pieces: WordPieces, classes: np.ndarray) -> Self:
        """Take what was read from a file in place of `fit`; return self."""
        self._network, self._pieces, self.classes_ = network, pieces, classes
        return self

    def _proba(self, texts: list[str]) -> np.ndarray:
        return softmax(self._logits(texts))

    def _logits(self, texts: list[str]) -> np.ndarray:
        rows = unlabelled(self._encode(texts), self._pieces.pad_id)
        return logits_of(self._network, rows)

    def _dump(self, directory: Path) -> dict[str, Any]:
        save_pretrained(self._network.model, directory)
        self._tokenizer.save_pretrained(directory)
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self._read_tokenizer(directory)
        self._network = logits_network(load_classifier(directory, self.classes_.tolist())).eval()


def _depth(name: str, layers: int) -> int:
    """Return 0 for the embeddings, 1 to ``layers`` for the layers, one more for the head."""
    found = re.search(r"\.layer\.(\d+)\.", name)
    if found:
        return 1 + int(found[1])
    if ".embeddings." in name:
        return 0
    return layers if ".pooler." in name else layers + 1


def logits_network(model: Any) -> Any:
    """Return the hub's model as a module from ids and mask to logits."""
    import torch

    last = _after_last_attention(model)
    if last is not None:
        last.register_forward_pre_hook(_first_token)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).logits

    return Logits()


def _after_last_attention(model: Any) -> Any:
    """Return what comes after the last attention; from there on the head needs one token.

    The rest is three quarters of the layer. None for a family that is not known.
    """
    if model.config.model_type == "bert":
        return model.base_model.encoder.layer[-1].attention.output
    if model.config.model_type == "distilbert":
        return model.base_model.transformer.layer[-1].sa_layer_norm
    return None


def _first_token(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(rows[:, :1] for rows in inputs)
