"""A bidirectional LSTM over subword tokens, trained on the task alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nivesh_lib.models.base import as_training
from nivesh_lib.models.directory import read_tensors
from nivesh_lib.models.neural.backbones import (
    find_backbone,
    input_embeddings,
    reference_to,
    referred,
)
from nivesh_lib.models.neural.tokenizer import SubwordTokenizer
from nivesh_lib.models.neural.training import (
    Encoded,
    NeuralClassifier,
    TrainingConfig,
    parameter_groups,
    seeded,
    train,
    typo_augmenter,
    validation_mask,
)


@dataclass(eq=False, repr=False)
class LstmClassifier(NeuralClassifier):
    """Bidirectional LSTM (Hochreiter and Schmidhuber 1997) with pooled states.

    Token embeddings pass through a bidirectional LSTM; the mean and the maximum of its states over
    the query feed a linear layer. Training stops when the loss on held-out validation rows has not
    decreased for ``patience`` epochs.

    Parameters
    ----------
    backbone : str
        Whose tokenizer is used; see `backbones.find_backbone`.
    pretrained : bool
        Initialise with the backbone's input embeddings instead of random ones.
    width : int
        Width of random embeddings.
    hidden : int
        Hidden size of each direction.
    dropout, word_dropout : float
        Dropout rates of activations and of whole tokens.
    epochs, patience : int
        Maximum number of epochs; epochs without a lower validation loss before stopping.
    validation_share : float
        Share of the rows of each class used for early stopping; 0 trains on all rows.
    batch_size, learning_rate, weight_decay, label_smoothing
        Settings of AdamW and the cross-entropy.
    typo_rate : float
        Share of the words that get a typo, drawn anew in each epoch; see `typos.with_typos`.
    glosses : bool
        Replace Hindi words by English glosses; see `hinglish.glossed`.
    max_length : int
        Maximum number of tokens; longer texts are truncated.
    random_state : int, optional
        Seed of initial weights, row order and dropout.
    verbose : bool
        Show a progress bar for each epoch.

    Attributes
    ----------
    history_ : list of dict
        See `training.train`; not saved.
    """

    kind: ClassVar[str] = "lstm"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        **NeuralClassifier.ranges,
        "width": (1, 8_192),
        "hidden": (1, 8_192),
        "word_dropout": (0.0, 1.0),
        "patience": (0, 100_000),
        "validation_share": (0.0, 1.0),
    }

    backbone: str = "minilm"
    pretrained: bool = True
    width: int = 128
    hidden: int = 192
    dropout: float = 0.5
    word_dropout: float = 0.1
    epochs: int = 15
    patience: int = 3
    validation_share: float = 0.1
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    typo_rate: float = 0.0
    glosses: bool = True
    max_length: int = 64
    random_state: int | None = 42
    verbose: bool = False

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Train the network, with early stopping where ``validation_share`` is above 0."""
        self._check()
        texts, labels = as_training(X, y)
        folder = find_backbone(self.backbone)
        self._reference = reference_to(self.backbone) if self.pretrained else None
        self.classes_, targets = np.unique(labels, return_inverse=True)
        self._tokenizer = SubwordTokenizer.from_folder(folder)
        rows = Encoded(self._encode(texts), targets, self._tokenizer.pad_id)
        held_out = validation_mask(targets, self.validation_share, self.random_state)
        validation = rows.part(held_out) if held_out.any() else None
        rows, kept = rows.part(~held_out), [texts[n] for n in np.flatnonzero(~held_out)]
        patience = self.patience if validation else 0
        # The LSTM is too small to gain from bfloat16.
        config = TrainingConfig.of(self, warmup=0.05, precision="fp32", patience=patience)
        with seeded(self.random_state):
            slots = _slots(rows, self._tokenizer.vocabulary_size)
            self._network = _network(self, self._embeddings(folder), slots)
            groups = parameter_groups(
                list(self._network.parameters()), self.learning_rate, self.weight_decay
            )
            augment = typo_augmenter(self._encode, kept, self.typo_rate)
            self.history_ = train(self._network, groups, rows, config, validation, augment)
        return self

    def _embeddings(self, folder: Path) -> Any:
        if not self.pretrained:
            return torch.zeros(self._tokenizer.vocabulary_size, self.width, dtype=torch.float16)
        return input_embeddings(folder).half()  # half the size; predictions are the same

    def _dump(self, directory: Path) -> dict[str, Any]:
        from safetensors.torch import save_file

        self._tokenizer.save(directory / "tokenizer.json")
        tensors, state = dict(self._network.state_dict()), {}
        if self._reference:  # the vectors are the backbone's, and never trained
            state["encoder"] = self._reference | {"bytes": tensors.pop("vectors").nbytes}
        save_file(tensors, directory / "network.safetensors")
        return state

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self._tokenizer = SubwordTokenizer.from_folder(directory)
        found = read_tensors(directory, "network.safetensors")
        tensors = {name: torch.from_numpy(values) for name, values in found.items()}
        self._reference = state.get("encoder")
        if self._reference:
            tensors["vectors"] = self._embeddings(referred(self._reference))
        with torch.device("meta"):  # allocates nothing, whatever the arguments ask for
            self._network = _network(self, tensors["vectors"], tensors["slots"])
        self._network.load_state_dict(tensors, assign=True)
        self._network.eval()


def _slots(rows: Encoded, size: int) -> Any:
    """Return indices from 1 for the token ids in the rows, 0 for all others; (size,) int64."""
    seen = np.unique(np.concatenate(rows.ids))
    slots = torch.zeros(size, dtype=torch.int64)
    slots[torch.from_numpy(seen)] = torch.arange(1, len(seen) + 1)
    return slots


def _network(params: LstmClassifier, vectors: Any, slots: Any) -> Any:
    """Return a new network for embeddings (tokens, width) and indices as of `_slots`."""

    class BiLstm(nn.Module):
        vectors: torch.Tensor
        slots: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            width = vectors.shape[1]
            # An embedding is the given vector plus a learned change. Tokens of no training row
            # share a change of 0, so that only a tenth of the table has parameters.
            self.register_buffer("vectors", vectors)
            self.register_buffer("slots", slots)
            self.change = nn.Embedding(int(slots.max()) + 1, width, padding_idx=0)
            nn.init.normal_(self.change.weight, std=0.0 if params.pretrained else 0.1)
            with torch.no_grad():
                self.change.weight[0] = 0
            self.dropout = nn.Dropout(params.dropout)
            self.lstm = nn.LSTM(width, params.hidden, batch_first=True, bidirectional=True)
            self.head = nn.Linear(4 * params.hidden, len(params.classes_))

        def forward(self, ids: Any, mask: Any) -> Any:
            embedded = self.vectors[ids].float() + self.change(self.slots[ids])
            if self.training and params.word_dropout:
                kept = torch.rand(ids.shape, device=ids.device) >= params.word_dropout
                embedded = embedded * kept.unsqueeze(-1)
            lengths = mask.sum(dim=1)
            packed = pack_padded_sequence(
                self.dropout(embedded), lengths.cpu(), batch_first=True, enforce_sorted=False
            )
            states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
            padding = (mask == 0).unsqueeze(-1)
            mean = states.sum(dim=1) / lengths.unsqueeze(-1)
            largest = states.masked_fill(padding, float("-inf")).amax(dim=1)
            return self.head(self.dropout(torch.cat([mean, largest], dim=1)))

    return BiLstm()
