"""Logistic regression on the features of a frozen pretrained encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from nivesh_lib.models.base import TextClassifier, as_training
from nivesh_lib.models.directory import read_tensors
from nivesh_lib.models.neural.backbones import (
    find_backbone,
    load_encoder,
    reference_to,
    referred,
    save_pretrained,
    weights_sha256,
)
from nivesh_lib.models.neural.tokenizer import SubwordTokenizer
from nivesh_lib.models.neural.training import MAX_LENGTH, logits_of, unlabelled
from nivesh_lib.models.text.hinglish import glossed
from nivesh_lib.models.text.linear import linear_weights, softmax

_CACHE: dict[bytes, np.ndarray] | None = None
_ENCODERS: dict[tuple[str, int, bool], FrozenEncoder] = {}


@contextmanager
def cached_features() -> Iterator[None]:
    """Cache encoders of backbones, and the features of every text, within the context.

    Folds and grids over the same texts then cost the regression alone. Keys are digests of encoder
    and text, never texts. Latency must be measured outside the context.
    """
    global _CACHE
    before, _CACHE = _CACHE, {} if _CACHE is None else _CACHE
    try:
        yield
    finally:
        _CACHE = before
        if before is None:
            _ENCODERS.clear()


class FrozenEncoder:
    """Features of a pretrained encoder whose weights are not trained.

    A text's features are the mean of its tokens' input embeddings (lexical), and the mean and the
    maximum of their last hidden states (contextual), each scaled to unit length.

    Parameters
    ----------
    folder : path
        A backbone folder, see `backbones.find_backbone`, or one that `save` wrote.
    max_length : int
        Maximum number of tokens; longer texts are truncated.
    glosses : bool
        Replace Hindi words by English glosses; see `hinglish.glossed`.
    reference : dict, optional
        What `backbones.reference_to` returned: `save` then writes no weights.
    """

    def __init__(
        self,
        folder: Path,
        max_length: int,
        *,
        glosses: bool = True,
        reference: dict[str, Any] | None = None,
    ) -> None:
        self._reference = reference
        self.max_length = max_length
        self.glosses = glosses
        self._network = _features_network(load_encoder(folder))
        self._tokenizer = SubwordTokenizer.from_folder(folder)
        self._source = weights_sha256(folder)

    @classmethod
    def of(cls, backbone: str, max_length: int, *, glosses: bool = True) -> FrozenEncoder:
        """Return the encoder of a backbone; see `backbones.find_backbone`."""
        key = backbone, max_length, glosses
        if key in _ENCODERS:
            return _ENCODERS[key]
        folder, reference = find_backbone(backbone), reference_to(backbone)
        made = cls(folder, max_length, glosses=glosses, reference=reference)
        if _CACHE is not None:
            _ENCODERS[key] = made
        return made

    @classmethod
    def restored(
        cls, directory: Path, state: dict[str, Any], max_length: int, *, glosses: bool = True
    ) -> Self:
        """Return what `save` wrote into a folder and returned."""
        reference = state.get("encoder")
        folder = referred(reference) if reference else directory
        return cls(folder, max_length, glosses=glosses, reference=reference)

    def features(self, texts: list[str]) -> np.ndarray:
        """Return the features of prepared texts, (n, 3 * hidden size) float32."""
        if self.glosses:
            texts = [glossed(text) for text in texts]
        if _CACHE is None:
            return self._compute(texts)
        prefix = f"{self._source} {self.max_length} ".encode()
        keys = [hashlib.sha256(prefix + t.encode("utf-8", "replace")).digest() for t in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in _CACHE}
        if new:
            _CACHE.update(zip(new, self._compute(list(new.values())), strict=True))
        return np.stack([_CACHE[key] for key in keys])

    def _compute(self, texts: list[str]) -> np.ndarray:
        ids = self._tokenizer.encode(texts, self.max_length)
        rows = unlabelled(ids, self._tokenizer.pad_id)
        return logits_of(self._network, rows).astype(np.float32)

    def save(self, directory: Path) -> dict[str, Any]:
        """Write weights and tokenizer into a folder, unless the backbone has a name.

        Returns
        -------
        dict
            What `restored` needs beside the folder: the reference to a backbone with a name.
        """
        if self._reference:
            return {"encoder": self._reference}
        directory.mkdir(exist_ok=True)
        save_pretrained(self._network.encoder, directory)
        self._tokenizer.save(directory / "tokenizer.json")
        return {}


@dataclass(eq=False, repr=False)
class EmbeddingClassifier(TextClassifier):
    """Logistic regression on the features of a `FrozenEncoder`.

    Parameters
    ----------
    backbone : str
        ``minilm``, ``e5``, ``distilbert`` or a folder; see `backbones.find_backbone`.
    C : float
        Inverse regularisation strength of the logistic regression.
    glosses : bool
        Replace Hindi words by English glosses; see `hinglish.glossed`.
    max_length : int
        Maximum number of tokens; longer texts are truncated.
    random_state : int, optional
        Seed of the solver.

    Examples
    --------
    >>> model = EmbeddingClassifier().fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "embedding"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "C": (0.0, 1e12),
        "max_length": MAX_LENGTH,
    }

    backbone: str = "minilm"
    C: float = 10.0
    glosses: bool = True
    max_length: int = 128
    random_state: int | None = 42

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Compute the features and fit the logistic regression."""
        self._check()
        texts, labels = as_training(X, y)
        self.encoder_ = FrozenEncoder.of(self.backbone, self.max_length, glosses=self.glosses)
        features = self.encoder_.features(texts)
        self.centre_ = features.mean(axis=0)
        features -= self.centre_
        # Of unit length on average, so that C and the tolerance mean the same for each encoder. The
        # tolerance is absolute, and gradients get smaller with the number of labels.
        scale = max(float(np.square(features).sum(axis=1).mean()), 1e-12) ** 0.5
        linear = LogisticRegression(
            C=self.C, max_iter=500, tol=1e-4, random_state=self.random_state
        )
        with threadpool_limits(1, user_api="blas"):  # more wait for torch's threads
            linear.fit(features / scale, labels)
        self.classes_ = linear.classes_
        self.coef_, self.intercept_ = linear_weights(linear)
        self.coef_ /= scale
        return self

    def _proba(self, texts: list[str]) -> np.ndarray:
        features = self.encoder_.features(texts) - self.centre_
        return softmax(features @ self.coef_.T + self.intercept_)

    def _dump(self, directory: Path) -> dict[str, Any]:
        state = self.encoder_.save(directory)
        head = {"coef": self.coef_, "intercept": self.intercept_, "centre": self.centre_}
        save_file(head, directory / "head.safetensors")
        return state

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self.encoder_ = FrozenEncoder.restored(
            directory, state, self.max_length, glosses=self.glosses
        )
        head = read_tensors(directory, "head.safetensors")
        self.coef_, self.intercept_ = head["coef"], head["intercept"]
        self.centre_ = head["centre"]


def _features_network(encoder: Any) -> Any:
    import torch
    from torch.nn.functional import normalize

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, ids: Any, mask: Any) -> Any:
            states = self.encoder(
                input_ids=ids, attention_mask=mask, output_hidden_states=True
            ).hidden_states
            weight = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1).to(states[0].dtype)
            means = [(state * weight).sum(dim=1) for state in (states[0], states[-1])]
            padding = (mask == 0).unsqueeze(-1)
            largest = states[-1].masked_fill(padding, float("-inf")).amax(dim=1)
            return torch.cat([normalize(part, dim=1) for part in (*means, largest)], dim=1)

    return Features().eval()
