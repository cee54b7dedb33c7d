"""A classifier that looks its word pieces up in a table: no encoder, no torch when it answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nivesh_lib.models.backbones import find_backbone
from nivesh_lib.models.base import TextClassifier, as_training
from nivesh_lib.models.distillation import Teaching
from nivesh_lib.models.hinglish import glossed
from nivesh_lib.models.linear import softmax
from nivesh_lib.models.rounding import from_rounded, rounded_rows
from nivesh_lib.models.wordpieces import WordPieces

_LONGEST = 5  # characters of an n-gram; the shortest has 2
_COMMON = 1e-4  # share of all words from which on a piece counts less (Arora et al. 2017)
_PRIME = np.uint32(0x01000193)  # of the FNV hash
_SPREAD = np.uint32(0x9E3779B1)  # of Fibonacci hashing: high bits that depend on all bits


class StaticClassifier(TextClassifier):
    """Mean of word-piece vectors through one hidden layer, plus scores of hashed n-grams.

    The vectors are the backbone's input vectors, of the width that training gives them, weighted
    down where a piece is common, so that words which no training row holds lie beside those that
    some do (as in model2vec, Tulkens and van Dongen 2024). Character n-grams of each word and pairs
    of pieces add a score for each class, straight from the bucket that they hash to (Weinberger et
    al. 2009, Joulin et al. 2017): that reads typos and names. What is kept is int8 rows; answering
    is a look-up and two small products in numpy.

    Parameters
    ----------
    backbone : str
        Whose word pieces and vectors are used; see `backbones.find_backbone`.
    width, hidden : int
        Numbers of a piece's vector, and of the hidden layer.
    buckets : int
        Places for n-grams, a power of two; each takes a byte a class.
    dropout : float
        Share of vector and hidden layer that is hidden in training.
    epochs, batch_size : int
        Passes over the rows, and rows of a step.
    learning_rate, gram_learning_rate, weight_decay : float
        Of AdamW, the second for the scores of n-grams.
    label_smoothing : float
        Of the cross-entropy.
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

    Examples
    --------
    >>> model = StaticClassifier().fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "static"

    def __init__(
        self,
        backbone: str = "minilm",
        width: int = 40,
        hidden: int = 128,
        buckets: int = 32768,
        dropout: float = 0.2,
        epochs: int = 20,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        gram_learning_rate: float = 3e-2,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.1,
        slips: float = 0.0,
        glosses: bool = True,
        max_length: int = 128,
        random_state: int | None = 42,
        verbose: bool = False,
    ) -> None:
        self.backbone = backbone
        self.width = width
        self.hidden = hidden
        self.buckets = buckets
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.gram_learning_rate = gram_learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.slips = slips
        self.glosses = glosses
        self.max_length = max_length
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Train on the labels alone."""
        return self._learn(X, y, self.slips)

    def fit_taught(self, X: Iterable[str], y: Iterable[str], teaching: Teaching) -> Self:
        """Train on the rows as they are and on what another model said of each."""
        return self._learn(X, y, 0.0, teaching)

    def _learn(
        self, X: Iterable[str], y: Iterable[str], slips: float, teaching: Teaching | None = None
    ) -> Self:
        from nivesh_lib.models import training

        if self.buckets < 2 or self.buckets & (self.buckets - 1):
            raise ValueError(f"buckets {self.buckets!r} is no power of two")
        texts, labels = as_training(X, y)
        folder = find_backbone(self.backbone)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        self._pieces = WordPieces.from_folder(folder)
        rows = training.Encoded(self._joined(texts), targets, _PADDING)
        recipe = training.Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            label_smoothing=self.label_smoothing,
            precision="fp32",  # the products are too small to gain from less
            seed=self.random_state,
            verbose=self.verbose,
        )
        with training.seeded(self.random_state):
            network = self._new_network(folder)
            self.history_ = training.train(
                network,
                self._groups(network),
                rows,
                recipe,
                rewritten=training.rewriter(self._joined, texts, slips),
                teaching=teaching,
            )
        self._take(network)
        return self

    def _new_network(self, folder: Path) -> Any:
        from nivesh_lib.models.lstm import input_vectors

        vectors = input_vectors(folder).numpy()
        return _network(
            _weighted(vectors, self._pieces),
            width=min(self.width, vectors.shape[1]),
            hidden=self.hidden,
            buckets=self.buckets,
            classes=len(self.classes_),
            dropout=self.dropout,
        )

    def _groups(self, network: Any) -> list[dict[str, Any]]:
        from nivesh_lib.models.training import without_decay

        grams = list(network.grams.parameters())
        others = [p for n, p in network.named_parameters() if not n.startswith("grams.")]
        groups = without_decay(others, self.learning_rate, self.weight_decay)
        return groups + without_decay(grams, self.gram_learning_rate, self.weight_decay)

    def _take(self, network: Any) -> None:
        """Keep the trained numbers as arrays, tables in eight bits."""
        parts = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        reachable = self._pieces.reachable()
        table = parts["vectors"][reachable] @ parts["narrow.weight"].T
        grams = parts["grams.weight"][1:]  # the first row is the padding's
        tensors = {name: parts[name] for name in _LAYERS}
        tensors["table"], tensors["table_scales"] = rounded_rows(table)
        tensors["grams"], tensors["grams_scales"] = rounded_rows(grams)
        self._set(tensors)

    def _set(self, tensors: dict[str, np.ndarray]) -> None:
        self._tensors = tensors
        self._rows = np.cumsum(self._pieces.reachable()) - 1  # piece -> row of the table

    def _joined(self, texts: list[str]) -> list[np.ndarray]:
        """Return what the network reads of each text: pieces from 1 on, then n-grams after them."""
        size = self._pieces.size
        return [
            np.concatenate([pieces + 1, grams.astype(np.int64) + 1 + size])
            for pieces, grams in self._read(texts)
        ]

    def _read(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return word pieces and buckets of n-grams of each text."""
        english = [glossed(text) for text in texts] if self.glosses else texts
        pieces = self._pieces.encode(english, self.max_length)
        both = [a if a == b else f"{a} {b}" for a, b in zip(texts, english, strict=True)]
        return [
            (ids, hashed_grams(text, ids, self.buckets))
            for text, ids in zip(both, pieces, strict=True)
        ]

    def _proba(self, texts: list[str]) -> np.ndarray:
        return softmax(np.stack([self._logits(*read) for read in self._read(texts)]))

    def _logits(self, pieces: np.ndarray, grams: np.ndarray) -> np.ndarray:
        held, rows = self._tensors, self._rows[pieces]
        mean = from_rounded(held["table"][rows], held["table_scales"][rows]).sum(0) / len(rows)
        inner = np.maximum(held["inner.weight"] @ mean + held["inner.bias"], 0.0)
        scores = from_rounded(held["grams"][grams], held["grams_scales"][grams]).sum(0)
        known = scores / max(1, len(grams)) ** 0.5
        return held["outer.weight"] @ inner + held["outer.bias"] + known

    def _dump(self, directory: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        self._pieces.save_apart(directory)
        save_file(self._tensors, directory / "weights.safetensors")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        from safetensors.numpy import load_file

        self._pieces = WordPieces.from_apart(directory)
        self._set(load_file(directory / "weights.safetensors"))


_PADDING = 0
_LAYERS = ("inner.weight", "inner.bias", "outer.weight", "outer.bias")


def hashed_grams(text: str, pieces: np.ndarray, buckets: int) -> np.ndarray:
    """Return the buckets, int64 (n,), of a text's character n-grams and pairs of word pieces.

    N-grams have 2 to 5 characters and reach over the space on either side of a word, but not into
    the next word, as ``char_wb`` of scikit-learn does.
    """
    spaced = " " + " ".join(text.lower().split()) + " "
    letters = np.frombuffer(spaced.encode("utf-32-le", "replace"), np.uint32)
    spaces = np.cumsum(letters == 32)
    hashes, found = letters, []
    for size in range(2, _LONGEST + 1):
        hashes = hashes[:-1] * _PRIME ^ letters[size - 1 :]
        count = len(hashes)
        within = spaces[size - 2 : size - 2 + count] == spaces[:count]  # no space inside
        found.append(hashes[within])
    ids = pieces.astype(np.uint32)
    found.append((ids[:-1] * _PRIME ^ ids[1:]) * _PRIME)
    shift = np.uint32(33 - int(buckets).bit_length())
    return (np.concatenate(found) * _SPREAD >> shift).astype(np.int64)


def _weighted(vectors: np.ndarray, pieces: WordPieces) -> np.ndarray:
    """Return the vectors about their mean, in units of their spread, common pieces weighed less.

    Vocabularies are sorted by frequency, which Zipf's law then tells (as model2vec does); pieces
    of every text, such as the first and the last, say nothing and get zeros.
    """
    centred = vectors - vectors.mean(axis=0)
    share = 1 / np.arange(2, len(vectors) + 2)
    weight = _COMMON / (_COMMON + share / share.sum())
    weight[pieces.special()] = 0.0
    return (centred / centred.std() * weight[:, None]).astype(np.float32)


def _network(
    vectors: np.ndarray, *, width: int, hidden: int, buckets: int, classes: int, dropout: float
) -> Any:
    import torch
    from torch import nn

    class Bag(nn.Module):
        vectors: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("vectors", torch.from_numpy(vectors))
            self.narrow = nn.Linear(vectors.shape[1], width, bias=False)
            self.inner = nn.Linear(width, hidden)
            self.outer = nn.Linear(hidden, classes)
            self.grams = nn.Embedding(buckets + 1, classes, padding_idx=_PADDING)
            self.hide = nn.Dropout(dropout)
            nn.init.zeros_(self.grams.weight)

        def forward(self, ids: Any, mask: Any) -> Any:
            pieces = (ids > 0) & (ids <= len(self.vectors))
            width = int(pieces.sum(dim=1).max())  # pieces come first in a row
            near, known = ids[:, :width] - 1, pieces[:, :width]
            found = self.vectors[near * known] * known.unsqueeze(-1)
            mean = found.sum(dim=1) / known.sum(dim=1, keepdim=True)
            inner = torch.relu(self.inner(self.narrow(self.hide(mean))))
            grams = (ids - len(self.vectors)).clamp_min(_PADDING)
            counts = (grams > 0).sum(dim=1, keepdim=True).clamp_min(1)
            return self.outer(self.hide(inner)) + self.grams(grams).sum(dim=1) / counts.sqrt()

    return Bag()
