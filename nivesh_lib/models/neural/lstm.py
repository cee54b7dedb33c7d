"""A bidirectional LSTM over word pieces, trained on the task alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nivesh_lib.models.base import TextClassifier, as_training
from nivesh_lib.models.neural.backbones import find_backbone
from nivesh_lib.models.neural.tokenizer import WordPieces
from nivesh_lib.models.neural.training import (
    Encoded,
    Recipe,
    logits_of,
    rewriter,
    seeded,
    train,
    unlabelled,
    watched_mask,
    without_decay,
)
from nivesh_lib.models.text.hinglish import glossed
from nivesh_lib.models.text.linear import softmax


class LstmClassifier(TextClassifier):
    """Bidirectional LSTM (Hochreiter and Schmidhuber 1997) with pooled states.

    Word pieces become vectors, two LSTMs read them from both ends, and the mean and the maximum
    of their states over the query go to a linear layer. Training stops when the loss on a share
    of the rows, set aside for that, has not fallen for ``patience`` epochs.

    Parameters
    ----------
    backbone : str
        Whose word pieces are used; see `backbones.find_backbone`.
    pretrained : bool
        Start from the backbone's input vectors; otherwise from random ones.
    width : int
        Length of the random vectors.
    hidden : int
        States of each direction.
    dropout, word_dropout : float
        Share of activations, and of word pieces, hidden in training.
    epochs, patience : int
        Most passes over the rows; passes without a better loss before stopping.
    validation_share : float
        Of the rows of each class, watched for stopping; 0 trains on all for ``epochs``.
    batch_size, learning_rate, weight_decay, label_smoothing
        Of AdamW and the cross-entropy.
    slips : float
        Share of the words that get a slip of the thumb, another in each epoch; see
        `augmentation.with_slips`.
    glosses : bool
        Read the Hindi words of a text in English; see `hinglish.glossed`.
    max_length : int
        Word pieces of a text that are read.
    random_state : int, optional
        Seed of weights, order and dropout.
    verbose : bool
        Show a progress bar for each epoch.

    Attributes
    ----------
    history_ : list of dict
        See `training.train`; not kept in a saved model.
    """

    kind: ClassVar[str] = "lstm"

    def __init__(
        self,
        backbone: str = "minilm",
        pretrained: bool = True,
        width: int = 128,
        hidden: int = 192,
        dropout: float = 0.5,
        word_dropout: float = 0.1,
        epochs: int = 15,
        patience: int = 3,
        validation_share: float = 0.1,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.1,
        slips: float = 0.0,
        glosses: bool = True,
        max_length: int = 64,
        random_state: int | None = 42,
        verbose: bool = False,
    ) -> None:
        self.backbone = backbone
        self.pretrained = pretrained
        self.width = width
        self.hidden = hidden
        self.dropout = dropout
        self.word_dropout = word_dropout
        self.epochs = epochs
        self.patience = patience
        self.validation_share = validation_share
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.slips = slips
        self.glosses = glosses
        self.max_length = max_length
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Train from scratch, with the vectors of the backbone where ``pretrained``."""
        texts, labels = as_training(X, y)
        folder = find_backbone(self.backbone)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        self._pieces = WordPieces.from_folder(folder)
        rows = Encoded(self._encode(texts), targets, self._pieces.pad_id)
        aside = watched_mask(targets, self.validation_share, self.random_state)
        watched = rows.part(aside) if aside.any() else None
        rows, kept = rows.part(~aside), [texts[n] for n in np.flatnonzero(~aside)]
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            warmup=0.05,
            label_smoothing=self.label_smoothing,
            precision="fp32",  # the recurrence is too small to gain from less
            patience=self.patience if watched else 0,
            seed=self.random_state,
            verbose=self.verbose,
        )
        with seeded(self.random_state):
            self._network = self._new_network(
                self._vectors(folder), _slots(rows, self._pieces.size)
            )
            groups = without_decay(
                list(self._network.parameters()), self.learning_rate, self.weight_decay
            )
            self.history_ = train(
                self._network,
                groups,
                rows,
                recipe,
                watched,
                rewriter(self._encode, kept, self.slips),
            )
        return self

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        read = [glossed(text) for text in texts] if self.glosses else texts
        return self._pieces.encode(read, self.max_length)

    def _vectors(self, folder: Path) -> Any:
        import torch

        if not self.pretrained:
            return torch.zeros(self._pieces.size, self.width, dtype=torch.float16)
        return input_vectors(folder).half()  # half the room, and no answer changes

    def _new_network(self, vectors: Any, slots: Any) -> Any:
        return _network(
            vectors,
            slots,
            start=0.0 if self.pretrained else 0.1,
            hidden=self.hidden,
            classes=len(self.classes_),
            dropout=self.dropout,
            word_dropout=self.word_dropout,
        )

    def _proba(self, texts: list[str]) -> np.ndarray:
        ids = self._encode(texts)
        rows = unlabelled(ids, self._pieces.pad_id)
        return softmax(logits_of(self._network, rows))

    def _dump(self, directory: Path) -> dict[str, Any]:
        from safetensors.torch import save_file

        self._pieces.save(directory / "tokenizer.json")
        save_file(self._network.state_dict(), directory / "network.safetensors")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        from safetensors.torch import load_file

        self._pieces = WordPieces.from_folder(directory)
        tensors = load_file(directory / "network.safetensors")
        self._network = self._new_network(tensors["vectors"], tensors["slots"])
        self._network.load_state_dict(tensors)
        self._network.eval()


def input_vectors(folder: Path) -> Any:
    """Return the input vectors of a backbone's word pieces, (pieces, width) float32.

    Raises
    ------
    ModelError
        Its weights hold no such table under the name that BERT's family gives it.
    """
    from safetensors import safe_open

    from nivesh_lib.errors import ModelError

    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if name.endswith("embeddings.word_embeddings.weight"):
                return tensors.get_tensor(name).float()
    raise ModelError(f"{path}: no table of word embeddings. Train with pretrained=False")


def _slots(rows: Encoded, size: int) -> Any:
    """Number the word pieces that the rows hold from 1; all others get 0, shape (size,)."""
    import torch

    seen = np.unique(np.concatenate(rows.ids))
    slots = torch.zeros(size, dtype=torch.int64)
    slots[torch.from_numpy(seen)] = torch.arange(1, len(seen) + 1)
    return slots


def _network(
    vectors: Any,
    slots: Any,
    *,
    start: float,
    hidden: int,
    classes: int,
    dropout: float,
    word_dropout: float,
) -> Any:
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    class BiLstm(nn.Module):
        vectors: torch.Tensor
        slots: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            width = vectors.shape[1]
            # A piece's vector is the given one plus what training changed, which is nothing for
            # pieces that no row holds: a tenth of the table would be updated, all of it paid for.
            self.register_buffer("vectors", vectors)
            self.register_buffer("slots", slots)
            self.change = nn.Embedding(int(slots.max()) + 1, width, padding_idx=0)
            nn.init.normal_(self.change.weight, std=start)
            with torch.no_grad():
                self.change.weight[0] = 0
            self.hide = nn.Dropout(dropout)
            self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
            self.head = nn.Linear(4 * hidden, classes)

        def forward(self, ids: Any, mask: Any) -> Any:
            found = self.vectors[ids].float() + self.change(self.slots[ids])
            if self.training and word_dropout:
                kept = torch.rand(ids.shape, device=ids.device) >= word_dropout
                found = found * kept.unsqueeze(-1)
            lengths = mask.sum(dim=1)
            packed = pack_padded_sequence(
                self.hide(found), lengths.cpu(), batch_first=True, enforce_sorted=False
            )
            states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
            padding = (mask == 0).unsqueeze(-1)
            mean = states.sum(dim=1) / lengths.unsqueeze(-1)
            largest = states.masked_fill(padding, float("-inf")).amax(dim=1)
            return self.head(self.hide(torch.cat([mean, largest], dim=1)))

    return BiLstm()
